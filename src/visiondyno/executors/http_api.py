"""Requests to an HTTP API with a key, made again where that is safe and may help."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass

import httpx
from httpx import codes

from visiondyno import __version__
from visiondyno.errors import RateLimited, SpecError, TransportDown, Unavailable, VisionDynoError
from visiondyno.executors.breaker import Breaker, Unreachable
from visiondyno.executors.server_wire import (
    Json,
    checked_url,
    connection_error,
    foreign_error,
    key_headers,
    problem_error,
    retry_after_s,
)
from visiondyno.executors.throttle import Throttle
from visiondyno.loopback import past_proxies

Sleep = Callable[[float], Awaitable[None]]

ATTEMPTS = 6
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 8.0
_LONGEST_WAIT_S = 60.0
"""A server that asks to wait for longer is not waited for."""
REQUEST_TIMEOUT_S = 60.0
_CONNECT_S = 10.0
_TOO_MANY = 429
_MAY_PASS = frozenset({408, 425, _TOO_MANY, 500, 502, 503, 504})
_SAYS_NOTHING = frozenset({codes.UNAUTHORIZED, codes.FORBIDDEN, codes.NOT_FOUND})
"""Who asks is wrong, or what is asked for isn't there: the endpoint is neither well nor ill."""
_HEALTH = "health"
"""It may answer where nothing else does: its failures count, its answers don't."""
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class Later(Exception):
    """A request failed for a reason that may pass.

    Attributes:
        error: what to raise if it doesn't.
        wait_s: how long the server asked to wait; None where it didn't.
        is_refused: whether the server certainly did nothing, so that asking again is always safe.
    """

    def __init__(
        self, error: VisionDynoError, *, wait_s: float | None = None, is_refused: bool = False
    ) -> None:
        self.error = error
        self.wait_s = wait_s
        self.is_refused = is_refused
        super().__init__(error.message)

    @property
    def asks_too_long(self) -> bool:
        """Whether the server asks to wait for longer than anyone waits."""
        return (self.wait_s or 0.0) > _LONGEST_WAIT_S


@dataclass(frozen=True, slots=True)
class Guards:
    """What stands between requests and an endpoint.

    Attributes:
        throttle: holds each try to the quota of its route, the path's first part.
        breaker: is told how requests ended, all their tries together: a failure is no connection,
            or an answer that the server can't serve. A key that isn't taken and an endpoint that
            isn't there are neither failure nor success.
    """

    throttle: Throttle
    breaker: Breaker


class HttpApi:
    """One HTTP API at `url`. Safe for use from one event loop.

    The key goes into a header and nowhere else; no redirect is followed.

    Args:
        url: where the API's paths begin.
        api_key: sent as bearer token; None sends none.
        refusal: the error of an answer that isn't a success.
        if_silent: the next step where nothing listens at `url`.
        transport: httpx's, for an application in this process.
        sleep: waits so many seconds between attempts.
        guards: of an endpoint with quotas.

    Raises:
        SpecError: `url` or `api_key` can't be one.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None,
        *,
        refusal: Callable[[httpx.Response], VisionDynoError],
        if_silent: str,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Sleep = asyncio.sleep,
        guards: Guards | None = None,
    ) -> None:
        self.url = checked_url(url)
        self._refusal = refusal
        self._if_silent = if_silent
        self._sleep = sleep
        self._throttle = None if guards is None else guards.throttle
        self._breaker = None if guards is None else guards.breaker
        self._http = httpx.AsyncClient(
            base_url=self.url,
            headers={"User-Agent": f"visiondyno/{__version__}", **key_headers(api_key)},
            timeout=httpx.Timeout(REQUEST_TIMEOUT_S, connect=_CONNECT_S),
            # Every watched job holds a connection.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
            transport=transport,
            mounts=past_proxies(self.url),
            follow_redirects=False,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    def check_open(self) -> None:
        """Refuse what comes after `close`.

        Raises:
            SpecError: it is closed.
        """
        if self._http.is_closed:
            raise self.closed_error()

    def closed_error(self) -> SpecError:
        """What is asked after `close` is this error."""
        return SpecError("This executor is closed; make a new one.")

    async def ask(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        is_repeatable: bool = True,
        tries: int = ATTEMPTS,
        silence_s: float = REQUEST_TIMEOUT_S,
    ) -> httpx.Response:
        """The answer to one request, a success or not; made up to `tries` times.

        Args:
            method: HTTP's.
            path: below the URL.
            body: JSON.
            headers: beside the usual ones.
            is_repeatable: whether asking twice is as good as once. If not, it is asked again only
                where the server certainly did nothing.
            tries: at least 1.
            silence_s: how long the server may say nothing.

        Raises:
            RateLimited: the server still wants to be asked later.
            Unreachable: it can't be reached, and nothing came to it.
            TransportDown: it can't be reached, or goes on answering that it can't serve.
            SpecError: this is closed.
        """
        all_headers = dict(headers or {})
        if body is not None:
            all_headers["Content-Type"] = "application/json"
        failures, is_in_doubt = 0, False
        while True:
            try:
                async with self.opened(
                    method, path, body=body, headers=all_headers, silence_s=silence_s
                ) as response:
                    await response.aread()
            except Later as later:
                failures += 1
                is_in_doubt = is_in_doubt or not later.is_refused
                is_risky = is_in_doubt and not is_repeatable
                if is_risky or failures == tries or later.asks_too_long:
                    self._note_failure(later.error)
                    raise _last_word(
                        later.error, is_in_doubt=is_in_doubt, is_risky=is_risky
                    ) from later.__cause__
                await self.pause(failures, later)
            else:
                self._note_answer(response, path)
                return response

    async def ask_json(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        is_repeatable: bool = True,
        tries: int = ATTEMPTS,
        silence_s: float = REQUEST_TIMEOUT_S,
    ) -> Json:
        """The object that a successful answer holds; arguments and errors as `ask`.

        Raises:
            VisionDynoError: the answer is no success: what it tells of.
            Unavailable: it holds something else.
        """
        response = await self.ask(
            method,
            path,
            body=body,
            headers=headers,
            is_repeatable=is_repeatable,
            tries=tries,
            silence_s=silence_s,
        )
        return self.json_of(response)

    def json_of(self, response: httpx.Response) -> Json:
        """The object that a successful answer holds; errors as `ask_json`."""
        if not response.is_success:
            raise self._refusal(response)
        try:
            found = response.json()
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise foreign_error(response)
        return found

    @asynccontextmanager
    async def opened(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        silence_s: float = REQUEST_TIMEOUT_S,
    ) -> AsyncIterator[httpx.Response]:
        """The answer while it comes in; one try.

        Args:
            method: HTTP's.
            path: below the URL.
            body: its kind is among the headers.
            headers: beside the usual ones.
            silence_s: how long the server may say nothing.

        Raises:
            Later: it failed, when it was asked or while it was read, for what may pass.
            SpecError: this is closed.
        """
        self.check_open()
        timeout = httpx.Timeout(REQUEST_TIMEOUT_S, connect=_CONNECT_S, read=silence_s)
        turn = nullcontext() if self._throttle is None else self._throttle.turn(_route(path))
        try:
            async with (
                turn,
                self._http.stream(
                    method, path, content=body, headers=headers, timeout=timeout
                ) as response,
            ):
                if response.status_code in _MAY_PASS:
                    await response.aread()
                    raise self._later(response)
                yield response
        except httpx.RequestError as error:
            down = connection_error(self.url, error, self._if_silent)
            is_refused = isinstance(error, _NEVER_SENT)
            if is_refused:
                down = Unreachable(down.message)
            raise Later(down, is_refused=is_refused) from error

    async def pause(self, failures: int, later: Later) -> None:
        """Wait before the next attempt, after so many that failed.

        The pauses double and are drawn evenly from 0 on (full jitter), so that clients that failed
        together don't come back together; what the server asks for is waited for in any case.

        Raises:
            VisionDynoError: `later.error`, where the server asks for too long.
        """
        if later.asks_too_long:
            raise later.error
        asked_s = later.wait_s or 0.0
        longest_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**failures)
        await self._sleep(asked_s + random.uniform(0.0, longest_s))  # noqa: S311 - no secret

    def _note_answer(self, response: httpx.Response, path: str) -> None:
        if self._breaker is None:
            return
        status, route = response.status_code, _route(path)
        # A wrong key or endpoint is told as such each time: an open breaker would hide it.
        if status not in _SAYS_NOTHING and route != _HEALTH:
            self._breaker.succeeded()

    def _note_failure(self, error: VisionDynoError) -> None:
        if self._breaker is None:
            return
        if isinstance(error, RateLimited):
            self._breaker.succeeded()
        else:
            self._breaker.failed(error.message)

    def _later(self, response: httpx.Response) -> Later:
        status, wait_s = response.status_code, retry_after_s(response)
        said = problem_error(response)
        if status == _TOO_MANY:
            if not isinstance(said, RateLimited):
                said = RateLimited(f"{self.url} asks for fewer requests; wait and try again.")
            said.retry_after_s = wait_s
            return Later(said, wait_s=wait_s, is_refused=True)
        if isinstance(said, Unavailable):
            return Later(TransportDown(said.message), wait_s=wait_s)
        detail = "; look at its log and try again." if said is None else f": {said.message}"
        down = TransportDown(f"The server at {self.url} answers {status}{detail}")
        return Later(down, wait_s=wait_s)


def _route(path: str) -> str:
    return path.partition("?")[0].split("/")[1]


def _last_word(error: VisionDynoError, *, is_in_doubt: bool, is_risky: bool) -> VisionDynoError:
    """What is raised after the last try, which may have been another one than the one in doubt."""
    if is_risky:
        return TransportDown(f"{error.message} Whether it did what was asked isn't known.")
    if is_in_doubt and isinstance(error, Unreachable):
        return TransportDown(error.message)
    return error
