"""The load in a process of its own: `python -m serving_drill.client ORDER`, a JSON object.

An open loop: requests go out when they are due, whatever became of earlier ones. Each answer is
compared with the one that is known for its image.
"""

import asyncio
import json
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_TOLERANCE_PIXELS = 0.02
_TOLERANCE_SCORE = 2e-4
_MOST_SURPRISES = 5
REFUSALS = {429: b"retry-after", 503: b"retry-after", 504: b""}
"""Documented ones, and what their headers must have beside the problem document's type."""


@dataclass
class Found:
    """What came of all requests.

    Attributes:
        statuses: how many had each status; `cut` is a connection that ended without an answer.
        wrong: 200s whose boxes aren't those of the image.
        unexplained: other statuses, or refusals that lack what `REFUSALS` says.
        accepted_ms: from the scheduled time to the answer, of each 200.
        refused_ms: of each refusal.
        late_ms: how late the latest request was sent.
        good_at_s: since the beginning, when each 200 came.
        surprises: what the first of the `unexplained` said.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    unexplained: int = 0
    accepted_ms: list[float] = field(default_factory=list)
    refused_ms: list[float] = field(default_factory=list)
    late_ms: float = 0.0
    good_at_s: list[float] = field(default_factory=list)
    surprises: list[str] = field(default_factory=list)


class Load:
    """Requests at a rate."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.port = order["port"]
        self.rate = order["rate"]
        self.seconds = order["seconds"]
        self.images = [Path(one).read_bytes() for one in order["images"]]
        self.known = order["known"]
        self.found = Found()
        self._idle: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = deque()

    async def run(self) -> Found:
        """Send them all, and wait for what comes of them."""
        loop = asyncio.get_running_loop()
        begin = loop.time()
        tasks = []
        for number in range(int(self.rate * self.seconds)):
            due = begin + number / self.rate
            if (left := due - loop.time()) > 0:
                await asyncio.sleep(left)
            self.found.late_ms = max(self.found.late_ms, (loop.time() - due) * 1e3)
            tasks.append(asyncio.create_task(self._one(number % len(self.images), due, begin)))
        await asyncio.gather(*tasks)
        return self.found

    async def _one(self, which: int, due: float, begin: float) -> None:
        loop = asyncio.get_running_loop()
        try:
            status, headers, body = await self._ask(self.images[which])
        except (OSError, asyncio.IncompleteReadError):
            self.found.statuses["cut"] += 1
            return
        took_ms = (loop.time() - due) * 1e3
        self.found.statuses[str(status)] += 1
        if status == 200:
            self.found.accepted_ms.append(took_ms)
            self.found.good_at_s.append(loop.time() - begin)
            self.found.wrong += not same(json.loads(body)["predictions"][0], self.known[which])
        else:
            self.found.refused_ms.append(took_ms)
            if (
                status not in REFUSALS
                or REFUSALS[status] not in headers
                or b"application/problem+json" not in headers
            ):
                self.found.unexplained += 1
                if len(self.found.surprises) < _MOST_SURPRISES:
                    self.found.surprises.append(f"{status}: {body.decode()}")

    async def _ask(self, image: bytes) -> tuple[int, bytes, bytes]:
        if self._idle:
            reader, writer = self._idle.pop()
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            head = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n"
            writer.write(head % len(image) + image)
            status, headers, body = await answer_of(reader)
        except BaseException:
            writer.close()
            raise
        if b"connection: close" in headers:
            writer.close()
        else:
            self._idle.append((reader, writer))
        return status, headers, body


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, bytes, bytes]:
    """Status, headers (lower case) and body of the next answer."""
    headers = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(headers.split(b"content-length:")[1].split(b"\r\n")[0])
    return int(headers.split()[1]), headers, await reader.readexactly(length)


def same(found: dict[str, Any], known: dict[str, Any]) -> bool:
    """Whether the boxes are the known ones."""
    if found["classes"] != known["classes"]:
        return False
    scores = zip(found["scores"], known["scores"], strict=True)
    if any(abs(a - b) > _TOLERANCE_SCORE for a, b in scores):
        return False
    boxes = zip(found["boxes_xyxy"], known["boxes_xyxy"], strict=True)
    return all(
        abs(a - b) <= _TOLERANCE_PIXELS
        for one, other in boxes
        for a, b in zip(one, other, strict=True)
    )


def main() -> None:
    """Run one order."""
    load = Load(json.loads(sys.argv[1]))
    begin = time.monotonic()
    found = asyncio.run(load.run())
    print(json.dumps({**vars(found), "seconds": time.monotonic() - begin}))


if __name__ == "__main__":
    main()
