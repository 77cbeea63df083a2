"""However a process that has a job on an endpoint ends, the endpoint runs nothing for it after."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from emulated_endpoint import HANDLER, KEY, an_emulator, client, until
from visiondyno.emulator.serve import RunningEmulator

_TRAIN = """
from visiondyno.cli import main
main(["train", "--model", "torchvision:resnet18", "--data", "digits:train:8", "--on", "runpod",
      "--gpu", "A4000", "--max-cost", "1", "--time-limit", "300", "--out", "training"])
"""
_SCRIPT = """
import sys
from visiondyno import Client
client = Client("runpod")
job_id = client.submit({"operation": "any"}, policy={"executionTimeout": 300_000})
"""
_LONGEST_S = 120


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEmulator]:
    """Its worker takes every job and ends none."""
    if not os.environ.get("CI"):
        pytest.importorskip("runpod", reason="the extra 'runpod' isn't installed")
    with an_emulator(
        tmp_path_factory.mktemp("logs"),
        [sys.executable, str(HANDLER), "forever"],
        workers_min=1,
        workers_max=1,
        ping_interval_s=1.0,
        missed_pings=60,
        shortest_execution_timeout_ms=1,
    ) as running:
        yield running


@pytest.fixture
def http(endpoint: RunningEmulator) -> Iterator[httpx.Client]:
    with client(endpoint) as http:
        yield http


def started(
    endpoint: RunningEmulator, folder: Path, program: str, *before: str
) -> "subprocess.Popen[str]":
    """A process that runs the program, with the endpoint in its environment."""
    environ = {
        **os.environ,
        "VISIONDYNO_HOME": str(folder / "home"),
        "RUNPOD_ENDPOINT_ID": endpoint.url,
        "RUNPOD_API_KEY": KEY,
    }
    return subprocess.Popen(
        [*before, sys.executable, "-c", program],
        cwd=folder,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def open_jobs(http: httpx.Client) -> int:
    """Jobs that wait or run."""
    jobs: dict[str, int] = http.get("/health").json()["jobs"]
    return jobs["inProgress"] + jobs["inQueue"]


def ended_by(process: "subprocess.Popen[str]", http: httpx.Client, *numbers: int) -> str:
    """What a process said that was sent these signals while the endpoint ran its job."""
    try:
        until(lambda: http.get("/health").json()["jobs"]["inProgress"] == 1)
        for number in numbers:
            process.send_signal(number)
        said, _ = process.communicate(timeout=_LONGEST_S)
    finally:
        process.kill()
        process.communicate()
    return said


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [
        (signal.SIGINT, 130, "Interrupted"),
        (signal.SIGTERM, 143, "Terminated"),
        (signal.SIGHUP, 129, "Terminated"),
    ],
    ids=["int", "term", "hup"],
)
def test_a_training_that_a_signal_ends_leaves_no_job(
    endpoint: RunningEmulator,
    http: httpx.Client,
    tmp_path: Path,
    number: signal.Signals,
    code: int,
    word: str,
) -> None:
    process = started(endpoint, tmp_path, _TRAIN)
    said = ended_by(process, http, number)
    assert open_jobs(http) == 0, "by when the process has ended"
    assert process.returncode == code, said
    assert f"{word}; everything it started was stopped." in said
    assert "Traceback" not in said


def test_what_was_told_to_outlive_its_terminal_does(
    endpoint: RunningEmulator, http: httpx.Client, tmp_path: Path
) -> None:
    ignoring = ("sh", "-c", 'trap "" HUP; exec "$@"', "sh")
    process = started(endpoint, tmp_path, _TRAIN, *ignoring)
    ended_by(process, http, signal.SIGHUP, signal.SIGTERM)
    assert process.returncode == 143, "129 would be the hang-up"
    assert open_jobs(http) == 0


@pytest.mark.parametrize(
    ("ending", "code"),
    [("", 0), ("sys.exit(3)", 3), ("raise ValueError('x')", 1), ("client.close()", 0)],
    ids=["end-of-file", "exit", "exception", "close"],
)
def test_a_script_that_ends_leaves_no_job(
    endpoint: RunningEmulator, http: httpx.Client, tmp_path: Path, ending: str, code: int
) -> None:
    process = started(endpoint, tmp_path, _SCRIPT + ending)
    said, _ = process.communicate(timeout=_LONGEST_S)
    assert process.returncode == code, said
    assert open_jobs(http) == 0
    assert endpoint.emulator.requests.count("cancel", 200) >= 1


def test_a_script_that_is_interrupted_leaves_no_job(
    endpoint: RunningEmulator, http: httpx.Client, tmp_path: Path
) -> None:
    process = started(endpoint, tmp_path, _SCRIPT + "client.result(job_id)")
    said = ended_by(process, http, signal.SIGINT)
    assert process.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in said
    assert open_jobs(http) == 0


def test_the_job_of_a_script_that_is_killed_ends_at_its_time_limit(
    endpoint: RunningEmulator, http: httpx.Client, tmp_path: Path
) -> None:
    """Python's own default: SIGTERM ends it at once, and nobody is left to cancel anything."""
    script = _SCRIPT.replace("300_000", "6_000") + "client.result(job_id)"
    process = started(endpoint, tmp_path, script)
    ended_by(process, http, signal.SIGTERM)
    assert process.returncode == -signal.SIGTERM
    assert open_jobs(http) == 1
    until(lambda: open_jobs(http) == 0)


def test_a_script_that_makes_an_exit_of_sigterm_leaves_no_job(
    endpoint: RunningEmulator, http: httpx.Client, tmp_path: Path
) -> None:
    """As docs/runpod.md advises."""
    # First of all: the signal comes as soon as the endpoint has the job.
    exits = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))"
    process = started(endpoint, tmp_path, f"{exits}\n{_SCRIPT}client.result(job_id)")
    said = ended_by(process, http, signal.SIGTERM)
    assert process.returncode == 143, said
    assert open_jobs(http) == 0
