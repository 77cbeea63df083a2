"""The client that commands ask a server with: what it asks again, and what it tells of troubles."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from live_api import LiveApi
from visiondyno.errors import (
    InputError,
    RateLimited,
    SpecError,
    TransportDown,
    Unavailable,
    VisionDynoError,
)
from visiondyno.http_client import ServerClient


def test_too_many_requests_say_when_to_come_again(tmp_path: Path) -> None:
    with LiveApi(tmp_path, rate_limit_per_minute=1) as live, ServerClient(live.url) as client:
        client.workers()
        with pytest.raises(RateLimited) as caught:
            client.workers()
        assert caught.value.retry_after_s is not None
        assert caught.value.retry_after_s > 0


@pytest.mark.parametrize("url", ["ftp://host", "http://", "http://[::", "http://host:x"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(SpecError, match="isn't a server's URL"):
        ServerClient(url)


def test_no_server_is_told_with_the_next_step() -> None:
    with (
        ServerClient("127.0.0.1:1") as client,
        pytest.raises(TransportDown, match="start one with 'dyno up'"),
    ):
        client.health()


# ---- servers that misbehave


class Scripted(ThreadingHTTPServer):
    """Answers each request with the next of its answers: status and body; takes note of ids."""

    def __init__(self, *answers: tuple[int, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = list(answers)
        self.last_ids: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Scripted

    def do_GET(self) -> None:
        self.server.last_ids.append(self.headers.get("Last-Event-ID"))
        status, body = self.server.answers.pop(0)
        if status == 0:
            self.close_connection = True
            self.connection.shutdown(2)
            return
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def scripted() -> Iterator[Callable[..., Scripted]]:
    running: list[Scripted] = []

    def start(*answers: tuple[int, bytes]) -> Scripted:
        made = Scripted(*answers)
        threading.Thread(target=made.serve_forever, args=(0.01,)).start()
        running.append(made)
        return made

    yield start
    for one in running:
        one.shutdown()
        one.server_close()


def sent(number: int, state: str, text: str = "") -> bytes:
    body = json.dumps({"number": number, "state": state, "progress": {"stage": text}})
    return f"id: {number}\r\ndata: {body}\r\n\r\n: ping\r\n\r\n".encode()


def test_a_broken_stream_goes_on_after_its_last_event(
    scripted: Callable[..., Scripted],
) -> None:
    pauses: list[float] = []
    away = scripted(
        (200, sent(1, "IN_QUEUE") + sent(2, "IN_PROGRESS", "a\u2028b") + b"data: {half"),
        (0, b""),
        (503, b'{"code": "transport_down", "title": "down", "detail": "The queue is away."}'),
        (200, sent(3, "COMPLETED")),
    )
    with ServerClient(away.url, sleep=pauses.append) as client:
        events = list(client.events("job"))
    assert [event.number for event in events] == [1, 2, 3]
    assert (events[1].progress or {})["stage"] == "a\u2028b"
    assert away.last_ids == ["0", "2", "2", "2"]
    assert pauses == [0.5, 1.0, 2.0]


def test_a_server_that_stays_away_ends_it(scripted: Callable[..., Scripted]) -> None:
    empty = scripted(*[(200, b"")] * 6)
    with (
        ServerClient(empty.url, sleep=lambda _: None) as client,
        pytest.raises(TransportDown, match="again and again"),
    ):
        list(client.events("job"))
    gone = scripted(*[(0, b"")] * 6)
    with (
        ServerClient(gone.url, sleep=lambda _: None) as client,
        pytest.raises(TransportDown, match="broke the connection off"),
    ):
        list(client.events("job"))


@pytest.mark.parametrize(
    "answer",
    [(404, b"<html>"), (200, b"<html>"), (200, b"[]"), (500, b'{"detail": "no code"}')],
    ids=["error page", "page", "list", "foreign error"],
)
def test_another_kind_of_server_is_told(
    scripted: Callable[..., Scripted], answer: tuple[int, bytes]
) -> None:
    with (
        ServerClient(scripted(answer).url) as client,
        pytest.raises(Unavailable, match="isn't VisionDyno's"),
    ):
        client.health()


def test_errors_of_a_newer_server_keep_their_kind(scripted: Callable[..., Scripted]) -> None:
    newer = scripted(
        (418, b'{"code": "teapot", "title": "t", "detail": "I am a teapot."}'),
        (599, b'{"code": "broken_teapot", "title": "Broken."}'),
    )
    with ServerClient(newer.url) as client:
        with pytest.raises(InputError, match="I am a teapot"):
            client.health()
        with pytest.raises(VisionDynoError, match="Broken") as caught:
            client.health()
        assert not isinstance(caught.value, InputError)
