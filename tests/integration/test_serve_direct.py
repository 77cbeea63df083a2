"""The direct lane of `/predict` answers as the usual way does, and leaves to it what isn't plain.

A `traceparent` header sends a request the usual way, whatever else it is.
"""

import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import cv2
import h11
import numpy as np
import pytest

from live_serving import LiveServing, stopped_replica
from visiondyno.serving.direct import DirectLane

Answer = tuple[int, dict[str, str], bytes]
USUAL = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"
RNG = np.random.default_rng(8)
JPEG = cv2.imencode(".jpg", RNG.integers(0, 255, (48, 64, 3), np.uint8))[1].tobytes()
BOMB = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (50_000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServing]:
    with LiveServing("fake:detection", max_body_mb=0.5, queue=2, time_limit_s=20) as live:
        with live.client() as client:  # the first of a kind goes the usual way
            client.post("/predict", content=JPEG)
            client.post("/predict?conf=0.5", content=JPEG)
        yield live


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each request that came to the direct lane, whether it was answered there."""
    found: list[bool] = []
    begin = DirectLane.begin

    def noted(self: DirectLane, *arguments: Any) -> Any:
        give_up = begin(self, *arguments)
        found.append(give_up is not None)
        return give_up

    monkeypatch.setattr(DirectLane, "begin", noted)
    return found


def post(
    server: LiveServing,
    body: bytes,
    more: str = "",
    target: str = "/predict",
    version: str = "1.1",
    accept: str = "Accept: */*\r\n",
) -> bytes:
    host = urlsplit(server.url).netloc
    host_line = "" if "host:" in more.lower() else f"Host: {host}\r\n"
    head = (
        f"POST {target} HTTP/{version}\r\n{host_line}{accept}Accept-Encoding: gzip\r\n"
        f"{more}Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def answers(server: LiveServing, sent: list[bytes], count: int | None = None) -> list[Answer]:
    """What comes back on one connection; each of `sent` is a piece of its own."""
    parts = urlsplit(server.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
        for piece in sent:
            connection.sendall(piece)
            if len(sent) > 1:
                time.sleep(0.02)  # so that it is a piece of its own
        return [_answer(connection, pending) for pending in _states(count or len(sent))]


def _states(count: int) -> Iterator[list[bytes]]:
    pending: list[bytes] = [b""]
    for _ in range(count):
        yield pending


def _answer(connection: socket.socket, pending: list[bytes]) -> Answer:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="POST", target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    if pending[0]:  # nothing means the connection's end
        client.receive_data(pending[0])
    status, headers, body = 0, {}, b""
    while True:
        event = client.next_event()
        if event is h11.NEED_DATA:
            client.receive_data(connection.recv(65536))
        elif isinstance(event, h11.Response):
            status = event.status_code
            headers = {name.decode().lower(): value.decode() for name, value in event.headers}
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            pending[0] = client.trailing_data[0]
            return status, headers, body


def comparable(answer: Answer) -> tuple[int, dict[str, str], bytes]:
    """Without what differs from one request to the next."""
    status, headers, body = answer
    for name in ("date", "x-request-id", "server-timing"):
        if name in headers:
            headers[name] = "there"
    return status, headers, body


@pytest.mark.parametrize(
    ("arguments", "is_direct"),
    [
        ({"body": JPEG}, True),
        ({"body": JPEG, "target": "/predict?conf=0.5"}, True),
        ({"body": JPEG, "more": "Content-Type: image/jpeg\r\n"}, True),
        ({"body": JPEG, "more": "Connection: close\r\n"}, True),
        ({"body": JPEG, "version": "1.0"}, True),
        ({"body": JPEG, "target": "/predict?conf=2"}, None),
        ({"body": JPEG, "target": "/predict?format=png"}, None),
        ({"body": JPEG, "accept": "Accept: image/png\r\n"}, None),
        ({"body": JPEG, "more": "Content-Type: multipart/form-data\r\n"}, None),
        ({"body": b'{"image": "?"}', "more": "Content-Type: application/json\r\n"}, None),
        ({"body": JPEG, "more": "Content-Encoding: gzip\r\n"}, None),
        ({"body": JPEG, "more": "Origin: https://elsewhere.example\r\n"}, None),
        ({"body": JPEG, "more": "Host: elsewhere.example\r\n"}, None),
        ({"body": b""}, None),
        ({"body": bytes(600_000)}, None),
        ({"body": b"no image"}, False),
        ({"body": BOMB}, False),
        ({"body": JPEG[:200]}, True),
    ],
    ids=[
        *("plain", "a known query", "a plain type", "close", "HTTP/1.0", "a wrong query"),
        *("a picture", "a picture by Accept", "a form", "JSON", "compressed", "another site"),
        *("another name", "empty", "too large", "no image", "too many pixels", "cut off"),
    ],
)
def test_both_ways_have_one_answer(
    server: LiveServing, taken: list[bool], arguments: dict[str, Any], is_direct: bool | None
) -> None:
    (one,) = answers(server, [post(server, **arguments)])
    assert taken == ([] if is_direct is None else [is_direct])
    usual = {**arguments, "more": USUAL + arguments.get("more", "")}
    (other,) = answers(server, [post(server, **usual)])
    assert taken == ([] if is_direct is None else [is_direct])
    assert comparable(one) == comparable(other)


def test_a_request_id_is_the_clients_if_it_is_fit(server: LiveServing, taken: list[bool]) -> None:
    given = [post(server, JPEG, f"X-Request-Id: {text}\r\n") for text in ("mine-7", "not fit")]
    ids = [answer[1]["x-request-id"] for answer in answers(server, given)]
    assert ids[0] == "mine-7"
    assert len(ids[1]) == 32
    assert taken == [True, True]


def test_requests_in_a_row_keep_their_order_whichever_way_they_go(
    server: LiveServing, taken: list[bool]
) -> None:
    plain = post(server, JPEG, "X-Request-Id: a\r\n")
    usual = post(server, JPEG, USUAL + "X-Request-Id: b\r\n")
    bad = post(server, b"no image", "X-Request-Id: c\r\n")
    together = answers(server, [plain + usual + bad + plain], count=4)
    assert [answer[1]["x-request-id"] for answer in together] == ["a", "b", "c", "a"]
    assert [answer[0] for answer in together] == [200, 200, 415, 200]
    assert together[0][2] == together[1][2] == together[3][2]
    assert True in taken


def test_a_body_may_come_in_pieces(server: LiveServing, taken: list[bool]) -> None:
    whole = post(server, JPEG)
    pieces = [whole[:40], whole[40:700], whole[700:]]
    (answer,) = answers(server, pieces, count=1)
    assert answer[0] == 200
    assert taken == [True]


def test_a_client_that_hangs_up_is_counted_and_disturbs_nobody(
    server: LiveServing, taken: list[bool]
) -> None:
    counted = 'visiondyno_http_requests_total{method="POST",route="/predict",status="499"}'
    before = server.metric(counted)
    parts = urlsplit(server.url)
    for _ in range(5):
        with socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
            option = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)  # a reset
            connection.sendall(post(server, JPEG))
    deadline_s = time.monotonic() + 30
    while server.metric("visiondyno_inference_in_flight"):
        assert time.monotonic() < deadline_s, "what nobody waits for is done or dropped"
        time.sleep(0.01)
    (answer,) = answers(server, [post(server, JPEG)])
    assert answer[0] == 200
    assert server.metric(counted) <= before + 5


def test_requests_of_both_ways_are_counted_alike(server: LiveServing) -> None:
    counted = 'visiondyno_http_requests_total{method="POST",route="/predict",status="200"}'
    items = 'visiondyno_inference_items_total{model="detection",outcome="ok"}'
    before = server.metric(counted), server.metric(items)
    answers(server, [post(server, JPEG), post(server, JPEG, USUAL), post(server, JPEG)])
    assert server.metric(counted) == before[0] + 3
    assert server.metric(items) == before[1] + 3


def test_a_server_with_keys_has_no_direct_lane(taken: list[bool], tmp_path: Any) -> None:
    keys = tmp_path / "keys"
    keys.write_text("a-secret-of-sixteen\n")
    with LiveServing("fake:detection", keys_file=keys) as live, live.client() as client:
        for _ in range(2):
            assert client.post("/predict", content=JPEG).status_code == 401
            headers = {"Authorization": "Bearer a-secret-of-sixteen"}
            assert client.post("/predict", content=JPEG, headers=headers).status_code == 200
    assert taken == []


def test_a_full_queue_is_told_by_the_usual_way(taken: list[bool]) -> None:
    """With nobody to answer: the only replica is stopped by the test."""
    with LiveServing("fake:detection", queue=1, time_limit_s=2) as live:
        with live.client() as client:
            assert client.post("/predict", content=JPEG).status_code == 200
        with stopped_replica(), contextlib.ExitStack() as opened:
            parts = urlsplit(live.url)
            waiting = []
            for _ in range(4):
                one = socket.create_connection((parts.hostname, parts.port), timeout=30)
                waiting.append(opened.enter_context(one))
                one.sendall(post(live, JPEG))
                time.sleep(0.05)
            statuses = [_answer(one, [b""]) for one in waiting]
    assert sorted({answer[0] for answer in statuses}) == [429, 504]
    refused = next(answer for answer in statuses if answer[0] == 429)
    assert int(refused[1]["retry-after"]) >= 1
    assert False in taken


@pytest.mark.parametrize("cuts", [(), (300, 2000)], ids=["at once", "in pieces"])
@pytest.mark.parametrize("target", ["/predict", "/predict?conf=0.125"])
def test_a_wish_for_http_2_is_answered_in_http_1(
    server: LiveServing, cuts: tuple[int, ...], target: str
) -> None:
    """As `curl --http2` and Java's client ask, with the body right behind."""
    wish = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    whole = post(server, JPEG, wish, target)
    ends = (*cuts, len(whole))
    pieces = [whole[begin:end] for begin, end in zip((0, *cuts), ends, strict=True)]
    (first, second) = answers(server, [*pieces, post(server, JPEG, target=target)], count=2)
    assert first[0] == second[0] == 200
    assert first[2] == second[2]


def test_headers_without_end_are_refused(server: LiveServing) -> None:
    parts = urlsplit(server.url)
    sent = 0
    with socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nEndless: ")
        with contextlib.suppress(OSError):
            while sent < 5_000_000:
                sent += connection.send(b"a" * 10_000)
                time.sleep(0.001)
    assert sent < 5_000_000, "the server ends the connection"
    (answer,) = answers(server, [post(server, JPEG)])
    assert answer[0] == 200
