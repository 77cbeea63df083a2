"""Jobs and their events in SQL."""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import (
    Connection,
    Select,
    and_,
    bindparam,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from visiondyno.job import JobState
from visiondyno.store.base import JobStore
from visiondyno.store.codec import (
    answer_json,
    job_record,
    optional_json,
    recorded_event,
    request_json,
)
from visiondyno.store.database import BatchStatement, Database
from visiondyno.store.records import JobFilter, JobRecord, NewJob, Observed, RecordedEvent
from visiondyno.store.standing import CHANGING, COLUMNS, Standing
from visiondyno.store.tables import (
    RETRIED,
    idempotency_keys,
    job_events,
    job_requests,
    jobs,
    webhooks,
)

_OPEN = [state.value for state in JobState if not state.is_terminal]
_IDS_AT_ONCE = 5_000  # databases limit the parameters of one statement

_RECORDS: Select[Any] = (
    select(jobs, job_requests.c.request, job_events.c.answer)
    .join(job_requests, job_requests.c.job_id == jobs.c.id)
    .outerjoin(
        job_events,
        and_(job_events.c.job_id == jobs.c.id, job_events.c.number == jobs.c.last_number),
    )
)
# In the order of ids, so that two processes that lock the same rows don't wait for each other.
_STANDINGS = (
    select(*(jobs.c[name] for name in COLUMNS))
    .where(jobs.c.id.in_(bindparam("ids", expanding=True)))
    .order_by(jobs.c.id)
    .with_for_update()
)


class SqlJobStore(JobStore):
    """Jobs in the tables `jobs`, `job_requests`, `job_events` and `idempotency_keys`.

    `clock` gives seconds since the epoch, for what the store itself notes.
    """

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        dialect = database.engine.dialect
        self._insert_jobs = BatchStatement(insert(jobs), dialect)
        self._insert_requests = BatchStatement(insert(job_requests), dialect)
        self._insert_events = BatchStatement(insert(job_events), dialect)
        self._update_jobs = BatchStatement(
            update(jobs).where(jobs.c.id == bindparam("key")),
            dialect,
            CHANGING,
        )
        self._insert_webhooks = BatchStatement(
            insert(webhooks), dialect, ["id", "job_id", "number", "url", "attempts", "next_at"]
        )
        self._insert_new = sqlite.insert if database.is_sqlite else postgresql.insert

    def add(self, jobs: Sequence[NewJob]) -> None:
        rows = [_job_row(job) for job in jobs]
        requests = [{"job_id": job.id, "request": request_json(job.request)} for job in jobs]
        events = [_first_event_row(job) for job in jobs]
        with self._database.write() as connection:
            self._insert_jobs.run(connection, rows)
            self._insert_requests.run(connection, requests)
            self._insert_events.run(connection, events)

    def record(self, observed: Sequence[Observed]) -> list[RecordedEvent]:
        recorded = []
        with self._database.write() as connection:
            standings = _standings(connection, {one.job_id for one in observed})
            for one in observed:
                standing = standings.get(one.job_id)
                if standing is not None and (event := standing.observe(one)) is not None:
                    recorded.append(event)
            self._save(connection, standings, recorded)
        return recorded

    def get(self, job_id: str) -> JobRecord | None:
        with self._database.read() as connection:
            return _get(connection, job_id)

    def find(self, wanted: JobFilter) -> list[JobRecord]:
        query = _RECORDS.order_by(jobs.c.created_at.desc(), jobs.c.id.desc()).limit(wanted.limit)
        if wanted.endpoint is not None:
            query = query.where(jobs.c.endpoint == wanted.endpoint)
        if wanted.kind is not None:
            query = query.where(jobs.c.kind == wanted.kind.value)
        if wanted.state is not None:
            query = query.where(jobs.c.state == wanted.state.value)
        if wanted.owner is not None:
            query = query.where(jobs.c.owner == wanted.owner)
        if wanted.before is not None:
            query = query.where(jobs.c.created_at < wanted.before)
        with self._database.read() as connection:
            return [job_record(row) for row in connection.execute(query)]

    def open_jobs(self) -> list[JobRecord]:
        query = _RECORDS.where(jobs.c.state.in_(_OPEN)).order_by(jobs.c.created_at, jobs.c.id)
        with self._database.read() as connection:
            return [job_record(row) for row in connection.execute(query)]

    def count_open(self) -> int:
        query = select(func.count()).select_from(jobs).where(jobs.c.state.in_(_OPEN))
        with self._database.read() as connection:
            return connection.execute(query).scalar_one()

    def counts(self, endpoint: str | None = None) -> dict[JobState, int]:
        query = select(jobs.c.state, func.count()).group_by(jobs.c.state)
        if endpoint is not None:
            query = query.where(jobs.c.endpoint == endpoint)
        with self._database.read() as connection:
            found = {JobState(state): count for state, count in connection.execute(query)}
        return {state: found.get(state, 0) for state in JobState}

    def oldest_waiting(self) -> float | None:
        query = select(func.min(jobs.c.created_at)).where(jobs.c.state == JobState.IN_QUEUE.value)
        with self._database.read() as connection:
            return connection.execute(query).scalar()

    def count_retried(self, endpoint: str) -> int:
        query = select(func.count()).select_from(jobs).where(jobs.c.endpoint == endpoint, RETRIED)
        with self._database.read() as connection:
            return connection.execute(query).scalar_one()

    def events(self, job_id: str, after: int = 0) -> list[RecordedEvent]:
        query = (
            select(job_events)
            .where(job_events.c.job_id == job_id, job_events.c.number > after)
            .order_by(job_events.c.number)
        )
        with self._database.read() as connection:
            return [recorded_event(row) for row in connection.execute(query)]

    def put_back(self, job_id: str, lost_dispatch: int) -> JobRecord | None:
        now = self._clock()
        return self._change(job_id, lambda job: job.put_back(lost_dispatch, now))[0]

    def retry(self, job_id: str, at: float) -> JobRecord | None:
        return self._change(job_id, lambda job: job.retry(at))[0]

    def request_cancel(self, job_id: str) -> JobRecord | None:
        with self._database.write() as connection:
            wanted = update(jobs).where(jobs.c.id == job_id).values(cancel_requested=True)
            connection.execute(wanted)
            return _get(connection, job_id)

    def end_unsent(
        self, job_id: str, state: JobState, code: str, message: str, at: float
    ) -> RecordedEvent | None:
        events = self._change(job_id, lambda job: job.end_unsent(state, code, message, at))[1]
        return events[0] if events else None

    def remember_request(
        self, scope: str, key: str, digest: str, answer_id: str, at: float
    ) -> tuple[str, str]:
        names = idempotency_keys.c
        wanted = self._insert_new(idempotency_keys).on_conflict_do_nothing()
        bound = {"scope": scope, "key": key, "digest": digest, "answer_id": answer_id}
        query = select(names.digest, names.answer_id).where(names.scope == scope, names.key == key)
        with self._database.write() as connection:
            connection.execute(wanted, {**bound, "bound_at": at})
            row = connection.execute(query).one()
        return row.digest, row.answer_id

    def forget_requests(self, before: float) -> int:
        old = delete(idempotency_keys).where(idempotency_keys.c.bound_at < before)
        with self._database.write() as connection:
            return connection.execute(old).rowcount

    def _change(
        self, job_id: str, change: Callable[[Standing], list[RecordedEvent] | None]
    ) -> tuple[JobRecord | None, list[RecordedEvent]]:
        """One job changed and its new events, or (None, []) where the change found no cause."""
        with self._database.write() as connection:
            standings = _standings(connection, [job_id])
            events = change(standings[job_id]) if standings else None
            if events is None:
                return None, []
            self._save(connection, standings, events)
            return _get(connection, job_id), events

    def _save(
        self,
        connection: Connection,
        standings: dict[str, Standing],
        recorded: Iterable[RecordedEvent],
    ) -> None:
        changed = [job.to_row() for job in standings.values() if job.changed]
        self._update_jobs.run(connection, changed)
        events = [_event_row(one) for one in recorded]
        self._insert_events.run(connection, events)
        due = [
            _webhook_row(event, url)
            for event in events
            if event["answer"] is not None and (url := standings[event["job_id"]].webhook)
        ]
        self._insert_webhooks.run(connection, due)


def _standings(connection: Connection, job_ids: Collection[str]) -> dict[str, Standing]:
    """The jobs' standings by id, locked until the transaction ends; unknown ids are left out."""
    ids = sorted(job_ids)
    found: dict[str, Standing] = {}
    for start in range(0, len(ids), _IDS_AT_ONCE):
        chunk = ids[start : start + _IDS_AT_ONCE]
        for row in connection.execute(_STANDINGS, {"ids": chunk}):
            found[row[0]] = Standing.from_row(row)
    return found


def _get(connection: Connection, job_id: str) -> JobRecord | None:
    row = connection.execute(_RECORDS.where(jobs.c.id == job_id)).first()
    return None if row is None else job_record(row)


def _job_row(job: NewJob) -> dict[str, Any]:
    return {
        "id": job.id,
        "endpoint": job.endpoint,
        "kind": job.kind.value,
        "state": JobState.IN_QUEUE.value,
        "created_at": job.created_at,
        "started_at": None,
        "ended_at": None,
        "dispatch": 1,
        "seen": 0,
        "first_number": 1,
        "last_number": 1,
        "attempts": 0,
        "worker_id": None,
        "progress": None,
        "cancel_requested": False,
        "webhook": job.request.webhook,
        "owner": job.owner,
    }


def _first_event_row(job: NewJob) -> dict[str, Any]:
    state, at = JobState.IN_QUEUE.value, job.created_at
    row = {"job_id": job.id, "number": 1, "state": state, "at": at}
    return {**row, "progress": None, "answer": None}


def _event_row(recorded: RecordedEvent) -> dict[str, Any]:
    event = recorded.event
    return {
        "job_id": event.job_id,
        "number": event.number,
        "state": event.state.value,
        "at": recorded.at,
        "progress": optional_json(event.progress),
        "answer": None if event.answer is None else answer_json(event.answer),
    }


def _webhook_row(event: dict[str, Any], url: str) -> dict[str, Any]:
    job_id, number = event["job_id"], event["number"]
    row = {"id": f"msg_{job_id}_{number}", "job_id": job_id, "number": number, "url": url}
    return {**row, "attempts": 0, "next_at": event["at"]}
