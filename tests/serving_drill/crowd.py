"""Connections that do nothing for a while: `python -m serving_drill.crowd ORDER`.

Opens them all, holds them, then sends one request for /health on each.
"""

import asyncio
import json
import resource
import sys
from collections import Counter
from typing import Any

from serving_drill.client import answer_of

_AT_ONCE = 200


async def run(order: dict[str, Any]) -> dict[str, Any]:
    """Open, hold, ask; how many were opened, and what they were answered."""
    opened: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    gate = asyncio.Semaphore(_AT_ONCE)
    answered: Counter[str] = Counter()

    async def connect() -> None:
        async with gate:
            try:
                opened.append(await asyncio.open_connection("127.0.0.1", order["port"]))
            except OSError:
                answered["not connected"] += 1

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with gate:
            try:
                writer.write(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                status, _, _ = await answer_of(reader)
                answered[str(status)] += 1
            except (OSError, asyncio.IncompleteReadError):
                answered["cut"] += 1

    await asyncio.gather(*(connect() for _ in range(order["connections"])))
    print(json.dumps({"opened": len(opened)}), flush=True)
    await asyncio.sleep(order["hold_s"])
    await asyncio.gather(*(ask(*one) for one in opened))
    for _, writer in opened:
        writer.close()
    return {"opened": len(opened), "answered": dict(answered)}


def main() -> None:
    """Run one order, with as many files as the system lets this process have."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(json.dumps(asyncio.run(run(json.loads(sys.argv[1])))))


if __name__ == "__main__":
    main()
