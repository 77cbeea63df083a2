"""Blobs of another server, over its `/blobs/{sha256}`."""

import asyncio
import json
import random
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from io import FileIO
from pathlib import Path
from typing import TypeVar

import httpx

from visiondyno import __version__
from visiondyno.blobs.base import check_sha256, not_found
from visiondyno.blobs.remote import RemoteBlobs
from visiondyno.blobs.streams import Content, file_chunks
from visiondyno.errors import (
    Forbidden,
    NotFound,
    SpecError,
    StorageFull,
    TooLarge,
    TransportDown,
    Unauthorized,
    VisionDynoError,
)
from visiondyno.loopback import past_proxies

_ATTEMPTS = 5
_TIMEOUT_S = 60.0
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 30.0
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_CHECK_ADDRESS = "Check the address: is it http(s)://server/blobs?"
_CHECK_KEY = "Check the API key"
_REFUSED: dict[int, tuple[type[VisionDynoError], str]] = {
    400: (SpecError, "Send it again"),
    401: (Unauthorized, _CHECK_KEY),
    403: (Forbidden, _CHECK_KEY),
    404: (NotFound, _CHECK_ADDRESS),
    413: (TooLarge, "Send less, or raise the server's limit"),
    422: (SpecError, "Send it again"),
    507: (StorageFull, "What it stores is intact; make room there, then try again"),
}


T = TypeVar("T")


class _Passing(Exception):
    """It failed for a reason that may pass."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class HttpBlobs(RemoteBlobs):
    """Client of `HEAD`, `PUT` and `GET /blobs/{sha256}`.

    What fails for a reason that may pass (no connection, 429, 5xx but 507) is tried again, five
    times, with waits that double, are scattered, and follow the server's `Retry-After`. A download
    goes on where it broke off. The server keeps, verifies and collects what it stores.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        spool: Path | None = None,
        timeout_s: float = _TIMEOUT_S,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Name the server; nothing is asked of it yet.

        Args:
            url: `http(s)://server/blobs`.
            api_key: sent as `Authorization: Bearer`; None where none is needed.
            spool: as `RemoteBlobs`.
            timeout_s: to connect, and to wait for a next byte.
            sleep: waits between attempts; seconds.

        Raises:
            SpecError: `url` is no address.
        """
        super().__init__(spool)
        try:
            self._url = str(httpx.URL(url)).rstrip("/")
        except httpx.InvalidURL as error:
            raise SpecError(f"'{url}' isn't the address of a server of blobs: {error}") from error
        self._sleep = sleep
        headers = {"Accept-Encoding": "identity", "User-Agent": f"visiondyno/{__version__}"}
        if api_key is not None:
            headers["Authorization"] = f"Bearer {api_key}"
        self._client = httpx.AsyncClient(
            timeout=timeout_s, headers=headers, mounts=past_proxies(self._url)
        )

    def __str__(self) -> str:
        return self._url

    async def has(self, sha256: str) -> bool:
        try:
            await self._ask_size(check_sha256(sha256))
        except NotFound:
            return False
        return True

    async def size(self, sha256: str) -> int:
        return await self._ask_size(check_sha256(sha256))

    async def close(self) -> None:
        await self._client.aclose()

    async def _ask_size(self, sha256: str) -> int:
        async def attempt() -> int:
            async with self._asked("HEAD", sha256) as response:
                length = response.headers.get("Content-Length", "")
                if not length.isdigit():
                    raise TransportDown(
                        f"{self} doesn't say how long {sha256} is: it isn't a server of blobs. "
                        "Check VISIONDYNO_BLOBS_URL"
                    )
                return int(length)

        return await self._repeat(attempt)

    async def _upload(self, file: FileIO, content: Content) -> None:
        if await self.has(content.sha256):
            return

        async def attempt() -> None:
            file.seek(0)
            async with self._asked(
                "PUT",
                content.sha256,
                content=file_chunks(file, self._spool),
                headers={
                    "Content-Length": str(content.size_bytes),
                    "Content-Type": "application/octet-stream",
                },
            ):
                return

        await self._repeat(attempt)

    async def _download(
        self,
        sha256: str,
        versions: list[str],  # noqa: ARG002 - HTTP knows none
    ) -> AsyncGenerator[bytes, None]:
        got_bytes, furthest, failures = 0, 0, 0
        while True:
            try:
                headers = {"Range": f"bytes={got_bytes}-"} if got_bytes else {}
                async with self._asked("GET", sha256, headers=headers) as response:
                    unwanted = _unwanted_bytes(response, got_bytes)
                    # Pieces as they come: a buffer of pieces would be lost with the connection.
                    async for chunk in response.aiter_raw():
                        wanted = chunk[unwanted:]
                        unwanted -= len(chunk) - len(wanted)
                        if wanted:
                            got_bytes += len(wanted)
                            yield wanted
            except _Passing as reason:
                failures = 1 if got_bytes > furthest else failures + 1
                furthest = got_bytes
                await self._wait(failures, reason)
            else:
                return

    @asynccontextmanager
    async def _asked(
        self,
        method: str,
        sha256: str,
        *,
        content: AsyncIterator[bytes] | None = None,
        headers: dict[str, str] | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """One request; an answer that is none becomes an error."""
        try:
            async with self._client.stream(
                method, f"{self._url}/{sha256}", content=content, headers=headers
            ) as response:
                await self._check(response, sha256)
                yield response
        except httpx.TransportError as error:
            raise _Passing(str(error) or type(error).__name__) from error

    async def _check(self, response: httpx.Response, sha256: str) -> None:
        status = response.status_code
        if response.is_success:
            return
        detail = await _detail(response)
        if status in _TRY_AGAIN:
            raise _Passing(f"it answers {status}{detail}", _retry_after_s(response))
        if status == 404 and response.request.method != "PUT":
            raise not_found(sha256, self)
        error, next_step = _REFUSED.get(status, (TransportDown, _CHECK_ADDRESS))
        raise error(f"{self} refused the blob {sha256} with status {status}{detail}. {next_step}")

    async def _repeat(self, attempt: Callable[[], Awaitable[T]]) -> T:
        failures = 0
        while True:
            try:
                return await attempt()
            except _Passing as reason:
                failures += 1
                await self._wait(failures, reason)

    async def _wait(self, failures: int, reason: _Passing) -> None:
        if failures >= _ATTEMPTS:
            raise TransportDown(
                f"{self} can't be reached just now: {reason} (tried {failures} times). Check the "
                "address and the network, then try again"
            ) from reason
        longest = _FIRST_WAIT_S * 2**failures
        # Scattered, so that clients that failed together don't come back together.
        wait_s = random.uniform(longest / 2, longest)  # noqa: S311 - no secret depends on it
        if reason.wait_s is not None:
            wait_s = reason.wait_s
        await self._sleep(min(wait_s, _LONGEST_WAIT_S))


def _unwanted_bytes(response: httpx.Response, got_bytes: int) -> int:
    """How many bytes at the answer's beginning were there already."""
    if response.status_code != 206:
        return got_bytes
    first = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if first is None or int(first[1]) > got_bytes:
        raise _Passing("it sends another range than was asked for")
    return got_bytes - int(first[1])


async def _detail(response: httpx.Response) -> str:
    """The sentence of a problem document (RFC 9457), if the answer is one."""
    try:
        detail = json.loads(await response.aread())["detail"]
    except (ValueError, KeyError, TypeError):
        return ""
    return f": {detail}" if isinstance(detail, str) else ""


def _retry_after_s(response: httpx.Response) -> float | None:
    given = response.headers.get("Retry-After", "")
    return float(given) if given.isascii() and given.isdigit() else None
