"""How new work comes to an endpoint: allowed by breaker and budget, and whole or not at all."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx

from visiondyno.errors import InputError, RateLimited, Unavailable
from visiondyno.executors.breaker import Breaker, Unreachable
from visiondyno.executors.http_api import ATTEMPTS, REQUEST_TIMEOUT_S, HttpApi
from visiondyno.executors.runpod_cost import Account, CostMeter

_CLOSING_S = 30.0
"""How long an end waits for what is under way."""
_T = TypeVar("_T")


class Submissions:
    """Requests that make work at one endpoint.

    Args:
        api: the endpoint's.
        breaker: says whether it gets new work.
        meter: says whether it may cost more; None allows all.
    """

    def __init__(self, api: HttpApi, breaker: Breaker, meter: CostMeter | None) -> None:
        self._api = api
        self._breaker = breaker
        self._meter = meter
        self._under_way: set[asyncio.Task[Any]] = set()

    async def whole(
        self, work: Coroutine[Any, Any, _T], if_abandoned: Callable[[_T], None] | None = None
    ) -> _T:
        """What `work` gives, which runs to its end even where its caller is cancelled.

        Whoever cancels in mid-request would leave a job that nobody knows the id of.

        Args:
            work: one submission.
            if_abandoned: called with what it gave, where nobody waits for that any more.

        Raises:
            SpecError: the executor was closed meanwhile.
        """
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise self._api.closed_error() from None

            def abandoned(done: "asyncio.Task[_T]") -> None:
                if not done.cancelled() and done.exception() is None and if_abandoned is not None:
                    if_abandoned(done.result())

            task.add_done_callback(abandoned)
            raise

    async def close(self) -> None:
        """Wait for what is under way, for half a minute at most."""
        if not self._under_way:
            return
        _, late = await asyncio.wait(self._under_way, timeout=_CLOSING_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def post(
        self,
        path: str,
        *,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        silence_s: float = REQUEST_TIMEOUT_S,
    ) -> httpx.Response:
        """The answer to a request that mustn't be made twice; arguments as `HttpApi.ask`.

        While the breaker is open, one request in turn tries again: `/health` is asked first, for
        that puts no job in doubt.

        Raises:
            Unreachable: nothing came to the endpoint, or its breaker is open.
            Unauthorized, Forbidden, NotFound: it is there and takes nothing from here.
            TransportDown: it may have come, or not.
            RateLimited: the endpoint wants fewer requests.
        """
        with self._breaker.admitted() as is_trial:
            if is_trial:
                await self._ask_health()
            return await self._api.ask(
                "POST",
                path,
                body=body,
                headers=headers,
                is_repeatable=False,
                tries=1 if is_trial else ATTEMPTS,
                silence_s=silence_s,
            )

    @contextmanager
    def charged(self, admit: Callable[[CostMeter], Account]) -> Iterator[Callable[[str], None]]:
        """Around one submission; gives what to call with the job's id once it is accepted.

        Raises:
            BudgetSpent: it could cost too much.
        """
        meter = self._meter
        if meter is None:
            yield lambda _: None
            return
        account = admit(meter)
        try:
            yield lambda job_id: meter.accepted(account, job_id)
        except (InputError, Unreachable):
            meter.withdrawn(account)
            raise
        except BaseException:
            meter.doubted(account)
            raise

    async def _ask_health(self) -> None:
        try:
            await self._api.ask_json("GET", "/health", tries=1)
        except (Unavailable, RateLimited) as error:
            raise Unreachable(error.message) from error
