"""Cold starts: of commands that are really started, and of services that were left alone."""

import asyncio
import json
import shlex
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

import slow_starter
from services import free_port
from visiondyno.errors import (
    Conflict,
    OperationFailed,
    SpecError,
    TimeLimitExceeded,
    Unavailable,
)
from visiondyno.loadtest.cold_start import (
    CommandStart,
    IdleStart,
    measure_cold_start,
    measure_cold_starts,
)
from visiondyno.loadtest.targets import prepare_target
from visiondyno.specs.load_test import TargetSpec


class Starter:
    """A command line that starts `slow_starter.py`, and what became of its processes."""

    def __init__(self, folder: Path, **options) -> None:
        self.port = free_port()
        self.pids_file = folder / "pids.json"
        self.log = folder / "target.log"
        program = [sys.executable, slow_starter.__file__, str(self.port)]
        options = {"pids": str(self.pids_file), **options}
        self.command = shlex.join([*program, json.dumps(options)])

    def target(self):
        return prepare_target(TargetSpec(url=f"http://127.0.0.1:{self.port}/"))

    def start(self, **more) -> CommandStart:
        return CommandStart(self.command, self.log, **{"time_limit_s": 60.0, **more})

    def measure(self, **more):
        return asyncio.run(measure_cold_start(self.target(), self.start(**more)))

    def assert_gone(self) -> None:
        for pid in json.loads(self.pids_file.read_text()):
            assert not _is_alive(pid), f"process {pid} is still there"


def _is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    # An orphan is buried by init whenever it gets to it.
    return stat.rpartition(") ")[2][0] != "Z"


def test_a_command_is_timed_until_its_first_good_answer_and_leaves_nothing(tmp_path):
    starter = Starter(tmp_path, listens_after_s=0.2, refuses=3, stages=True, has_child=True)
    begin_s = time.monotonic()
    found = starter.measure(stop_s=0.2)
    assert found.kind == "process"
    assert 200 < found.total_ms < (time.monotonic() - begin_s) * 1000
    assert (found.process_start_ms, found.model_load_ms) == (20.5, 5)
    assert found.first_inference_ms == 2.25
    assert found.rest_ms == pytest.approx(found.total_ms - 27.75)
    assert found.told_by == "Server-Timing"
    assert found.warm_ms > 0
    starter.assert_gone()


def test_one_that_wont_end_is_killed(tmp_path):
    starter = Starter(tmp_path, is_stubborn=True, has_child=True)
    starter.measure(stop_s=0.1)
    starter.assert_gone()


def test_the_parts_may_come_from_metrics(tmp_path):
    starter = Starter(tmp_path, metrics=[0.02, 2])
    found = starter.measure()
    assert found.process_start_ms == found.model_load_ms == pytest.approx(10)
    assert found.told_by == ("metrics (visiondyno_cold_start_seconds), mean of 2 replicas' starts")


def test_parts_that_nobody_tells_are_none(tmp_path):
    found = Starter(tmp_path).measure()
    assert found.total_ms > 0
    assert found.told_by is None
    parts = (found.process_start_ms, found.model_load_ms, found.first_inference_ms, found.rest_ms)
    assert parts == (None,) * 4


def test_parts_longer_than_the_whole_are_of_another_start(tmp_path):
    found = Starter(tmp_path, metrics=[1000.0, 1]).measure()
    assert found.process_start_ms is None
    assert found.told_by is None


def test_several_starts_are_told_one_by_one(tmp_path):
    starter = Starter(tmp_path, stages=True)
    told = []
    found = asyncio.run(measure_cold_starts(starter.target(), starter.start(), 2, told.append))
    assert len(found) == 2
    assert all(one.told_by == "Server-Timing" for one in found)
    assert told == ["cold start 1 of 2", "cold start 2 of 2"]


def test_a_command_that_ends_by_itself_says_its_last_words(tmp_path):
    starter = Starter(tmp_path, ends_with=3)
    starter.log.write_text("of an earlier run\n")
    with pytest.raises(
        OperationFailed, match=r"ended with status 3 .*something is wrong with"
    ) as e:
        starter.measure()
    assert "earlier run" not in e.value.message


def test_what_a_command_left_behind_when_it_ended_is_ended_too(tmp_path):
    starter = Starter(tmp_path)
    program = (
        'import subprocess as s, sys; p = s.Popen(["sleep", "300"]); print(p.pid); sys.exit(5)'
    )
    starter.command = shlex.join([sys.executable, "-c", program])
    with pytest.raises(OperationFailed, match="ended with status 5"):
        starter.measure()
    starter.pids_file.write_text(f"[{starter.log.read_text()}]")
    starter.assert_gone()


def test_a_command_that_ends_without_a_word_is_told(tmp_path):
    starter = Starter(tmp_path)
    starter.command = "false"
    with pytest.raises(OperationFailed, match=r"status 1 .*It wrote nothing to "):
        starter.measure()


def test_a_command_that_never_answers_well_is_ended_at_the_limit(tmp_path):
    starter = Starter(tmp_path, refuses=10**6)
    with pytest.raises(TimeLimitExceeded, match=r"No good answer within 5 s; the last try"):
        starter.measure(time_limit_s=5)
    starter.assert_gone()


def test_a_cancel_ends_the_command(tmp_path):
    starter = Starter(tmp_path, refuses=10**6, has_child=True)

    async def main():
        start = starter.start(stop_s=0.1)
        measuring = asyncio.create_task(measure_cold_start(starter.target(), start))
        while not starter.pids_file.exists() or not starter.pids_file.read_text():
            await asyncio.sleep(0.02)
        measuring.cancel()
        with pytest.raises(asyncio.CancelledError):
            await measuring

    asyncio.run(main())
    starter.assert_gone()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("dyno 'serve", "can't be read"),
        ("  ", "is empty"),
        ("/no/such/program --port 1", "'/no/such/program': No such file"),
    ],
    ids=["quote", "empty", "program"],
)
def test_a_command_that_cant_be_started_is_refused(tmp_path, command, message):
    target = Starter(tmp_path).target()
    with pytest.raises(SpecError, match=message):
        asyncio.run(measure_cold_start(target, CommandStart(command, tmp_path / "log")))


def test_a_log_that_cant_be_written_is_refused(tmp_path):
    starter = Starter(tmp_path)
    starter.log = tmp_path / "no" / "folder"
    with pytest.raises(SpecError, match="log of the command can't be written"):
        starter.measure()


# Services that scale to zero.


class Service:
    """A service of this process: how many replicas it says it has, and how it answers."""

    def __init__(self) -> None:
        self.replicas = [0]
        self.stages: str | None = slow_starter.STAGES
        self.starts = [(1.0, 4), (1.0, 4)]
        self.refuses = 0
        self.has_replicas = True
        self.cuts = 0
        self.body = b"{}"
        self.url = ""

    def page(self) -> str:
        count = self.replicas.pop(0) if len(self.replicas) > 1 else self.replicas[0]
        starts = self.starts.pop(0) if len(self.starts) > 1 else self.starts[0]
        text = slow_starter.METRICS.format(*starts)
        return text + (f'visiondyno_replicas{{state="ready"}} {count}\n' * self.has_replicas)


@contextmanager
def serving():
    service = Service()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._answer(200, service.page().encode(), None)
            elif service.cuts:
                service.cuts -= 1
                self.close_connection = True
            elif service.refuses:
                service.refuses -= 1
                self._answer(503, b"", None)
            else:
                self._answer(200, service.body, service.stages)

        def _answer(self, status: int, body: bytes, stages: str | None) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if stages:
                self.send_header("Server-Timing", stages)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=partial(server.serve_forever, 0.01), daemon=True)
    thread.start()
    service.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield service
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def service():
    with serving() as one:
        yield one


def asked_after_idling(service, idle_wait_s=60.0, *, metrics=True, expects=None, **more):
    slept = []

    async def sleep(seconds):
        slept.append(seconds)
        await asyncio.sleep(0)

    target = prepare_target(TargetSpec(url=f"{service.url}/", **(expects or {})))
    how = IdleStart(idle_wait_s, f"{service.url}/metrics" if metrics else None, **more)
    return asyncio.run(measure_cold_start(target, how, sleep)), slept


def test_a_service_is_asked_once_its_metrics_say_that_it_is_at_zero(service):
    service.replicas = [2, 2, 1, 0]
    service.stages = None
    service.starts = [(1.0, 4)] * 4 + [(1.0, 5)]
    found, slept = asked_after_idling(service)
    assert slept == [0.5] * 3
    assert found.kind == "idle"
    assert found.warm_ms > 0
    # Four starts were before this one, which took no time at all.
    assert found.told_by == "metrics (visiondyno_cold_start_seconds)"
    assert found.process_start_ms == 0


def test_metrics_without_a_new_start_tell_nothing(service):
    service.stages = None
    found, _ = asked_after_idling(service)
    assert found.told_by is None


def test_a_service_without_metrics_is_left_alone_for_so_long(service):
    service.stages = "start-process;dur=0, start-load;dur=0, start-first-inference;dur=0"
    service.cuts = 1
    service.refuses = 2
    found, slept = asked_after_idling(service, 90.0, metrics=False)
    # A cut connection, then two refusals, each waited for longer than the one before.
    assert slept == [90.0, 0.005, 0.005, 0.01]
    assert found.told_by == "Server-Timing"
    assert found.rest_ms == found.total_ms


def test_a_service_that_stays_up_is_told(service):
    service.replicas = [2]
    with pytest.raises(TimeLimitExceeded, match=r"still has 2 replicas after 3 s"):
        asked_after_idling(service, 3.0)


def test_metrics_that_tell_no_replicas_or_nothing_are_refused(service):
    service.has_replicas = False
    with pytest.raises(SpecError, match="no visiondyno_replicas"):
        asked_after_idling(service)
    service.url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(Unavailable, match="can't be read"):
        asked_after_idling(service)


def test_a_service_that_answers_badly_all_the_time_is_given_up(service):
    service.refuses = 10**9
    with pytest.raises(TimeLimitExceeded, match=r"No good answer within 0\.3 s"):
        asked_after_idling(service, 1.0, time_limit_s=0.3)


def test_a_command_isnt_started_where_something_answers_already(service, tmp_path):
    target = prepare_target(TargetSpec(url=f"{service.url}/"))
    started = tmp_path / "started"
    command = CommandStart(f"touch {started}", tmp_path / "log")
    with pytest.raises(Conflict, match=r"answers at 127.0.0.1:.* already"):
        asyncio.run(measure_cold_start(target, command))
    assert not started.exists()


@pytest.mark.parametrize(
    ("body", "good", "bad"),
    [
        (b"{}", {"expect_status": (200, 201)}, {"expect_status": (201,)}),
        (b'{"boxes": []}', {"expect_json_key": "boxes"}, {"expect_json_key": "scores"}),
        (b"[1]", {}, {"expect_json_key": "boxes"}),
        (b"no json", {}, {"expect_json_key": "boxes"}),
    ],
    ids=["status", "key", "list", "text"],
)
def test_what_a_good_answer_is_can_be_said(service, body, good, bad):
    service.body = body
    found, _ = asked_after_idling(service, expects=good)
    assert found.total_ms > 0
    with pytest.raises(TimeLimitExceeded, match=r"No good answer within 0\.3 s"):
        asked_after_idling(service, expects=bad, time_limit_s=0.3)


def test_nothing_stays_open_behind_a_measurement(service):
    folder = Path("/proc/self/fd")
    before = len(list(folder.iterdir()))
    asked_after_idling(service, metrics=False)
    # The server's side of a connection is closed when its thread gets to it.
    deadline_s = time.monotonic() + 20
    while len(list(folder.iterdir())) > before:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
