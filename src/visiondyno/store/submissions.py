"""Submissions in SQL."""

from typing import Any

from sqlalchemy import Row, Select, delete, func, select

from visiondyno.store.base import SubmissionStore
from visiondyno.store.codec import json_text, optional_value
from visiondyno.store.database import Database
from visiondyno.store.records import SubmissionRecord, SubmissionState
from visiondyno.store.tables import submissions
from visiondyno.store.upsert import columns_of, save


class SqlSubmissionStore(SubmissionStore):
    """Submissions in the table `submissions`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save(self, submission: SubmissionRecord) -> None:
        row = columns_of(submissions, submission) | {
            "state": submission.state.value,
            "metrics": json_text(submission.metrics),
        }
        save(self._database, submissions, row)

    def get(self, submission_id: str) -> SubmissionRecord | None:
        found = self._found(select(submissions).where(submissions.c.id == submission_id))
        return found[0] if found else None

    def of_job(self, job_id: str) -> SubmissionRecord | None:
        found = self._found(select(submissions).where(submissions.c.job_id == job_id))
        return found[0] if found else None

    def find(
        self, task: str | None = None, owner: str | None = None, limit: int = 100
    ) -> list[SubmissionRecord]:
        newest = (submissions.c.created_at.desc(), submissions.c.id.desc())
        query = select(submissions).order_by(*newest).limit(limit)
        if task is not None:
            query = query.where(submissions.c.task == task)
        if owner is not None:
            query = query.where(submissions.c.owner == owner)
        return self._found(query)

    def ranked(self, task: str) -> list[SubmissionRecord]:
        completed = submissions.c.state == SubmissionState.COMPLETED.value
        return self._found(select(submissions).where(submissions.c.task == task, completed))

    def count_since(self, task: str, owner: str | None, since: float) -> int:
        query = select(func.count()).where(
            submissions.c.task == task,
            submissions.c.owner.is_(None) if owner is None else submissions.c.owner == owner,
            submissions.c.created_at >= since,
        )
        with self._database.read() as connection:
            return connection.execute(query).scalar_one()

    def delete(self, submission_id: str) -> bool:
        wanted = delete(submissions).where(submissions.c.id == submission_id)
        with self._database.write() as connection:
            return connection.execute(wanted).rowcount > 0

    def _found(self, query: Select[Any]) -> list[SubmissionRecord]:
        with self._database.read() as connection:
            return [_record(row) for row in connection.execute(query)]


def _record(row: Row[Any]) -> SubmissionRecord:
    values = dict(row._mapping)
    values["state"] = SubmissionState(row.state)
    values["metrics"] = optional_value(row.metrics)
    return SubmissionRecord(**values)
