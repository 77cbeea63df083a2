"""Loads on targets that fail: what went wrong is in the row of each request, and nothing hangs."""

import asyncio
import gc
import itertools
import resource
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop

from answering_servers import OK, Handler, always, read_request, serving
from recording_factory import notes_of
from visiondyno.errors import SpecError
from visiondyno.loadtest import connection, loops
from visiondyno.loadtest.connection import Connection
from visiondyno.loadtest.dialling import Dialler
from visiondyno.loadtest.generator import run_round
from visiondyno.loadtest.progress import Progress
from visiondyno.loadtest.recording import Outcome, Recording
from visiondyno.loadtest.sending import STOPPED
from visiondyno.loadtest.targets import prepare_target
from visiondyno.specs.load_test import ClosedLoad, ConstantLoad, Load, TargetSpec


class Nobody:
    """Takes what a connection tells and does nothing."""

    def connected(self, connection: Connection) -> None: ...
    def answered(self, connection: Connection) -> None: ...
    def broke(self, connection: Connection, why: str) -> None: ...
    def lost(self, connection: Connection) -> None: ...


TWO = ClosedLoad(concurrency=1, requests=2)
TWO_SECONDS_APART = ConstantLoad(rate_per_s=0.5, duration_s=4)
"""Two requests; what happens between them has time to."""


def ask(port: int, load: Load, *, host: str = "127.0.0.1", **options: Any) -> Recording:
    target = prepare_target(TargetSpec(url=f"http://{host}:{port}/"))
    return uvloop.run(run_round(target, load, **options))


def asked(handler: Handler, load: Load, **options: Any) -> Recording:
    with serving(handler) as port:
        return ask(port, load, **options)


@pytest.fixture
def silent_port() -> Any:
    """A port whose connections the system accepts and nobody answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "the connection ended"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "the connection ended"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", "the connection ended"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhal", "the connection ended"),
        (b"SSH-2.0-OpenSSH\r\n", "the answer breaks HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: ten\r\n\r\n", "the answer breaks HTTP"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"x" * 200_000, "the answer's header is over 64 kB"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "the connection ended"),
    ],
    ids=["none", "in-head", "in-body", "in-chunk", "no-http", "bad-length", "endless", "interim"],
)
def test_half_an_answer_is_a_cut_connection(answer: bytes, why: str) -> None:
    recording = asked(always(answer, closes=True), TWO)
    assert recording.having(Outcome.CUT).all()
    assert (recording.status == 0).all()
    assert recording.connected.all()
    assert ((recording.first_byte_ns > 0) == (len(answer) > 0 and b"100" not in answer)).all()
    (message,) = recording.errors
    assert message.startswith(why)


def test_a_body_without_end_is_not_kept_and_not_read_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "LONGEST_BODY_BYTES", 1 << 20)

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(bytes(65536))
            await writer.drain()

    recording = asked(endless, TWO)
    assert recording.having(Outcome.CUT).all()
    assert recording.errors == {"the answer's body is over 1 MiB": 2}


def test_a_reset_is_a_cut_connection() -> None:
    async def resetting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.transport.abort()

    recording = asked(resetting, ConstantLoad(rate_per_s=50, duration_s=0.2))
    assert recording.having(Outcome.CUT).all()
    assert all("before the whole answer" in why for why in recording.errors)


def test_no_answer_ends_at_the_time_limit(silent_port: int) -> None:
    recording = ask(silent_port, ConstantLoad(rate_per_s=100, duration_s=0.2), timeout_s=2)
    assert recording.having(Outcome.TIMEOUT).all()
    assert (recording.latency_ms >= 2000).all()
    assert (recording.first_byte_ns == -1).all()
    assert (recording.sent_ns > 0).all()
    assert recording.errors == {"no whole answer within 2 s": 20}


def test_an_answer_that_comes_too_slowly_ends_at_the_time_limit() -> None:
    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for byte in OK:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.2)

    recording = asked(slow, TWO, timeout_s=2)
    assert recording.having(Outcome.TIMEOUT).all()
    assert (recording.first_byte_ns > 0).all()


def test_a_connection_that_never_comes_about_ends_at_the_time_limit() -> None:
    # With this backlog full, the system answers no further connection.
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        held = []
        for _ in range(8):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(address)
            held.append(one)
        recording = ask(address[1], ConstantLoad(rate_per_s=20, duration_s=0.1), timeout_s=0.3)
        for one in held:
            one.close()
    assert recording.having(Outcome.TIMEOUT).all()
    assert recording.errors == {"no connection within 0.3 s": 2}
    assert (recording.sent_ns == -1).all()
    assert not recording.connected.any()


def test_a_refusing_target_fails_each_request_with_the_reason(closed_port: int) -> None:
    recording = ask(closed_port, ConstantLoad(rate_per_s=100, duration_s=0.2))
    assert len(recording) == 20
    assert recording.having(Outcome.CONNECT_FAILED).all()
    assert recording.errors == {f"Connection refused (127.0.0.1:{closed_port})": 20}
    assert (recording.sent_ns == -1).all()


def test_an_ipv6_address_that_refuses_is_shown_in_brackets(closed_port: int) -> None:
    recording = ask(closed_port, TWO, host="[::1]")
    (why,) = recording.errors
    assert why.endswith(f"([::1]:{closed_port})")


def test_the_address_that_answers_is_asked_first_from_then_on() -> None:
    async def scenario(port: int) -> list[str]:
        target = prepare_target(TargetSpec(url=f"http://127.0.0.1:{port}/"))
        dialler = Dialler(target, asyncio.get_running_loop())
        dialler._addresses = ["127.0.0.2", "127.0.0.1"]  # a name of two, the first one refusing
        opened = Connection(Nobody())
        await dialler.dial(opened)
        opened.give_up()
        await asyncio.sleep(0.01)
        return dialler._addresses

    with serving(always(OK)) as port:
        assert uvloop.run(scenario(port)) == ["127.0.0.1", "127.0.0.2"]


def test_users_of_a_refusing_target_pause(closed_port: int) -> None:
    recording = ask(closed_port, ClosedLoad(concurrency=2, requests=6))
    assert recording.having(Outcome.CONNECT_FAILED).all()
    begins = np.sort(recording.scheduled_ns)
    assert (begins[2:] - begins[:-2] >= loops.AFTER_NO_CONNECTION_S * 1e9).all()


def test_a_name_without_an_address_fails_each_request_with_the_reason() -> None:
    recording = ask(80, ConstantLoad(rate_per_s=50, duration_s=0.1), host="nowhere.invalid")
    assert recording.having(Outcome.CONNECT_FAILED).all()
    (why,) = recording.errors
    assert why.startswith("no address of nowhere.invalid")


def test_a_connection_closed_while_idle_is_not_used_again() -> None:
    async def brief(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK)

    recording = asked(brief, TWO_SECONDS_APART)
    assert recording.having(Outcome.GOOD).all()
    assert recording.connected.all()
    assert not notes_of(recording)


def test_an_answer_that_nobody_asked_for_ends_the_connection() -> None:
    async def talkative(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await read_request(reader):
            writer.write(OK)
            await asyncio.sleep(0.02)
            writer.write(OK)

    recording = asked(talkative, TWO_SECONDS_APART)
    assert recording.having(Outcome.GOOD).all()
    assert recording.connected.all()


def test_without_file_descriptors_requests_fail_with_that_reason(silent_port: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    gc.collect()
    used = {int(entry.name) for entry in Path("/proc/self/fd").iterdir()}
    free = (fd for fd in range(soft) if fd not in used)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next(itertools.islice(free, 30, None)), hard))
    try:
        recording = ask(silent_port, ConstantLoad(rate_per_s=500, duration_s=0.2), timeout_s=0.3)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    failed = recording.having(Outcome.CONNECT_FAILED)
    assert failed.any()
    assert recording.having(Outcome.TIMEOUT).sum() == 100 - failed.sum()
    assert any("Too many open files" in why for why in recording.errors)


def test_with_limited_connections_requests_wait_in_line_and_the_wait_counts() -> None:
    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await read_request(reader):
            await asyncio.sleep(0.02)
            writer.write(OK)

    recording = asked(slow, ConstantLoad(rate_per_s=200, duration_s=0.1), connections=2)
    assert recording.having(Outcome.GOOD).all()
    assert recording.connected.sum() == 2
    assert recording.begun_ns is not None
    assert (np.diff(recording.begun_ns) >= 0).all()
    begun, done = recording.begun_ns, recording.done_ns
    in_flight = [((begun <= moment) & (done > moment)).sum() for moment in begun]
    assert max(in_flight) == 2
    # Twenty requests of 20 ms on two connections: the last waited for nine others.
    assert recording.latency_ms[-1] >= 9 * 20 - 100


def test_what_waits_for_a_connection_ends_too(silent_port: int) -> None:
    recording = ask(
        silent_port, ConstantLoad(rate_per_s=100, duration_s=0.1), connections=1, timeout_s=0.2
    )
    assert recording.having(Outcome.TIMEOUT).all()
    assert (recording.latency_ms >= 200).all()
    assert "none of the 1 connections came free within 0.2 s" in recording.errors


def test_limited_connections_to_a_refusing_target_serve_everybody(closed_port: int) -> None:
    load = ConstantLoad(rate_per_s=200, duration_s=0.1)
    assert len(ask(closed_port, load, connections=1)) == 20


async def stopped_when(
    port: int, load: Load, holds: Callable[[Progress], bool], **options: Any
) -> Recording:
    stop = asyncio.Event()

    def look(progress: Progress) -> None:
        if holds(progress):
            stop.set()

    target = prepare_target(TargetSpec(url=f"http://127.0.0.1:{port}/"))
    return await run_round(target, load, stop=stop, on_progress=look, **options)


def test_a_stopped_round_keeps_what_was_recorded() -> None:
    with serving(always(OK)) as port:
        load = ConstantLoad(rate_per_s=100, duration_s=60)
        recording = uvloop.run(stopped_when(port, load, lambda now: now.good > 0))
    assert len(recording) == 6000
    good = recording.having(Outcome.GOOD)
    assert 0 < good.sum() < 1000
    assert (good | recording.having(Outcome.NOT_SENT)).all()
    assert (recording.done_ns >= recording.scheduled_ns).all()
    assert (recording.sent_ns[~good] == -1).all()
    assert recording.elapsed_s < 30


@pytest.mark.parametrize("think_time_s", [0.0, 3600.0])
def test_a_stopped_closed_loop_ends(think_time_s: float) -> None:
    with serving(always(OK)) as port:
        load = ClosedLoad(concurrency=3, think_time_s=think_time_s, duration_s=3600)
        recording = uvloop.run(stopped_when(port, load, lambda now: now.good >= 3))
    assert recording.having(Outcome.GOOD).all()
    assert len(recording) >= 3


def test_requests_on_their_way_at_a_stop_are_told_apart(silent_port: int) -> None:
    load = ClosedLoad(concurrency=2, duration_s=3600)
    recording = uvloop.run(stopped_when(silent_port, load, lambda now: now.begun == 2))
    assert recording.having(Outcome.NOT_SENT).all()
    assert (recording.sent_ns > 0).all()
    assert recording.errors == {STOPPED: 2}


def test_the_time_until_a_stop_counts_where_nothing_was_answered(silent_port: int) -> None:
    load = ConstantLoad(rate_per_s=50, duration_s=60)
    until_s, options = 0.5, {"connections": 2, "timeout_s": 0.3}
    stopped = stopped_when(silent_port, load, lambda now: now.elapsed_s >= until_s, **options)
    recording = uvloop.run(stopped)
    assert recording.elapsed_s >= until_s
    # Those that waited for a connection were due, and had no answer either.
    due_s = (recording.scheduled_ns - recording.scheduled_ns[0]) / 1e9
    assert (recording.unanswered | recording.having(Outcome.TIMEOUT))[due_s < until_s].all()
    assert not recording.unanswered[due_s > recording.elapsed_s].any()
    assert (recording.done_ns >= recording.scheduled_ns).all()


def test_a_cancelled_round_closes_its_connections() -> None:
    begun = ended = 0

    async def counting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal begun, ended
        await read_request(reader)
        begun += 1
        await reader.read()
        ended += 1

    async def scenario(port: int) -> None:
        target = prepare_target(TargetSpec(url=f"http://127.0.0.1:{port}/"))
        task = asyncio.create_task(run_round(target, ClosedLoad(concurrency=3)))
        while begun < 3:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with serving(counting) as port:
        uvloop.run(scenario(port))
        until_s = time.monotonic() + 10
        while ended < 3 and time.monotonic() < until_s:
            time.sleep(0.01)
        assert ended == 3


def test_a_round_without_end_stops_at_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "MOST_REQUESTS", 50)
    recording = asked(always(OK), ClosedLoad(concurrency=2, duration_s=3600))
    assert len(recording) == 50
    assert loops.TOO_MANY in recording.notes


def test_a_defect_in_a_callback_ends_the_round(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(loops.OpenLoop, "take_up", broken)
    with serving(always(OK)) as port, pytest.raises(ZeroDivisionError):
        ask(port, ConstantLoad(duration_s=1))


def test_a_load_beyond_memory_is_refused_before_anything_is_sent(closed_port: int) -> None:
    with pytest.raises(SpecError, match="shorten the duration"):
        ask(closed_port, ConstantLoad(rate_per_s=1_000_000, duration_s=86_400))
