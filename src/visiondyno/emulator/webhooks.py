"""Webhooks as RunPod sends them: a POST of the status, tried three times, 10 s apart."""

import asyncio
from collections.abc import Awaitable, Callable

import httpx

from visiondyno.emulator.records import Json

TRIES, PAUSE_S = 3, 10.0
_TIMEOUT_S = 10.0


class WebhookSender:
    """Sends in the background.

    Args:
        sleep: waits so many seconds of the endpoint's clock.
        on_failure: called with URL, job's id and reason of each try that failed.
    """

    def __init__(
        self,
        sleep: Callable[[float], Awaitable[None]],
        on_failure: Callable[[str, str, str], None],
    ) -> None:
        self._sleep = sleep
        self._on_failure = on_failure
        self._sending: set[asyncio.Task[None]] = set()

    def send(self, url: str, status: Json) -> None:
        """Begin to tell the URL."""
        task = asyncio.create_task(self._send(url, status))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def close(self) -> None:
        """Stop what is still tried."""
        sending = list(self._sending)
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)

    async def _send(self, url: str, status: Json) -> None:
        async with httpx.AsyncClient(timeout=_TIMEOUT_S) as http:
            for attempt in range(TRIES):
                if attempt:
                    await self._sleep(PAUSE_S)
                try:
                    response = await http.post(url, json=status)
                except (httpx.HTTPError, httpx.InvalidURL) as error:
                    reason = str(error) or type(error).__name__
                else:
                    if response.is_success:
                        return
                    reason = f"it answered {response.status_code}"
                self._on_failure(url, status["id"], reason)
