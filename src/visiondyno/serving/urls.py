"""Images that a request names by URL: fetched within limits of place, size and time."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from urllib.parse import urljoin

import httpx

from visiondyno import __version__
from visiondyno.errors import SourceFailed, TooLarge
from visiondyno.serving.addresses import AllowedHosts, Place, read_url

MOST_REDIRECTS = 3
FETCH_LIMIT_S = 10.0
"""For all of one image: names, redirects and content."""

_AT_ONCE = 8
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS = {
    "User-Agent": f"visiondyno/{__version__}",
    "Accept": "image/jpeg, image/png, image/webp, image/bmp, image/*;q=0.5",
    # A compressed body could grow without end here; images are compressed already.
    "Accept-Encoding": "identity",
}

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""The addresses of a host; raises OSError."""


async def resolve(host: str, port: int) -> list[str]:
    """As the machine resolves names.

    Raises:
        OSError: the name has no address.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Fetcher:
    """Fetches what URLs name, from hosts that are allowed."""

    def __init__(
        self,
        allowed: AllowedHosts,
        most_bytes: int,
        limit_s: float = FETCH_LIMIT_S,
        resolve: Resolve = resolve,
    ) -> None:
        """At most `most_bytes` for one request, within `limit_s` for each image."""
        self._allowed = allowed
        self._most_bytes = most_bytes
        self._limit_s = limit_s
        self._resolve = resolve
        self._client: httpx.AsyncClient | None = None
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def all(self, urls: Sequence[str]) -> list[bytes]:
        """The content of each, in order. The first that fails ends the others.

        Raises:
            UrlRefused: a URL may not be fetched.
            SourceFailed: its server failed, refused or was too slow.
            TooLarge: it has more bytes than are taken.
        """
        for url in urls:  # before anything is asked for
            self._allowed.check_name(read_url(url))
        room = _Room(self._most_bytes)
        tasks = [asyncio.ensure_future(self._one(url, room)) for url in urls]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """Close what is open."""
        if self._client is not None:
            await self._client.aclose()

    async def _one(self, url: str, room: "_Room") -> bytes:
        async with self._turns:
            try:
                async with asyncio.timeout(self._limit_s):
                    return await self._follow(url, room)
            except TimeoutError:
                raise SourceFailed(
                    f"The image at '{url:.200}' didn't come within {self._limit_s:g} s."
                ) from None
            except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:  # the last: urljoin's
                why = str(error).rstrip(".") or type(error).__name__
                raise SourceFailed(
                    f"The image at '{url:.200}' couldn't be fetched: {why:.200}."
                ) from error

    async def _follow(self, url: str, room: "_Room") -> bytes:
        """The content; every hop of a redirect is judged anew."""
        for _ in range(MOST_REDIRECTS + 1):
            place = read_url(url)
            self._allowed.check_name(place)
            address = await self._address(place)
            async with self._answer(place, address) as answer:
                if answer.status_code not in _REDIRECTS:
                    return await _content(url, answer, room)
                to = answer.headers.get("location", "")
            url = urljoin(url, to)
        raise SourceFailed(
            f"'{url:.200}' is the end of more than {MOST_REDIRECTS} redirects; give the image's "
            "own URL."
        )

    async def _address(self, place: Place) -> str:
        try:
            addresses = await self._resolve(place.host, place.port)
        except OSError:
            addresses = []
        if not addresses:
            raise SourceFailed(f"The host '{place.host:.120}' has no address; check the URL.")
        for address in addresses:  # one that leads inside makes the name suspicious
            self._allowed.check_address(place, address)
        return addresses[0]

    @contextlib.asynccontextmanager
    async def _answer(self, place: Place, address: str) -> AsyncIterator[httpx.Response]:
        host = f"[{address}]" if ":" in address else address
        url = f"{place.scheme}://{host}:{place.port}{place.target}"
        # Connected by address; certificate and virtual host are the name's.
        headers = {**_HEADERS, "Host": place.authority}
        named = {"sni_hostname": place.host} if place.scheme == "https" else None
        async with self._opened().stream("GET", url, headers=headers, extensions=named) as answer:
            yield answer

    def _opened(self) -> httpx.AsyncClient:
        if self._client is None:
            # No connection is kept: two names behind one address must not share one. No proxy of
            # the environment: it would resolve the name once more.
            limits = httpx.Limits(max_keepalive_connections=0)
            self._client = httpx.AsyncClient(
                trust_env=False, limits=limits, timeout=self._limit_s, follow_redirects=False
            )
        return self._client


class _Room:
    """How many more bytes one request's images may have."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self.left_bytes = most_bytes

    def too_large(self, url: str) -> TooLarge:
        return TooLarge(
            f"With the image at '{url:.200}' it would be more than the "
            f"{self._most_bytes / 1e6:g} MB that a request may have. Name fewer or smaller images, "
            "or raise --max-body-mb."
        )


async def _content(url: str, answer: httpx.Response, room: _Room) -> bytes:
    if answer.status_code != 200:
        raise SourceFailed(f"The server of '{url:.200}' answered with status {answer.status_code}.")
    if answer.headers.get("content-encoding", "identity").lower() != "identity":
        raise SourceFailed(f"The image at '{url:.200}' came compressed though that was refused.")
    declared = answer.headers.get("content-length", "")
    if declared.isdigit() and int(declared[:18]) > room.left_bytes:
        raise room.too_large(url)
    content = bytearray()
    async for chunk in answer.aiter_raw():
        content += chunk
        room.left_bytes -= len(chunk)
        if room.left_bytes < 0:
            raise room.too_large(url)
    return bytes(content)
