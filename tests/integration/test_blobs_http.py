"""Blobs of another server: the contract over HTTP, and what goes wrong on the way."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from blob_servers import BlobServer, blob_server
from contracts.blob_contract import ABSENT, BlobContract, chunks_of, content, read, sha256_of
from live_api import LiveApi
from services import free_port
from visiondyno.blobs.base import CHUNK_BYTES, CollectableBlobs
from visiondyno.blobs.http import HttpBlobs
from visiondyno.errors import (
    Forbidden,
    NotFound,
    OperationFailed,
    SpecError,
    StorageFull,
    TooLarge,
    TransportDown,
    Unauthorized,
)

DATA = content(3 * CHUNK_BYTES + 5)
NAME = sha256_of(DATA)


def flip_a_byte(folder: Path, sha256: str) -> None:
    path = folder / sha256[:2] / sha256
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])


@pytest.fixture(scope="module")
def live_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    home = tmp_path_factory.mktemp("home")
    with LiveApi(home, require_keys=True, rate_limit_per_minute=0) as api:
        yield api


class TestHttpBlobs(BlobContract):
    """Against the server's own routes."""

    @pytest.fixture(autouse=True)
    def server_and_key(self, live_api: LiveApi) -> None:
        self.folder = live_api.settings.folder / "blobs"
        self.url, self.key = f"{live_api.url}/blobs", live_api.make_key()

    def make_store(self, place: Path) -> HttpBlobs:
        return HttpBlobs(self.url, self.key, sleep=no_wait)

    def damage(self, place: Path, sha256: str) -> None:
        flip_a_byte(self.folder, sha256)


async def no_wait(seconds: float) -> None:
    assert seconds >= 0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[BlobServer]:
    with blob_server(tmp_path / "server") as server:
        yield server


def with_store(
    server: BlobServer,
    scenario: Callable[[HttpBlobs], Coroutine[Any, Any, Any]],
    api_key: str | None = None,
) -> tuple[Any, list[float]]:
    """What the scenario returns, and the waits between attempts."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async def main() -> Any:
        store = HttpBlobs(server.url, api_key, sleep=sleep)
        try:
            return await asyncio.wait_for(scenario(store), timeout=60)
        finally:
            await store.close()

    return asyncio.run(main()), waits


def test_a_server_s_bad_moment_is_waited_out(server: BlobServer) -> None:
    server.statuses = [503, 500, 429]

    async def scenario(store: HttpBlobs) -> bytes:
        assert await store.put(chunks_of(DATA)) == NAME
        server.statuses = [502]
        return await read(store, NAME)

    got, waits = with_store(server, scenario)
    assert got == DATA
    assert waits == [7, 7, 7, 7], "as Retry-After says"
    assert server.requests == ["HEAD"] + ["PUT"] * 4 + ["GET"] * 2


def test_what_is_there_already_is_not_sent(server: BlobServer) -> None:
    async def scenario(store: HttpBlobs) -> None:
        assert await store.put(chunks_of(DATA)) == await store.put(chunks_of(DATA))

    with_store(server, scenario)
    assert server.requests == ["HEAD", "PUT", "HEAD"]


@pytest.mark.parametrize("ranges", [True, False], ids=["with ranges", "without ranges"])
def test_a_download_that_breaks_off_goes_on_where_it_was(server: BlobServer, ranges: bool) -> None:
    server.ranges = ranges

    async def scenario(store: HttpBlobs) -> bytes:
        await store.put(chunks_of(DATA))
        server.drops = [70_000, 1_000_000, 2_000_000]
        return await read(store, NAME)

    got, waits = with_store(server, scenario)
    assert got == DATA
    assert not server.drops
    assert len(waits) == 3
    asked = [request for request in server.requests if request.startswith("GET")]
    assert len(asked) == 4
    assert all("bytes=" in request for request in asked[1:])


def test_after_five_failures_it_is_given_up(server: BlobServer) -> None:
    server.statuses = [503] * 5

    async def scenario(store: HttpBlobs) -> None:
        with pytest.raises(TransportDown, match=r"503: as told .*5 times"):
            await store.put(chunks_of(DATA))

    assert len(with_store(server, scenario)[1]) == 4


def test_a_server_that_is_not_there_is_waited_for_with_scattered_doubling_waits() -> None:
    async def scenario(store: HttpBlobs) -> None:
        with pytest.raises(TransportDown, match="Check the address"):
            await store.has(NAME)
        with pytest.raises(TransportDown, match="5 times"):
            await read(store, NAME)

    nobody = BlobServer(blobs=None, url=f"http://127.0.0.1:{free_port()}/blobs")  # type: ignore[arg-type]
    waits = with_store(nobody, scenario)[1]
    for wait_s, longest in zip(waits, [1, 2, 4, 8] * 2, strict=True):
        assert longest / 2 <= wait_s <= longest


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (507, StorageFull),
        (413, TooLarge),
        (422, SpecError),
        (404, NotFound),
        (418, TransportDown),
    ],
)
def test_a_refusal_is_told_at_once(server: BlobServer, status: int, error: type[Exception]) -> None:
    server.statuses = [status]

    async def scenario(store: HttpBlobs) -> None:
        with pytest.raises(error, match=r"as told\. ."):
            await store.put(chunks_of(DATA))
        assert not await store.has(NAME)

    assert with_store(server, scenario)[1] == []


def test_the_server_s_own_limit_is_told(server: BlobServer) -> None:
    server.most_bytes = 1000

    async def scenario(store: HttpBlobs) -> None:
        with pytest.raises(TooLarge, match="1,000"):
            await store.put(chunks_of(DATA))

    with_store(server, scenario)


def test_the_key_is_sent_and_a_wrong_or_missing_one_is_told(server: BlobServer) -> None:
    server.api_key = "right"

    async def refused(store: HttpBlobs) -> None:
        with pytest.raises((Unauthorized, Forbidden), match="Check the API key") as caught:
            await store.put(chunks_of(DATA))
        errors.append(type(caught.value))

    errors: list[type[Exception]] = []
    with_store(server, refused)
    with_store(server, refused, api_key="wrong")
    assert errors == [Unauthorized, Forbidden]
    assert with_store(server, lambda s: s.put(chunks_of(DATA)), api_key="right")[0] == NAME


@pytest.mark.parametrize("lies", [b"something else", b""])
def test_bytes_that_changed_on_the_way_are_never_taken(server: BlobServer, lies: bytes) -> None:
    server.lies = lies

    async def scenario(store: HttpBlobs) -> None:
        await store.put(chunks_of(DATA))
        with pytest.raises(OperationFailed, match="another hash"):
            await read(store, NAME)

    with_store(server, scenario)


def test_a_local_file_is_downloaded_once_and_again_when_it_was_damaged(
    server: BlobServer, tmp_path: Path
) -> None:
    async def scenario(store: HttpBlobs) -> None:
        await store.put(chunks_of(DATA))
        cache = tmp_path / "cache"
        paths = await asyncio.gather(*(store.local_path(NAME, cache) for _ in range(4)))
        assert server.requests.count("GET") == 1
        flip_a_byte(cache, NAME)
        assert await store.local_path(NAME, cache) == paths[0]
        assert paths[0].read_bytes() == DATA
        assert server.requests.count("GET") == 2

    with_store(server, scenario)


def test_a_spool_without_room_is_told(server: BlobServer, tmp_path: Path) -> None:
    async def main() -> None:
        store = HttpBlobs(server.url, spool=tmp_path / "absent")
        with pytest.raises(TransportDown, match="absent"):
            await store.put(chunks_of(DATA))
        await store.close()

    asyncio.run(main())
    assert server.requests == []


def test_what_is_no_server_of_blobs_is_told(server: BlobServer, tmp_path: Path) -> None:
    async def other(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"transfer-encoding", b"chunked"), (b"content-range", b"bytes 99-100/101")]
        status = 206 if scope["method"] == "GET" else 200
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async def main() -> None:
        store = HttpBlobs("http://other/blobs", sleep=no_wait)
        await store.close()
        store._client = httpx.AsyncClient(transport=httpx.ASGITransport(app=other))
        with pytest.raises(TransportDown, match="isn't a server of blobs"):
            await store.size(ABSENT)
        with pytest.raises(TransportDown, match="another range"):
            await read(store, ABSENT)
        await store.close()

    asyncio.run(main())


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(SpecError, match="isn't the address"):
        HttpBlobs("http://server:eighty/blobs")


def test_a_client_neither_lists_nor_deletes(server: BlobServer) -> None:
    assert not isinstance(HttpBlobs(server.url), CollectableBlobs)
