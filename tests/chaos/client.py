"""A client that doesn't give up: what an answer leaves in doubt is asked again."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import httpx

_PAUSE_S = 0.2
_MOST_AT_ONCE = 16


class Client:
    """Over the RunPod-compatible routes of one server, which may be away for a while."""

    def __init__(self, url: str, limit_s: float) -> None:
        self._deadline_s = time.monotonic() + limit_s
        self._http = httpx.AsyncClient(base_url=url, timeout=30)
        self._turns = asyncio.Semaphore(_MOST_AT_ONCE)

    async def submit(self, number: int, seconds: float, ledger: str) -> str:
        """Submit job `number`; asked again under the same key it is still one job."""
        answer = await self._ask(
            "POST",
            "/v2/default/run",
            json={"input": {"number": number, "seconds": seconds, "ledger": ledger}},
            headers={"Idempotency-Key": f"job-{number}"},
        )
        return str(answer["id"])

    async def wait_for(self, count: int) -> None:
        """Until `count` jobs have ended."""
        while True:
            jobs = (await self._ask("GET", "/v2/default/health"))["jobs"]
            if jobs["completed"] + jobs["failed"] >= count:
                return
            await asyncio.sleep(_PAUSE_S)

    async def answers(self, job_ids: Sequence[str]) -> list[dict[str, Any]]:
        """Each job's status, in order."""
        paths = [f"/v2/default/status/{job_id}" for job_id in job_ids]
        return list(await asyncio.gather(*(self._ask("GET", path) for path in paths)))

    async def close(self) -> None:
        await self._http.aclose()

    async def _ask(self, method: str, path: str, **rest: Any) -> dict[str, Any]:
        while True:
            try:
                async with self._turns:
                    answer = await self._http.request(method, path, **rest)
                if answer.status_code < 400:
                    found: dict[str, Any] = answer.json()
                    return found
                said = answer.text
                if answer.status_code < 500:
                    raise AssertionError(f"{method} {path}: {answer.status_code} {said}")
            except httpx.HTTPError as error:
                said = repr(error)
            if time.monotonic() > self._deadline_s:
                raise AssertionError(f"{method} {path} never worked; last: {said}")
            await asyncio.sleep(_PAUSE_S)
