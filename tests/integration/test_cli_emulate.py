"""`dyno emulate runpod` serves an endpoint until it is interrupted, and refuses with a sentence."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from emulated_endpoint import HANDLER, KEY, until
from visiondyno.api.listening import listen
from visiondyno.cli.emulate import command as emulate
from visiondyno.errors import MissingExtra, SpecError

WAITS = f"{sys.executable} -c 'import time; time.sleep(600)'"


@dataclass
class Command:
    """`dyno emulate runpod` as a process, and what it says."""

    process: "subprocess.Popen[str]"
    start: list[str]

    @property
    def url(self) -> str:
        return self.start[0].split()[-1]

    def next_line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def end(self, number: signal.Signals) -> str:
        """What it still says once it got that signal; it must end with 0."""
        self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, rest
        return rest


@contextmanager
def emulating(
    home: Path, *options: str, worker: str = WAITS, key: str | None = KEY
) -> Iterator[Command]:
    """The command until its endpoint listens; killed at the end if it is still there."""
    environ = {**os.environ, "VISIONDYNO_HOME": str(home)}
    environ.pop("RUNPOD_API_KEY", None)
    if key is not None:
        environ["RUNPOD_API_KEY"] = key
    dyno = [sys.executable, "-c", "from visiondyno.cli import main; main()"]
    process = subprocess.Popen(
        [*dyno, "emulate", "runpod", "--port", "0", "--worker-command", worker, *options],
        stdout=subprocess.PIPE,
        text=True,
        env=environ,
        cwd=home,  # without a .env
    )
    try:
        assert process.stdout is not None
        yield Command(process, [process.stdout.readline() for _ in range(5)])
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=["int", "term", "hup"]
)
def test_the_command_serves_until_a_signal_and_tells_the_bill(
    tmp_path: Path, number: signal.Signals
) -> None:
    with emulating(tmp_path, "--workers", "1", "--logs", str(tmp_path / "logs")) as command:
        assert command.start[2] == f"    RUNPOD_ENDPOINT_ID={command.url}\n"
        assert KEY not in "".join(command.start), "it may be the real one"
        assert str(tmp_path / "logs") in command.start[4]
        answer = httpx.get(f"{command.url}/health", headers={"Authorization": f"Bearer {KEY}"})
        assert answer.json()["workers"]["initializing"] == 1
        started, ended, bill = command.end(number).splitlines()
        assert re.fullmatch(r"\d\d:\d\d:\d\d worker [a-z0-9]{14} started", started)
        assert re.search(r"has ended: \d+ s billed, 0 jobs done$", ended)
        assert bill.startswith("Stopped. 1 worker with 0 jobs done, billed for")
    assert len(list((tmp_path / "logs").iterdir())) == 1


@pytest.mark.parametrize("kept", [None, ""], ids=["none", "empty"])
def test_a_new_key_is_shown_and_output_goes_to_the_home(tmp_path: Path, kept: str | None) -> None:
    with emulating(tmp_path, "--endpoint", "own", key=kept) as command:
        _, _, key = command.start[3].strip().partition("RUNPOD_API_KEY=")
        with httpx.Client(headers={"Authorization": f"Bearer {key}"}) as http:
            assert http.get(f"{command.url}/health").status_code == 200
        assert httpx.get(f"{command.url}/health").status_code == 401
        command.end(signal.SIGINT)
    (logs,) = (tmp_path / "emulator").iterdir()
    assert re.fullmatch(r"own-\d+", logs.name)


def test_output_of_an_earlier_run_at_the_address_goes(tmp_path: Path) -> None:
    with closing(listen("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    logs = tmp_path / "emulator" / f"emulator-{port}"
    logs.mkdir(parents=True)
    (logs / "earlier.log").touch()
    with emulating(tmp_path, "--port", port, "--quiet", "--workers", "1") as command:
        assert command.end(signal.SIGINT).startswith("Stopped."), "and nothing before it"
    (log,) = logs.iterdir()
    assert log.name != "earlier.log"


def test_the_last_words_of_a_worker_that_dies_are_shown(tmp_path: Path) -> None:
    worker = f"{sys.executable} -c 'import sys; sys.exit(\"no such disk\")'"
    with emulating(tmp_path, "--workers", "1", worker=worker) as command:
        assert "started" in command.next_line()
        assert "died with code 1 before it asked for a job (1 in a row)" in command.next_line()
        assert command.next_line() == "    no such disk\n"
        command.end(signal.SIGINT)


def test_workers_under_the_package_end_before_their_server(tmp_path: Path) -> None:
    if not os.environ.get("CI"):
        pytest.importorskip("runpod", reason="the extra 'runpod' isn't installed")
    worker = f"{sys.executable} {HANDLER} plain"
    with emulating(tmp_path, "--workers", "1", worker=worker) as command:
        with httpx.Client(headers={"Authorization": f"Bearer {KEY}"}) as http:
            until(lambda: http.get(f"{command.url}/health").json()["workers"]["idle"])
        command.end(signal.SIGTERM)
    (log,) = (tmp_path / "emulator").glob("*/*.log")
    said = log.read_text()
    assert "Starting Serverless Worker" in said
    assert "Failed to get job" not in said


def test_a_taken_port_is_a_sentence() -> None:
    taken = listen("127.0.0.1", 0)
    try:
        with pytest.raises(SpecError, match="is taken"):
            listen("127.0.0.1", taken.getsockname()[1])
    finally:
        taken.close()
    with pytest.raises(SpecError, match="can't listen"):
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
        (["--host", "192.0.2.1"], "--host"),
    ],
    ids=["gpu", "speed", "endpoint", "idle-timeout", "quotes", "empty", "logs", "host"],
)
def test_the_command_refuses_with_a_sentence(options: list[str], says: str) -> None:
    outcome = CliRunner().invoke(emulate, ["runpod", "--port", "0", *options])
    assert isinstance(outcome.exception, SpecError)
    assert says in str(outcome.exception)


def test_a_missing_package_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    outcome = CliRunner().invoke(emulate, ["runpod", "--port", "0"])
    assert isinstance(outcome.exception, MissingExtra)
    assert "visiondyno[runpod]" in str(outcome.exception)


def test_help_loads_no_server() -> None:
    program = (
        "import sys; from visiondyno.cli.emulate import command;"
        " print(sorted({'fastapi', 'httpx', 'numpy', 'pydantic', 'uvicorn'} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert found.stdout == "[]\n"
