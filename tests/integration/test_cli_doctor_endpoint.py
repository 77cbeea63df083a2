"""`dyno doctor --endpoint`: passes at an endpoint that trains, and says what to do at others."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result

from emulated_endpoint import HANDLER, KEY, QUIET_WORKER, an_emulator, client, until
from visiondyno.cli import doctor, doctor_endpoint
from visiondyno.emulator.serve import RunningEmulator
from visiondyno.errors import (
    Forbidden,
    NotFound,
    RateLimited,
    SpecError,
    TransportDown,
    VisionDynoError,
)

STEPS = ["connectivity", "one epoch", "evaluate", "3 epochs", "versions", "same numbers"]


def examined(running: RunningEmulator, *options: str, key: str = KEY) -> Result:
    """What the command says; its exit code is the result's `return_value`."""
    environ = {"RUNPOD_ENDPOINT_ID": running.url, "RUNPOD_API_KEY": key, "COLUMNS": "300"}
    arguments = ["--endpoint", *options]
    return CliRunner().invoke(doctor.command, arguments, env=environ, standalone_mode=False)


def open_jobs(running: RunningEmulator) -> int:
    with client(running) as http:
        jobs: dict[str, int] = http.get("/health").json()["jobs"]
    return jobs["inProgress"] + jobs["inQueue"]


def wait_for_worker(running: RunningEmulator) -> None:
    with client(running) as http:
        until(lambda: http.get("/health").json()["workers"]["idle"])


@pytest.fixture(scope="module", autouse=True)
def runpod_package() -> None:
    if not os.environ.get("CI"):
        pytest.importorskip("runpod", reason="the extra 'runpod' isn't installed")


@pytest.fixture(scope="module")
def trains(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEmulator]:
    folder = tmp_path_factory.mktemp("logs")
    command = [sys.executable, "-m", "visiondyno.runpod_handler"]
    environ = {"VISIONDYNO_HOME": str(folder), "VISIONDYNO_CONCURRENCY": "1"}
    with an_emulator(
        folder, command, workers_min=1, workers_max=1, environ=environ, idle_timeout_s=600.0
    ) as running:
        yield running


@pytest.fixture(scope="module")
def hangs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEmulator]:
    """Its worker takes every job and ends none."""
    with an_emulator(
        tmp_path_factory.mktemp("logs"),
        [sys.executable, str(HANDLER), "forever"],
        workers_min=1,
        workers_max=1,
        ping_interval_s=1.0,
        missed_pings=60,
    ) as running:
        yield running


@pytest.mark.torch
@pytest.mark.slow
def test_an_endpoint_that_trains_passes(trains: RunningEmulator) -> None:
    result = examined(trains, "--gpu", "A4000")
    assert result.return_value == 0, result.output
    *lines, last = result.stdout.splitlines()
    assert [line[:15].rstrip() for line in lines] == [f"✓ {what}" for what in STEPS]
    for line in lines[1:4]:
        assert re.search(r"waited [\d.]+ s, ran [\d.]+ s, on worker \w{14}, for 0\.0", line)
    assert "told in order" in lines[3]
    assert "they differ by 0" in lines[5], "both are this machine's processor"
    assert re.fullmatch(r"Passed: http.* it cost 0\.\d+ to 0\.\d+ USD \(estimated: .*", last)


@pytest.mark.torch
def test_what_cannot_be_compared_is_said(
    trains: RunningEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_endpoint.importlib.util, "find_spec", lambda _: None)
    found = json.loads(examined(trains, "--json").stdout)
    assert found["passed"]
    assert [step["what"] for step in found["steps"]] == STEPS
    assert found["steps"][-1]["detail"] == "not compared: torch isn't installed here"
    assert found["conclusion"].endswith("what it cost isn't known without --gpu.")


@pytest.mark.torch
def test_other_versions_and_other_numbers_fail(
    trains: RunningEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(doctor_endpoint, "__version__", "9.9")
        result = examined(trains)
    assert result.return_value == 1
    assert "✗ versions" in result.stdout
    assert "and here is 9.9" in result.stdout
    assert "deploy this version" in result.stdout.splitlines()[-1]
    monkeypatch.setattr(doctor_endpoint, "CPU_TOLERANCE", -1.0)
    result = examined(trains)
    assert result.return_value == 1
    assert "they differ by 0 from those of the same jobs run here" in result.stdout


@pytest.mark.parametrize(
    ("there", "here", "expected"),
    [
        ({"loss": 0.5}, {"loss": 0.5}, 0.0),
        ({"loss": 0.5}, {"loss": 0.6}, 0.1),
        ([{"a": [200.0, 1]}], [{"a": [100.0, 1]}], 1.0),
        ({"loss": 0.5}, {"accuracy": 0.5}, float("inf")),
        ([1.0], [1.0, 2.0], float("inf")),
        (float("nan"), 1.0, float("inf")),
        ("x", 1.0, float("inf")),
        ({}, {}, 0.0),
    ],
    ids=["equal", "small", "nested", "keys", "length", "nan", "kind", "empty"],
)
def test_the_largest_difference(there: object, here: object, expected: float) -> None:
    assert doctor_endpoint.largest_difference(there, here) == pytest.approx(expected)


def test_a_wrong_key_and_an_unknown_endpoint(hangs: RunningEmulator) -> None:
    wrong = examined(hangs, key="another")
    assert wrong.return_value == 1
    assert wrong.stdout.startswith("✗ connectivity")
    assert "--api-key KEY, or RUNPOD_API_KEY" in wrong.stdout.splitlines()[-1]
    assert examined(hangs, "--api-key", KEY, "--time-limit", "0", key="another").return_value == 1
    unknown = CliRunner().invoke(
        doctor.command,
        ["--endpoint", f"{hangs.base_url}/v2/other", "--api-key", KEY],
        standalone_mode=False,
    )
    assert unknown.return_value == 1
    assert "check the endpoint's id" in unknown.stdout.splitlines()[-1]
    impossible = CliRunner().invoke(doctor.command, ["--endpoint", "a/b"], standalone_mode=False)
    assert isinstance(impossible.exception, SpecError)


def test_a_key_of_a_server_never_goes_to_an_endpoint(hangs: RunningEmulator) -> None:
    environ = {"VISIONDYNO_API_KEY": KEY, "RUNPOD_API_KEY": "another"}
    result = CliRunner().invoke(
        doctor.command, ["--endpoint", hangs.url], env=environ, standalone_mode=False
    )
    assert result.return_value == 1
    assert "401" in result.stdout


def test_no_worker_comes_up(tmp_path: Path) -> None:
    with an_emulator(tmp_path, QUIET_WORKER) as running:
        result = examined(running, "--time-limit", "0.3")
        assert result.return_value == 1
        assert "no worker took the job within 0.3 s" in result.stdout
        last = result.stdout.splitlines()[-1]
        assert "a GPU is available" in last
        assert "max workers" in last
        assert open_jobs(running) == 0


def test_a_job_that_never_ends_is_stopped(hangs: RunningEmulator) -> None:
    wait_for_worker(hangs)
    result = examined(hangs, "--time-limit", "4")
    assert "a worker has the job and didn't end it within 4 s" in result.stdout
    assert open_jobs(hangs) == 0


def test_a_handler_of_another_kind(tmp_path: Path) -> None:
    command = [sys.executable, str(HANDLER), "plain"]
    with an_emulator(tmp_path, command) as running:
        result = examined(running)
        assert result.return_value == 1
        assert "the answer isn't VisionDyno's: it has ['said', 'worker']" in result.stdout
        assert "dyno deploy runpod" in result.stdout.splitlines()[-1]


def test_a_handlers_error_is_shown(tmp_path: Path) -> None:
    entry = "from visiondyno.runpod_handler.__main__ import main; main('emulated_handler:refuse')"
    environ = {"VISIONDYNO_HOME": str(tmp_path), "PYTHONPATH": str(HANDLER.parent)}
    with an_emulator(tmp_path, [sys.executable, "-c", entry], environ=environ) as running:
        result = examined(running)
    assert result.return_value == 1
    assert "✗ one epoch" in result.stdout
    assert "Nothing is trained here." in result.stdout
    assert "the worker's log" in result.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["int", "term"]
)
def test_an_examination_that_is_interrupted_leaves_no_job(
    hangs: RunningEmulator, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    environ = {**os.environ, "VISIONDYNO_HOME": str(tmp_path), "RUNPOD_API_KEY": KEY}
    program = "from visiondyno.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "doctor", "--endpoint", hangs.url],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        headers = {"Authorization": f"Bearer {KEY}"}
        health = f"{hangs.url}/health"
        until(lambda: httpx.get(health, headers=headers).json()["jobs"]["inProgress"] == 1)
        process.send_signal(number)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == code, said
    assert "everything it started was stopped" in said
    assert open_jobs(hangs) == 0


@pytest.mark.parametrize(
    ("what", "error", "says"),
    [
        ("connectivity", Forbidden("No."), "may use this endpoint"),
        ("one epoch", RateLimited("No."), "wait a minute"),
        ("one epoch", TransportDown("No."), "dyno emulate runpod"),
        ("one epoch", NotFound("No."), "the worker's log"),
        ("connectivity", NotFound("No."), "id or URL"),
    ],
    ids=["forbidden", "rate", "down", "of-the-job", "no-endpoint"],
)
def test_what_to_do_follows_from_the_error(what: str, error: VisionDynoError, says: str) -> None:
    async def fail() -> str:
        raise error

    step = asyncio.run(doctor_endpoint.tried(what, fail))
    assert not step.ok
    assert step.detail == "No."
    assert step.fix is not None
    assert says in step.fix
