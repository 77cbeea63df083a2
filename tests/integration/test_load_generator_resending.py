"""Requests on connections that the target closes: which are sent again, and which have failed."""

import asyncio

import pytest
import uvloop

from answering_servers import OK, Handler, read_request, serving
from recording_factory import notes_of
from visiondyno.loadtest import sending
from visiondyno.loadtest.generator import run_round
from visiondyno.loadtest.recording import Outcome, Recording
from visiondyno.loadtest.sending import RESENT
from visiondyno.loadtest.targets import prepare_target
from visiondyno.specs.load_test import ClosedLoad, TargetSpec

TWO = ClosedLoad(concurrency=1, requests=2)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However late a close is seen, the request had crossed it."""
    monkeypatch.setattr(sending, "CROSSED_NS", 10**10)


def asked(handler: Handler, load: ClosedLoad) -> Recording:
    with serving(handler) as port:
        target = prepare_target(TargetSpec(url=f"http://127.0.0.1:{port}/"))
        return uvloop.run(run_round(target, load))


@pytest.mark.usefixtures("patient")
def test_a_request_on_a_connection_that_was_just_closed_is_sent_once_more() -> None:
    connections = 0

    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await read_request(reader)
        writer.write(OK)
        await read_request(reader)  # and ends without an answer

    recording = asked(closing, ClosedLoad(requests=5))
    assert recording.having(Outcome.GOOD).all()
    assert notes_of(recording) == {RESENT: 4}
    assert recording.connected.all()
    assert connections == 5


def test_a_request_that_the_target_had_for_long_is_not_sent_again() -> None:
    async def dying(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK)
        await read_request(reader)
        await asyncio.sleep(1)  # works on it, and dies

    recording = asked(dying, TWO)
    assert recording.outcome.tolist() == [Outcome.GOOD, Outcome.CUT]
    assert not notes_of(recording)


@pytest.mark.usefixtures("patient")
def test_a_request_is_sent_no_third_time() -> None:
    first = True

    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal first
        await read_request(reader)
        if first:
            first = False
            writer.write(OK)
            await read_request(reader)

    recording = asked(closing, TWO)
    assert recording.outcome.tolist() == [Outcome.GOOD, Outcome.CUT]
    assert notes_of(recording) == {RESENT: 1}
