"""A writing process is killed with SIGKILL: what was acknowledged is there, nothing is half."""

import subprocess
import sys

from visiondyno.job import JobState
from visiondyno.store.sql import open_store

WRITER = """
import sys
from itertools import count
from visiondyno.job import JobAnswer, JobEvent, JobRequest, JobState
from visiondyno.store.records import JobKind, NewJob, Observed
from visiondyno.store.sql import open_store

store = open_store(sys.argv[1], upgrade=True)
request = JobRequest(input={"load": "x" * 20_000}, webhook="https://example.org/hook")
for turn in count():
    ids = [f"{turn:05}-{number}" for number in range(5)]
    store.jobs.add([NewJob(one, "default", JobKind.RUN, request, 1.0) for one in ids])
    observed = []
    for one in ids:
        answer = JobAnswer(id=one, status=JobState.COMPLETED, output={"load": "y" * 20_000})
        for number, state in ((2, JobState.IN_PROGRESS), (3, JobState.COMPLETED)):
            said = answer if state.is_terminal else None
            event = JobEvent(job_id=one, number=number, state=state, answer=said)
            observed.append(Observed(one, 1, event, 2.0))
    store.jobs.record(observed)
    print(turn, flush=True)
"""


def check_crash(url: str) -> None:
    """Kill a writer at some moment, twice, and look at what is there."""
    for turns in (3, 17):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, text=True
        )
        try:
            assert writer.stdout is not None
            told = [int(writer.stdout.readline()) for _ in range(turns)]
        finally:
            writer.kill()
            told += [int(line) for line in writer.communicate()[0].split()]
        with_store(url, told[-1])


def with_store(url: str, last_turn: int) -> None:
    store = open_store(url)
    try:
        store.check()
        jobs = {job.id: job for job in store.jobs.open_jobs()}
        ended = 0
        for turn in range(last_turn + 2):
            ids = [f"{turn:05}-{number}" for number in range(5)]
            states = {job.state for one in ids if (job := store.jobs.get(one))}
            assert len(states) <= 1, "five jobs are written together or not at all"
            if turn <= last_turn:
                assert states == {JobState.COMPLETED}, "what was acknowledged is there"
            for one in ids if states else ():
                job = store.jobs.get(one)
                assert job is not None
                assert [event.event.number for event in store.jobs.events(one)] == list(
                    range(1, job.last_number + 1)
                )
                assert (job.answer is not None) == job.state.is_terminal
                assert (one in jobs) != job.state.is_terminal
                ended += job.state.is_terminal
        hooks = store.webhooks.due(10.0, limit=10**6)
        assert len(hooks) == ended, "a terminal event and its webhook are written together"
        with store.database.write() as connection:
            for name in ("webhooks", "job_events", "job_requests", "jobs"):
                connection.exec_driver_sql(f"DELETE FROM {name}")
    finally:
        store.close()
