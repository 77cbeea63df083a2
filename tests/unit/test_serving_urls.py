"""Fetching what URLs name, from real servers of this machine."""

import asyncio
import gzip
import threading
from collections.abc import Iterator

import pytest
from coroutines import run

from file_server import FileServer, Served
from visiondyno.errors import SourceFailed, TooLarge, UrlRefused
from visiondyno.serving.addresses import AllowedHosts
from visiondyno.serving.urls import MOST_REDIRECTS, Fetcher

IMAGE = bytes(range(256)) * 10


@pytest.fixture
def files() -> Iterator[FileServer]:
    with FileServer() as server:
        server.files["image"] = Served(IMAGE)
        server.files["chunked"] = Served(IMAGE, chunked=True)
        yield server


def fetched(
    *urls: str,
    allowed: tuple[str, ...] = ("127.0.0.1", "images.example"),
    most_bytes: int = 10_000,
    limit_s: float = 30.0,
    addresses: tuple[str, ...] = ("127.0.0.1",),
) -> list[bytes]:
    """What a fetcher gets, where every name has these addresses."""

    async def scenario() -> list[bytes]:
        async def resolve(host: str, port: int) -> list[str]:
            if host == "unknown.example":
                raise OSError("no such name")
            return [host] if host[0].isdigit() else list(addresses)

        fetcher = Fetcher(AllowedHosts(allowed), most_bytes, limit_s, resolve)
        try:
            return await fetcher.all(urls)
        finally:
            await fetcher.close()

    found: list[bytes] = run(scenario())
    return found


def named(files: FileServer, path: str = "image") -> str:
    """A URL of the server by a name."""
    return f"{files.url}{path}".replace("127.0.0.1", "images.example")


def test_files_come_in_the_order_of_their_urls(files: FileServer) -> None:
    files.files["other"] = Served(b"other")
    urls = [files.url + name for name in ("image", "other", "chunked", "image")]
    assert fetched(*urls) == [IMAGE, b"other", IMAGE, IMAGE]


def test_the_connection_is_made_to_the_address_that_was_checked(files: FileServer) -> None:
    # The name leads nowhere by the machine's own resolver: only the checked address can answer.
    assert fetched(named(files)) == [IMAGE]


@pytest.mark.parametrize("addresses", [("10.0.0.7",), ("93.184.216.34", "127.0.0.1")], ids=[0, 1])
def test_a_public_name_that_leads_inside_is_not_asked(
    files: FileServer, addresses: tuple[str, ...]
) -> None:
    with pytest.raises(UrlRefused, match="inside"):
        fetched("http://images.example/image", allowed=("public",), addresses=addresses)
    assert files.asked == []


def test_nothing_is_asked_for_before_every_url_is_allowed(files: FileServer) -> None:
    with pytest.raises(UrlRefused, match=r"evil\.example"):
        fetched(files.url + "image", "http://evil.example/image")
    assert files.asked == []


def test_redirects_are_followed_and_each_is_judged(files: FileServer) -> None:
    files.files["there"] = Served(b"", redirect="/image")
    files.files["named"] = Served(b"", redirect=named(files, "there"))
    assert fetched(files.url + "named") == [IMAGE]
    for to, says in (
        ("http://evil.example/image", "isn't among those"),
        ("file:///etc/passwd", "another scheme"),
    ):
        files.files["away"] = Served(b"", redirect=to)
        with pytest.raises(UrlRefused, match=says):
            fetched(files.url + "away")


def test_a_public_server_cannot_redirect_inside(files: FileServer) -> None:
    # Its own port is named so that it may be reached; what it redirects to is not.
    files.files["inside"] = Served(b"", redirect="http://127.0.0.1/image")
    allowed = ("public", named(files).split("/")[2])
    with pytest.raises(UrlRefused, match="inside"):
        fetched(named(files, "inside"), allowed=allowed)


def test_redirects_end(files: FileServer) -> None:
    files.files["loop"] = Served(b"", redirect="/loop")
    with pytest.raises(SourceFailed, match=f"more than {MOST_REDIRECTS} redirects"):
        fetched(files.url + "loop")
    assert len(files.asked) == MOST_REDIRECTS + 1


@pytest.mark.parametrize("path", ["image", "chunked"])
def test_too_much_is_not_read(files: FileServer, path: str) -> None:
    with pytest.raises(TooLarge, match="--max-body-mb"):
        fetched(files.url + path, most_bytes=len(IMAGE) - 1)
    with pytest.raises(TooLarge):
        fetched(*[files.url + path] * 2, most_bytes=len(IMAGE) * 2 - 1)
    assert fetched(*[files.url + path] * 2, most_bytes=len(IMAGE) * 2) == [IMAGE] * 2


def test_a_source_that_fails_is_named(files: FileServer) -> None:
    files.files["broken"] = Served(b"", statuses=[500])
    files.files["nowhere"] = Served(b"", redirect="http://[::1")
    files.files["cut"] = Served(IMAGE, drops=[100])
    for url, says in (
        (files.url + "none", "status 404"),
        (files.url + "broken", "status 500"),
        (files.url + "cut", "couldn't be fetched"),
        (files.url + "nowhere", "couldn't be fetched"),
        ("http://127.0.0.1:1/", "couldn't be fetched"),
    ):
        with pytest.raises(SourceFailed, match=says) as raised:
            fetched(url)
        assert url in raised.value.message
    with pytest.raises(SourceFailed, match="has no address"):
        fetched("http://unknown.example/", allowed=("*.example",))


def test_a_slow_source_is_given_up(files: FileServer) -> None:
    stall = threading.Event()
    files.files["slow"] = Served(IMAGE, stall=stall)
    try:
        with pytest.raises(SourceFailed, match=r"didn't come within 0\.2 s"):
            fetched(files.url + "slow", limit_s=0.2)
    finally:
        stall.set()


def test_a_compressed_body_is_not_unpacked() -> None:
    packed = gzip.compress(bytes(1_000_000))

    async def scenario() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked = await reader.readuntil(b"\r\n\r\n")
            assert b"accept-encoding: identity" in asked.lower()
            head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}"
            writer.write(head.encode() + b"\r\n\r\n" + packed)
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            fetcher = Fetcher(AllowedHosts(["127.0.0.1"]), 10_000)
            with pytest.raises(SourceFailed, match="compressed"):
                await fetcher.all([f"http://127.0.0.1:{port}/bomb"])
            await fetcher.close()

    run(scenario())


def test_names_are_resolved_by_the_machine(files: FileServer) -> None:
    async def scenario() -> list[bytes]:
        fetcher = Fetcher(AllowedHosts(["localhost"]), 10_000)
        url = (files.url + "image").replace("127.0.0.1", "localhost")
        try:
            return await fetcher.all([url])
        finally:
            await fetcher.close()

    # Where localhost is ::1 first, which this server isn't at, it says so.
    try:
        found = run(scenario())
    except SourceFailed:
        pytest.skip("localhost is ::1 here")
    assert found == [IMAGE]
