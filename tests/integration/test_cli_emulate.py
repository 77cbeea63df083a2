"""`dyno emulate runpod` serves an endpoint until it is interrupted, and refuses with a sentence."""

import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from emulated_endpoint import KEY
from visiondyno.cli.emulate import command as emulate
from visiondyno.emulator.serve import listen
from visiondyno.errors import SpecError


def test_the_command_serves_until_it_is_interrupted(tmp_path: Path) -> None:
    program = "from visiondyno.cli.emulate import command; command()"
    worker = f"{sys.executable} -c 'import time; time.sleep(600)'"
    options = ["--port", "0", "--api-key", KEY, "--worker-command", worker, "--workers", "1"]
    process = subprocess.Popen(
        [sys.executable, "-c", program, "runpod", *options, "--logs", str(tmp_path / "logs")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        url = process.stdout.readline().split()[-1]
        answer = httpx.get(f"{url}/health", headers={"Authorization": f"Bearer {KEY}"})
        assert answer.json()["workers"]["initializing"] == 1
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "Stopped. 1 workers for" in rest


def test_a_taken_port_is_a_sentence() -> None:
    taken = listen("127.0.0.1", 0)
    try:
        with pytest.raises(SpecError, match="is taken"):
            listen("127.0.0.1", taken.getsockname()[1])
    finally:
        taken.close()
    with pytest.raises(SpecError, match="can't be had"):
        listen("192.0.2.1", 0)
    with pytest.raises(SpecError, match="isn't a port"):
        listen("127.0.0.1", 70_000)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--gpu", "Z80"], "isn't in the table"),
        (["--speed", "0"], "above 0"),
        (["--endpoint", "a/b"], "letters"),
        (["--idle-timeout", "-1"], "above 0"),
        (["--worker-command", "'"], "quotes"),
        (["--worker-command", " "], "empty"),
        (["--logs", "/dev/null/x"], "can't be made"),
    ],
    ids=["gpu", "speed", "endpoint", "idle-timeout", "quotes", "empty", "logs"],
)
def test_the_command_refuses_with_a_sentence(options: list[str], says: str) -> None:
    outcome = CliRunner().invoke(emulate, ["runpod", "--port", "0", *options])
    assert isinstance(outcome.exception, SpecError)
    assert says in str(outcome.exception)
