"""The direct lane: plain requests for predictions, answered without ASGI.

Where the processor is busy with a model, its caches forget the front's code between two requests,
and a function costs what it costs to be read from memory: uvicorn's cycle, a task, and the layers
of middleware take several times what they take in a loop. So an image that is posted to `/predict`
as it is, with nothing to be said about it, goes from the HTTP parser to the pool and back in three
callbacks.

Whatever isn't plain goes the usual way, and gets the same answer there: forms, JSON, videos, other
headers than these, a query that wasn't seen before, an image that will be refused, a queue that is
full. Keys, other sites' pages, an access log and traces are matters of the usual way too: a server
that has them has no direct lane.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response

from visiondyno.api.hosts import is_loopback_name
from visiondyno.api.http_metrics import HttpMetrics
from visiondyno.api.problems import respond_to
from visiondyno.errors import VisionDynoError
from visiondyno.serving.config import ServingConfig
from visiondyno.serving.inference import Inference, server_timing
from visiondyno.serving.pool import Predicted
from visiondyno.serving.predict import PredictEndpoint, problem_of
from visiondyno.serving.sniffing import check_image
from visiondyno.serving.wire import Item, Kind, Media
from visiondyno.telemetry.ids import request_id_of

_PATH = "/predict"
_PLAIN = frozenset(
    {
        *(b"", b"application/octet-stream", b"application/x-www-form-urlencoded"),
        *(b"image/jpeg", b"image/png", b"image/webp", b"image/bmp"),
    }
)
_OTHERWISE = frozenset(
    {
        *(b"transfer-encoding", b"content-encoding", b"expect", b"upgrade", b"origin"),
        *(b"access-control-request-method", b"authorization", b"traceparent"),
    }
)
"""Headers whose meaning is the usual way's."""
_HOSTS_KEPT = 64
_DIGITS = 12


@dataclass(slots=True)
class Direct:
    """A request in the direct lane.

    Attributes:
        options: of its item.
        length: of its body.
        request_id: the client's or ours.
        began_s: monotonic.
    """

    options: dict[str, Any]
    length: int
    request_id: str
    began_s: float


@dataclass(slots=True)
class _Head:
    length: int = -1
    accept: str = ""
    given_id: str | None = None


class DirectLane:
    """See the module's text."""

    def __init__(
        self,
        inference: Inference,
        endpoint: PredictEndpoint,
        http_metrics: HttpMetrics,
        config: ServingConfig,
        *,
        only_loopback: bool,
    ) -> None:
        """`only_loopback`: other names than this machine's in `Host` are to be refused."""
        self._inference = inference
        self._endpoint = endpoint
        self._metrics = http_metrics
        self._most_bytes = config.max_body_bytes
        self._most_pixels = config.max_megapixels * 1e6
        self._hosts: dict[bytes, bool] | None = {} if only_loopback else None

    def admit(self, url: bytes, headers: list[tuple[bytes, bytes]]) -> Direct | None:
        """The request, if it may come; its body isn't known yet."""
        path, _, query = url.partition(b"?")
        head = self._read(headers) if path == b"/predict" else None
        if head is None or not 0 < head.length <= self._most_bytes:
            return None
        wishes = self._endpoint.known_wishes(query, head.accept)
        if wishes is None or wishes[0].form != "json" or wishes[0].of_video:
            return None
        return Direct(wishes[1], head.length, request_id_of(head.given_id), time.monotonic())

    def _read(self, headers: list[tuple[bytes, bytes]]) -> "_Head | None":
        """The headers that matter; None where one is the usual way's affair."""
        head = _Head()
        for name, value in headers:
            if name == b"accept":
                head.accept = value.decode("latin-1")
            elif name == b"x-request-id":
                head.given_id = value.decode("latin-1")
            elif name == b"content-length":
                # Digits only, of one such header: the parser refuses anything else.
                head.length = int(value) if value.isdigit() and len(value) <= _DIGITS else -1
            elif (
                name in _OTHERWISE
                or (name == b"content-type" and value not in _PLAIN)
                or (name == b"host" and not self._may_be_called(value))
            ):
                return None
        return head

    def begin(
        self, direct: Direct, body: bytes, write: Callable[[list[bytes]], None]
    ) -> Callable[[], None] | None:
        """Ask for a prediction; what gives it up, or None: it must go the usual way.

        `write` is given the answer: status line and headers without those of the server and the
        connection, then the body.
        """
        try:
            check_image(body, "The image", self._most_pixels)
            item = Item(Kind.IMAGE, body, direct.options)

            def ended(found: Predicted | BaseException) -> None:
                write(self._answer(direct, found))

            give_up = self._inference.begin(item, ended)
        except (VisionDynoError, HTTPException):
            return None

        def gone() -> None:
            self._observe(direct, 499)
            give_up()

        return gone

    def _answer(self, direct: Direct, found: Predicted | BaseException) -> list[bytes]:
        timing = b""
        if isinstance(found, Predicted) and found.answer.media is Media.JSON:
            status, media_type = 200, b"application/json"
            content = self._endpoint.whole([found])
            timing = b"server-timing: %b\r\n" % server_timing([found]).encode()
            further = b""
        else:
            response = self._problem(found)
            status, content = response.status_code, bytes(response.body)
            media_type = (response.media_type or "").encode()
            further = b"".join(
                b"%b: %b\r\n" % (name, value)
                for name, value in response.raw_headers
                if name not in (b"content-type", b"content-length")
            )
        self._observe(direct, status)
        head = b"content-type: %b\r\ncontent-length: %d\r\n%b%bx-request-id: %b\r\n" % (
            media_type,
            len(content),
            timing,
            further,
            direct.request_id.encode("latin-1"),
        )
        return [str(status).encode(), head, content]

    @staticmethod
    def _problem(found: Predicted | BaseException) -> Response:
        if isinstance(found, Predicted):
            return problem_of([found], _PATH)
        assert isinstance(found, Exception), "an item ends by an answer or an error"
        return respond_to(found, _PATH)

    def _observe(self, direct: Direct, status: int) -> None:
        self._metrics.observe("POST", _PATH, status, time.monotonic() - direct.began_s)

    def _may_be_called(self, host: bytes) -> bool:
        if self._hosts is None:
            return True
        known = self._hosts.get(host)
        if known is None:
            if len(self._hosts) >= _HOSTS_KEPT:
                self._hosts.clear()
            known = self._hosts[host] = is_loopback_name(host.decode("latin-1"))
        return known
