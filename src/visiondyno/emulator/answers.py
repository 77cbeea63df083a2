"""Requests and answers of the emulator: bodies within limits, JSON, answers that are cut off."""

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from visiondyno.errors import TooLarge


def json_answer(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer that every client can read, whatever the text in it."""
    body = json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
    return Response(body, status, headers, media_type="application/json")


async def read_body(request: Request, most_bytes: int) -> bytes:
    """The request's body, read to its end, so that the answer can be.

    Raises:
        TooLarge: it has more than `most_bytes`.
    """
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size <= most_bytes:
            pieces.append(piece)
    if size > most_bytes:
        raise TooLarge(
            f"The body has {size / 1e6:.1f} MB; at most {most_bytes / 1e6:g} MB are taken here. "
            "Put large data into a store and refer to it."
        )
    return b"".join(pieces)


class CutResponse(Response):
    """Half of another answer; then the server closes the connection."""

    def __init__(self, whole: Response) -> None:
        super().__init__(status_code=whole.status_code)
        self.raw_headers = whole.raw_headers
        self.body = bytes(whole.body)

    async def __call__(self, _: Scope, __: Receive, send: Send) -> None:
        start = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **start})
        half = self.body[: len(self.body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})
