"""The queue of many machines: a lease queue in one Redis (or Valkey) instance.

Every method is one call of `redis_queue.lua` (what is asked `together` is one call too), so it is
atomic and one round trip, and Redis' own clock is everyone's. The Redis must not evict
(`maxmemory-policy noeviction`). What it loses (a flush, the last second of an append-only file) the
store puts back.

Not covered: Redis Cluster's redirections (all keys have one hash tag: behind a proxy it works).
"""

import json
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

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
    read_answer,
    unknown_worker,
)
from visiondyno.executors.redis_connection import RedisConnection
from visiondyno.executors.workers import WorkerCommand, WorkerInfo
from visiondyno.job import JobEvent, JobState

_ENDED = tuple(state for state in JobState if state.is_terminal)
_FEED_BYTES = 8_000_000
_PAUSES = 10
_LATE = expired_error()


class RedisQueue(JobQueue):
    """`JobQueue` on the Redis at `url`; any number of processes and machines may open it."""

    def __init__(
        self,
        url: str,
        *,
        name: str = "visiondyno",
        result_expiry_s: float = DEFAULT_RETENTION_S,
        clock: Callable[[], float] | None = None,
        feed_length: int = 20_000,
    ) -> None:
        """Nothing is connected yet.

        Args:
            url: `redis://`, `rediss://` or `unix://`.
            name: queues of different names on one Redis know nothing of each other.
            result_expiry_s: how long an ended job is kept.
            clock: seconds since the epoch; None for Redis' own clock.
            feed_length: events that `feed` reaches back, about.

        Raises:
            SpecError: the URL is none of Redis.
        """
        self._prefix = f"{{{name}}}:"
        self._clock = clock
        self._retention_ms = _ms(result_expiry_s)
        self._feed_length = feed_length
        script = files(__package__).joinpath("redis_queue.lua").read_text(encoding="utf-8")
        self._redis = RedisConnection(url, script)
        self._unsent: list[tuple[str, tuple[Any, ...], list[bool] | None]] = []
        self._is_together = False

    @contextmanager
    def together(self) -> Iterator[None]:
        """Answers, reports and returns within go with the next thing asked, in one round trip.

        The list that `finish` gave is filled then, at the latest at the end of the block.
        """
        if self._is_together:
            yield
            return
        self._is_together = True
        try:
            yield
            self._send()
        finally:
            self._is_together = False
            self._unsent.clear()

    def _ask(self, operation: str, *arguments: Any) -> Any:
        self._unsent.append((operation, arguments, None))
        return self._send()[-1]

    def _tell(self, operation: str, *arguments: Any, results: list[bool] | None = None) -> None:
        self._unsent.append((operation, arguments, results))
        if not self._is_together:
            self._send()

    def _send(self) -> list[Any]:
        asked, self._unsent = self._unsent, []
        if not asked:
            return []
        now_ms = "" if self._clock is None else _ms(self._clock())
        sent = [now_ms, self._retention_ms, self._feed_length]
        for operation, arguments, _ in asked:
            sent += (operation, len(arguments), *arguments)
        found: list[Any] = self._redis.run([self._prefix], sent)
        for (_, _, results), one in zip(asked, found, strict=True):
            if results is not None:
                results.extend(map(bool, one))
        return found

    # -- writing ---------------------------------------------------------------------------------

    def put(self, jobs: Sequence[QueuedJob]) -> None:
        if jobs:
            self._ask("put", *_flat(map(_put_arguments, jobs)))

    def claim(self, workers: Sequence[str], lease_s: float) -> list[Claim]:
        if not workers:
            return []
        wanted = ((worker, secrets.token_hex(8)) for worker in workers)
        found = self._ask("claim", _ms(lease_s), _LATE.model_dump_json(), *_flat(wanted))
        return [
            Claim(job_id, token, worker, attempt, text, int(limit) if limit else None, int(delay))
            for job_id, token, worker, attempt, text, limit, delay in found
        ]

    def renew(self, claims: Sequence[Claim], lease_s: float) -> list[Claim]:
        if not claims:
            return []
        wanted = ((claim.job_id, claim.token) for claim in claims)
        held = self._ask("renew", _ms(lease_s), *_flat(wanted))
        return [claim for claim, is_held in zip(claims, held, strict=True) if not is_held]

    def report(self, reports: Sequence[tuple[Claim, str]]) -> None:
        if reports:
            said = ((claim.job_id, claim.token, progress) for claim, progress in reports)
            self._tell("report", *_flat(said))

    def finish(self, outcomes: Sequence[tuple[Claim, Outcome]]) -> list[bool]:
        if not outcomes:
            return []
        answers = (
            (claim.job_id, claim.token, outcome.state.value, answer_json(claim, outcome))
            for claim, outcome in outcomes
        )
        written: list[bool] = []
        self._tell("finish", *_flat(answers), results=written)
        return written

    def give_back(self, claim: Claim, reason: str, *, blameless: bool = False) -> None:
        pause_ms = 0 if blameless else _ms(backoff_s(claim.attempt))
        self._tell("give_back", claim.job_id, claim.token, reason, pause_ms, int(blameless))

    def cancel(self, job_id: str) -> None:
        if not self._ask("cancel", job_id, cancelled_error().model_dump_json()):
            raise lost_job(job_id)

    def sweep(self) -> None:
        pauses_ms = [_ms(backoff_s(attempt)) for attempt in range(1, _PAUSES + 1)]
        self._ask("sweep", _LATE.model_dump_json(), _ms(WORKER_EXPIRY_S), *pauses_ms)

    # -- reading ---------------------------------------------------------------------------------

    def events(self, job_id: str, after: int = 0) -> list[JobEvent]:
        found = self._ask("events", job_id, after)
        if found is None:
            raise lost_job(job_id)
        return [_event(job_id, after + place, text) for place, text in enumerate(found, start=1)]

    def feed(self, cursor: str | None) -> tuple[list[JobEvent], str]:
        """As the seam says, at most about 8 MB at once: ask until nothing comes.

        A cursor older than `feed_length` events, or from before a flush, gets what there is: the
        events between are missing here and found by `events`.
        """
        before = cursor or ""
        while True:
            newest, *found = self._ask("feed", before, _FEED_BYTES)
            if found or newest == before or cursor is None:
                break
            before = newest  # all of these jobs were forgotten already
        triples = zip(found[::3], found[1::3], found[2::3], strict=True)
        return [_event(job_id, int(number), text) for number, job_id, text in triples], newest

    def known(self, job_ids: Collection[str]) -> set[str]:
        if not job_ids:
            return set()
        asked = list(job_ids)
        found = self._ask("known", *asked)
        return {job_id for job_id, is_known in zip(asked, found, strict=True) if is_known}

    def counts(self) -> QueueCounts:
        claimable, oldest_ms, waiting, running, *ended = self._ask("counts", *_ENDED)
        jobs = {JobState.IN_QUEUE: waiting, JobState.IN_PROGRESS: running}
        jobs.update(zip(_ENDED, ended, strict=True))
        oldest_s = max(0, int(oldest_ms)) / 1000 if oldest_ms else None
        return QueueCounts(jobs, claimable, oldest_s)

    # -- workers ---------------------------------------------------------------------------------

    def announce(self, workers: Sequence[WorkerInfo]) -> None:
        if workers:
            told = ((info.name, json.dumps(info.to_json())) for info in workers)
            self._ask("announce", *_flat(told))

    def withdraw(self, names: Collection[str]) -> None:
        if names:
            self._ask("withdraw", *names)

    def workers(self) -> list[WorkerInfo]:
        found = self._ask("workers", _ms(WORKER_EXPIRY_S))
        told = [WorkerInfo.from_json(json.loads(text)) for text in found]
        return sorted(told, key=lambda info: info.name)

    def command(self, worker: str, command: WorkerCommand) -> None:
        if not self._ask("command", _ms(WORKER_EXPIRY_S), worker, command.value):
            raise unknown_worker(worker)

    def take_commands(self, workers: Collection[str]) -> list[tuple[str, WorkerCommand]]:
        if not workers:
            return []
        found = self._ask("take_commands", *workers)
        pairs = zip(found[::2], found[1::2], strict=True)
        return [(worker, WorkerCommand(command)) for worker, command in pairs]

    def bell(self, topic: Topic) -> Bell:
        """As the seam says; it rings for the first change after somebody looked.

        Who looks: `feed` for events; for work a `claim` that got fewer jobs than it has workers.
        """
        bell = self._redis.listen(f"{self._prefix}bell:{topic}")
        self._ask("arm", topic)
        return bell

    def close(self) -> None:
        self._redis.close()


def _put_arguments(job: QueuedJob) -> tuple[Any, ...]:
    policy = job.policy
    limit_ms = "" if policy.execution_timeout_ms is None else policy.execution_timeout_ms
    ttl_ms = "" if policy.ttl_ms is None else policy.ttl_ms
    place = "" if job.place is None else job.place
    low = int(policy.low_priority)
    return job.id, job.input_json, limit_ms, ttl_ms, low, job.max_attempts, place


def _event(job_id: str, number: int, text: str) -> JobEvent:
    """An event as `redis_queue.lua` keeps it: STATE, STATE pPROGRESS or STATE aANSWER."""
    state, _, rest = text.partition(" ")
    answer = read_answer(job_id, rest[1:]) if rest.startswith("a") else None
    return JobEvent(
        job_id=job_id,
        number=number,
        state=JobState(state) if answer is None else answer.status,
        progress=json.loads(rest[1:]) if rest.startswith("p") else None,
        answer=answer,
    )


def _flat(rows: Iterable[Iterable[Any]]) -> list[Any]:
    return [value for row in rows for value in row]


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
