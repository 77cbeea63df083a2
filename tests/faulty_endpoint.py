"""An emulated RunPod endpoint that is told to go wrong, and what must be true of it after."""

import json
import os
import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from counted_operations import FOLDER_VARIABLE
from emulated_endpoint import KEY, an_emulator, client, until
from visiondyno.client.client import Client
from visiondyno.emulator.serve import RunningEmulator
from visiondyno.executors.cost import Cost
from visiondyno.job import JobEvent, JobState

TESTS = Path(__file__).parent
PROGRAM = (
    "import sys; from visiondyno.runpod_handler.__main__ import main;"
    " sys.exit(main(entry='counted_operations:run'))"
)
COUNTED_WORKER = [sys.executable, "-c", PROGRAM]
MARK_VARIABLE = "FAULTY_ENDPOINT_MARK"


class FaultyEndpoint:
    """The emulator, its faults, and its record of what happened.

    Args:
        running: the emulator.
        runs: the folder in which each run of an operation leaves a note.
        mark: what the environment of each of its processes has.
    """

    def __init__(self, running: RunningEmulator, runs: Path, mark: str) -> None:
        self.running = running
        self.mark = mark
        self._runs = runs

    @property
    def url(self) -> str:
        return self.running.url

    def client(self, **options: Any) -> Client:
        """One with the endpoint's key and price."""
        given: Any = {"endpoint": self.url, "api_key": KEY, "gpu": "A4000", **options}
        return Client("runpod", **given)

    def arm(self, kind: str, **fault: Any) -> int:
        """Have this go wrong; how many workers it killed."""
        with client(self.running) as http:
            answer = http.post(
                f"{self.running.base_url}/emulator/faults", json={"kind": kind, **fault}
            )
            assert answer.status_code == 200, answer.text
            return int(answer.json()["done"])

    def armed(self) -> list[Any]:
        """Faults that nothing has met yet."""
        return list(self._own("faults")["faults"])

    def bill(self) -> dict[str, Any]:
        """What the workers cost."""
        return dict(self._own("billing"))

    def asked(self, operation: str, status: int | None = None) -> int:
        """How many requests there were, with this status or with any."""
        counts = self._own("requests")["counts"].get(operation, {})
        return sum(n for told, n in counts.items() if status in (None, int(told)))

    def runs_of(self, job_input: Mapping[str, Any]) -> int:
        """How often a worker began this."""
        text = json.dumps(dict(job_input), sort_keys=True)
        return sum(note.read_text() == text for note in self._runs.iterdir())

    def open_jobs(self) -> int:
        """Jobs that wait or run."""
        with client(self.running) as http:
            jobs = http.get("/health").json()["jobs"]
        return int(jobs["inQueue"] + jobs["inProgress"])

    def processes(self) -> list[int]:
        """Every process of its workers, whatever group it is in."""
        return processes_of(self.mark)

    def until_quiet(self) -> dict[str, Any]:
        """Wait until no worker is left; the bill then. Nothing may be open, or be left behind."""
        assert self.open_jobs() == 0
        assert self.armed() == []
        until(lambda: not any(one["is_running"] for one in self.bill()["workers"]))
        until(lambda: not self.processes())
        return self.bill()

    def _own(self, what: str) -> Any:
        with client(self.running) as http:
            return http.get(f"{self.running.base_url}/emulator/{what}").json()


@contextmanager
def faulty_endpoint(folder: Path, **options: Any) -> Iterator[FaultyEndpoint]:
    """One whose workers run `counted_operations`; options are those of `an_emulator`."""
    mark = secrets.token_hex(8)
    runs = folder / "runs"
    runs.mkdir(parents=True)
    given: dict[str, Any] = {
        "environ": worker_environ(folder, mark) | options.pop("environ", {}),
        "workers_max": 1,
        "idle_timeout_s": 1.0,
        **options,
    }
    with an_emulator(folder, COUNTED_WORKER, **given) as running:
        yield FaultyEndpoint(running, runs, mark)
    until(lambda: not processes_of(mark))


def worker_environ(folder: Path, mark: str) -> dict[str, str]:
    """What a worker needs beside what the emulator tells it."""
    return {
        "PYTHONPATH": str(TESTS),
        "VISIONDYNO_HOME": str(folder / "worker"),
        "VISIONDYNO_CONCURRENCY": "1",
        "VISIONDYNO_DRAIN_S": "1",
        "RUNPOD_SKIP_GPU_CHECK": "true",
        FOLDER_VARIABLE: str(folder / "runs"),
        MARK_VARIABLE: mark,
    }


def processes_of(mark: str) -> list[int]:
    """Living processes whose environment has the mark; this one hasn't."""
    text = f"{MARK_VARIABLE}={mark}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal() or int(folder.name) == os.getpid():
            continue
        try:
            is_ours = text in (folder / "environ").read_bytes()
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if is_ours and state != "Z":
            found.append(int(folder.name))
    return found


def ends_right_once(events: list[JobEvent], state: JobState = JobState.COMPLETED) -> None:
    """Numbers without gaps, one terminal event, and that the last, in this state."""
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert [event.state.is_terminal for event in events] == [False] * (len(events) - 1) + [True]
    assert events[-1].state == state


def steps_of(events: list[JobEvent], stage: str = "step") -> list[Any]:
    """What `work` told, in order."""
    told = [event.progress for event in events if event.progress is not None]
    return [one[stage] for one in told if one.get("stage") == stage]


def holds(cost: Cost | None, bill: Mapping[str, Any]) -> None:
    """The bill is within the bounds, to the second and in USD."""
    assert cost is not None
    assert cost.worker_s_at_least <= bill["billed_s"] <= cost.worker_s_at_most
    assert cost.usd_at_least <= bill["usd"] + 1e-9
    assert bill["usd"] <= cost.usd_at_most + 1e-9


def work(name: str, steps: int = 3, **rest: Any) -> dict[str, Any]:
    """A job that tells its steps."""
    return {"operation": "work", "name": name, "steps": steps, **rest}


def raw_submit(url: str, job_input: Mapping[str, Any]) -> str:
    """Submit as somebody else does; the job's id there."""
    headers = {"Authorization": f"Bearer {KEY}"}
    answer = httpx.post(f"{url}/run", json={"input": dict(job_input)}, headers=headers)
    return str(answer.json()["id"])


def now_s() -> float:
    """Of a clock that never goes back."""
    return time.monotonic()
