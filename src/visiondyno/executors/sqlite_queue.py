"""The local queue: a lease queue in one SQLite file, for the processes of one machine.

WAL with synchronous=NORMAL: every commit survives the death of any process; a loss of power may
undo the last ones, for which the store makes good (see `sqlite_schema`).
"""

import json
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from visiondyno.errors import ChildDied
from visiondyno.executors.queue import (
    DEFAULT_RETENTION_S,
    WORKER_EXPIRY_S,
    Bell,
    Claim,
    JobQueue,
    Outcome,
    QueueCounts,
    QueuedJob,
    Topic,
    answer_json,
    backoff_s,
    cancelled_error,
    expired_error,
    lost_job,
    unknown_worker,
)
from visiondyno.executors.sqlite_file import SqliteFile
from visiondyno.executors.sqlite_rows import backoffs, event_of, whole_ms
from visiondyno.executors.workers import WorkerCommand, WorkerInfo
from visiondyno.job import JobAnswer, JobError, JobEvent, JobState

_MOST_EVENTS_AT_ONCE = 5000
_FORGET_AT_ONCE = 5000


class SqliteQueue(JobQueue):
    """`JobQueue` in the file `path`; any number of processes may open it."""

    def __init__(
        self,
        path: Path,
        *,
        retention_s: float = DEFAULT_RETENTION_S,
        clock: Callable[[], float] = time.time,
        boot_id: str | None = None,
    ) -> None:
        """`clock` gives seconds since the epoch, the same in every process."""
        self._retention_s = retention_s
        self._clock = clock
        self._file = SqliteFile(path, boot_id)
        self._db = self._file.connection
        self._read = self._file.read

    # -- writing ---------------------------------------------------------------------------------

    def together(self) -> AbstractContextManager[None]:
        return self._file.together()

    def put(self, jobs: Sequence[QueuedJob]) -> None:
        now = self._clock()
        firsts: dict[str, QueuedJob] = {}
        for job in jobs:
            firsts.setdefault(job.id, job)
        with self.together():
            first = self._next_place(len(firsts), now)
            rows = [
                (
                    job.id,
                    first + count if job.place is None else job.place,
                    int(job.policy.low_priority),
                    job.policy.execution_timeout_ms,
                    None if job.policy.ttl_ms is None else now + job.policy.ttl_ms / 1000,
                    job.max_attempts,
                    now,
                )
                for count, job in enumerate(firsts.values())
            ]
            before = self._db.total_changes
            self._db.executemany(
                "INSERT INTO jobs (id, place, priority, state, execution_timeout_ms, ttl_at,"
                " max_attempts, not_before, created_at, last_number)"
                " VALUES (?, ?, ?, 'IN_QUEUE', ?, ?, ?, 0, ?, 0) ON CONFLICT DO NOTHING",
                rows,
            )
            if self._db.total_changes == before:
                return
            self._db.executemany(
                "INSERT INTO inputs VALUES (?, ?) ON CONFLICT DO NOTHING",
                [(job.id, job.input_json) for job in firsts.values()],
            )
            self._db.executemany(
                "INSERT INTO events (job_id, number, state)"
                " SELECT id, 1, 'IN_QUEUE' FROM jobs WHERE id = ? AND last_number = 0",
                [(row[0],) for row in rows],
            )
            self._db.executemany(
                "UPDATE jobs SET last_number = 1 WHERE id = ? AND last_number = 0",
                [(row[0],) for row in rows],
            )
            self._file.ring("work", "events")

    def claim(self, workers: Sequence[str], lease_s: float) -> list[Claim]:
        if not workers or not self._anything_waits():
            return []
        claims: list[Claim] = []
        with self.together():
            now = self._clock()
            self._expire(now)
            for worker in workers:
                claim = self._claim_next(worker, lease_s, now)
                if claim is None:
                    break
                claims.append(claim)
        return claims

    def _claim_next(self, worker: str, lease_s: float, now: float) -> Claim | None:
        token = secrets.token_hex(8)
        row = self._db.execute(
            "UPDATE jobs SET state = 'IN_PROGRESS', token = ?, worker = ?, lease_until = ?,"
            " claimed_at = ?, started_at = coalesce(started_at, ?), attempt = attempt + 1,"
            " last_number = last_number + 1"
            " WHERE id = (SELECT id FROM jobs WHERE state = 'IN_QUEUE'"
            " AND NOT not_before BETWEEN ? AND ? ORDER BY priority, place LIMIT 1)"
            " RETURNING id, attempt, (SELECT input FROM inputs WHERE job_id = id),"
            " execution_timeout_ms, started_at - created_at, last_number",
            (token, worker, now + lease_s, now, now, *backoffs(now)),
        ).fetchone()
        if row is None:
            return None
        job_id, attempt, input_json, limit_ms, waited_s, number = row
        self._append(job_id, number, JobState.IN_PROGRESS)
        return Claim(job_id, token, worker, attempt, input_json, limit_ms, whole_ms(waited_s))

    def renew(self, claims: Sequence[Claim], lease_s: float) -> list[Claim]:
        if not claims:
            return []
        with self.together():
            until = self._clock() + lease_s
            return [
                claim
                for claim in claims
                if not self._db.execute(
                    "UPDATE jobs SET lease_until = ?"
                    " WHERE id = ? AND token = ? AND state = 'IN_PROGRESS'",
                    (until, claim.job_id, claim.token),
                ).rowcount
            ]

    def report(self, reports: Sequence[tuple[Claim, str]]) -> None:
        if not reports:
            return
        with self.together():
            for claim, progress in reports:
                row = self._db.execute(
                    "UPDATE jobs SET last_number = last_number + 1"
                    " WHERE id = ? AND token = ? AND state = 'IN_PROGRESS' RETURNING last_number",
                    (claim.job_id, claim.token),
                ).fetchone()
                if row is not None:
                    self._append(claim.job_id, row[0], JobState.IN_PROGRESS, progress=progress)

    def finish(self, outcomes: Sequence[tuple[Claim, Outcome]]) -> list[bool]:
        if not outcomes:
            return []
        with self.together():
            return [
                self._end(
                    claim.job_id, outcome.state, answer_json(claim, outcome), token=claim.token
                )
                for claim, outcome in outcomes
            ]

    def give_back(self, claim: Claim, reason: str, *, blameless: bool = False) -> None:
        with self.together():
            row = self._db.execute(
                "SELECT attempt, max_attempts FROM jobs"
                " WHERE id = ? AND token = ? AND state = 'IN_PROGRESS'",
                (claim.job_id, claim.token),
            ).fetchone()
            if row is not None:
                attempt, most = row
                self._give_back(claim.job_id, attempt, most, reason, blameless=blameless)

    def _give_back(
        self, job_id: str, attempt: int, most: int, reason: str, *, blameless: bool
    ) -> None:
        if attempt >= most and not blameless:
            error = ChildDied(f"{reason} It was attempt {attempt} of {most}.")
            self._end_with_error(job_id, JobState.FAILED, JobError.from_exception(error, None))
            return
        pause_s = 0.0 if blameless else backoff_s(attempt)
        (number,) = self._db.execute(
            "UPDATE jobs SET state = 'IN_QUEUE', token = NULL, worker = NULL, lease_until = NULL,"
            " attempt = attempt - ?, not_before = ?, last_number = last_number + 1 WHERE id = ?"
            " RETURNING last_number",
            (int(blameless), self._clock() + pause_s, job_id),
        ).fetchone()
        self._append(job_id, number, JobState.IN_QUEUE)
        self._file.ring("work")

    def cancel(self, job_id: str) -> None:
        with self.together():
            row = self._db.execute("SELECT state FROM jobs WHERE id = ?", (job_id,)).fetchone()
            if row is None:
                raise lost_job(job_id)
            if JobState(row[0]).is_terminal:
                return
            self._end_with_error(job_id, JobState.CANCELLED, cancelled_error())
            self._file.ring("work")

    def sweep(self) -> None:
        with self.together():
            now = self._clock()
            self._expire(now)
            lapsed = self._db.execute(
                "SELECT id, attempt, max_attempts, worker FROM jobs"
                " WHERE state = 'IN_PROGRESS' AND lease_until < ?",
                (now,),
            ).fetchall()
            for job_id, attempt, most, worker in lapsed:
                reason = f"Worker {worker} stopped renewing its lease (killed, or cut off)."
                self._give_back(job_id, attempt, most, reason, blameless=False)
            old = self._db.execute(
                "SELECT id FROM jobs WHERE ended_at < ? LIMIT ?",
                (now - self._retention_s, _FORGET_AT_ONCE),
            ).fetchall()
            self._db.executemany("DELETE FROM events WHERE job_id = ?", old)
            self._db.executemany("DELETE FROM inputs WHERE job_id = ?", old)
            self._db.executemany("DELETE FROM jobs WHERE id = ?", old)
            self._db.execute("DELETE FROM workers WHERE seen_at < ?", (now - 10 * WORKER_EXPIRY_S,))

    def _expire(self, now: float) -> None:
        late = self._db.execute(
            "SELECT id FROM jobs WHERE state = 'IN_QUEUE' AND attempt = 0 AND ttl_at < ?", (now,)
        ).fetchall()
        for (job_id,) in late:
            self._end_with_error(job_id, JobState.TIMED_OUT, expired_error())

    def _end_with_error(self, job_id: str, state: JobState, error: JobError) -> None:
        worker, created, started, claimed = self._db.execute(
            "SELECT worker, created_at, started_at, claimed_at FROM jobs WHERE id = ?", (job_id,)
        ).fetchone()
        now = self._clock()
        answer = JobAnswer(
            id=job_id,
            status=state,
            delay_time_ms=whole_ms((now if started is None else started) - created),
            execution_time_ms=None if claimed is None else whole_ms(now - claimed),
            worker_id=worker,
            error=error,
        )
        self._end(job_id, state, answer.model_dump_json(by_alias=True))

    def _end(self, job_id: str, state: JobState, answer: str, token: str | None = None) -> bool:
        row = self._db.execute(
            "UPDATE jobs SET state = ?1, token = NULL, lease_until = NULL, ended_at = ?2,"
            " last_number = last_number + 1 WHERE id = ?3"
            " AND (?4 IS NULL OR (token = ?4 AND state = 'IN_PROGRESS')) RETURNING last_number",
            (state, self._clock(), job_id, token),
        ).fetchone()
        if row is None:
            return False
        self._append(job_id, row[0], state, answer=answer)
        return True

    def _append(
        self,
        job_id: str,
        number: int,
        state: JobState,
        progress: str | None = None,
        answer: str | None = None,
    ) -> None:
        self._db.execute(
            "INSERT INTO events (job_id, number, state, progress, answer) VALUES (?, ?, ?, ?, ?)",
            (job_id, number, state, progress, answer),
        )
        self._file.ring("events")

    # -- reading ---------------------------------------------------------------------------------

    def events(self, job_id: str, after: int = 0) -> list[JobEvent]:
        rows = self._read(
            "SELECT job_id, number, state, progress, answer FROM events"
            " WHERE job_id = ? AND number > ? ORDER BY number",
            (job_id, after),
        )
        if not rows and not self.known([job_id]):
            raise lost_job(job_id)
        return [event_of(row) for row in rows]

    def feed(self, cursor: str | None) -> tuple[list[JobEvent], str]:
        if cursor is None:
            ((newest,),) = self._read("SELECT coalesce(max(seq), 0) FROM events")
            return [], str(newest)
        rows = self._read(
            "SELECT job_id, number, state, progress, answer, seq FROM events"
            " WHERE seq > ? ORDER BY seq LIMIT ?",
            (int(cursor), _MOST_EVENTS_AT_ONCE),
        )
        return [event_of(row[:5]) for row in rows], str(rows[-1][5]) if rows else cursor

    def known(self, job_ids: Collection[str]) -> set[str]:
        rows = self._read(
            "SELECT id FROM jobs WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps(list(job_ids)),),
        )
        return {row[0] for row in rows}

    def counts(self) -> QueueCounts:
        jobs = dict.fromkeys(JobState, 0)
        for state, count in self._read("SELECT state, count(*) FROM jobs GROUP BY state"):
            jobs[JobState(state)] = count
        now = self._clock()
        ((claimable, oldest),) = self._read(
            "SELECT count(*) FILTER (WHERE NOT not_before BETWEEN ? AND ?), min(created_at)"
            " FROM jobs WHERE state = 'IN_QUEUE'",
            backoffs(now),
        )
        return QueueCounts(jobs, claimable, None if oldest is None else max(0.0, now - oldest))

    def claimable(self, at_most: int) -> int:
        ((count,),) = self._read(
            "SELECT count(*) FROM (SELECT 1 FROM jobs WHERE state = 'IN_QUEUE'"
            " AND NOT not_before BETWEEN ? AND ? LIMIT ?)",
            (*backoffs(self._clock()), at_most),
        )
        return int(count)

    def _anything_waits(self) -> bool:
        """Looked up without the lock for writing: idle supervisors disturb nobody."""
        return bool(self._read("SELECT 1 FROM jobs WHERE state = 'IN_QUEUE' LIMIT 1"))

    # -- workers ---------------------------------------------------------------------------------

    def announce(self, workers: Sequence[WorkerInfo]) -> None:
        rows = [(info.name, self._clock(), json.dumps(info.to_json())) for info in workers]
        with self.together():
            self._db.executemany("INSERT OR REPLACE INTO workers VALUES (?, ?, ?)", rows)

    def withdraw(self, names: Collection[str]) -> None:
        with self.together():
            self._db.executemany("DELETE FROM workers WHERE name = ?", [(name,) for name in names])

    def workers(self) -> list[WorkerInfo]:
        rows = self._read(
            "SELECT info FROM workers WHERE seen_at >= ? ORDER BY name",
            (self._clock() - WORKER_EXPIRY_S,),
        )
        return [WorkerInfo.from_json(json.loads(info)) for (info,) in rows]

    def command(self, worker: str, command: WorkerCommand) -> None:
        if worker not in {info.name for info in self.workers()}:
            raise unknown_worker(worker)
        with self.together():
            self._db.execute("INSERT OR REPLACE INTO commands VALUES (?, ?)", (worker, command))
            self._file.ring("work")

    def take_commands(self, workers: Collection[str]) -> list[tuple[str, WorkerCommand]]:
        if not self._read("SELECT 1 FROM commands LIMIT 1"):
            return []
        with self.together():
            rows = self._db.execute(
                "DELETE FROM commands WHERE worker IN (SELECT value FROM json_each(?))"
                " RETURNING worker, command",
                (json.dumps(list(workers)),),
            ).fetchall()
        return [(worker, WorkerCommand(command)) for worker, command in rows]

    def bell(self, topic: Topic) -> Bell:
        return self._file.bell(topic)

    def close(self) -> None:
        self._db.close()

    def _next_place(self, count: int, now: float) -> int:
        """The first of `count` fresh places in the order: microseconds, growing with each job."""
        (last,) = self._db.execute(
            "UPDATE places SET last = max(last, ?) + ? RETURNING last", (int(now * 1e6), count)
        ).fetchone()
        return int(last) - count + 1
