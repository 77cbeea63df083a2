"""Blobs in a bucket: the contract against a server of the S3 protocol."""

import asyncio
import builtins
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import obstore
import pytest

from blob_servers import S3Server, s3_server
from contracts.blob_contract import (
    ABSENT,
    DAY_S,
    CollectableContract,
    chunks_of,
    content,
    read,
    sha256_of,
)
from services import free_port
from visiondyno.blobs.base import CHUNK_BYTES
from visiondyno.blobs.folder import FolderBlobs
from visiondyno.blobs.http import HttpBlobs
from visiondyno.blobs.object_store import ObjectStoreBlobs
from visiondyno.blobs.open import open_blobs
from visiondyno.errors import MissingExtra, SpecError, StorageFull, TransportDown

IMPATIENT = {"retry_config": {"max_retries": 0, "retry_timeout": timedelta(seconds=5)}}
DATA = b"kept in a bucket"
NAME = sha256_of(DATA)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a prefix in an empty bucket; the environment names its server and keys."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    return f"s3://{s3.new_bucket()}/some/prefix"


class TestObjectStoreBlobs(CollectableContract):
    @pytest.fixture(autouse=True)
    def own_bucket(self, bucket: str) -> None:
        self.bucket = bucket

    def make_store(self, place: Path) -> ObjectStoreBlobs:
        return ObjectStoreBlobs(self.bucket)

    def damage(self, place: Path, sha256: str) -> None:
        store = obstore.store.from_url(self.bucket, client_options={"allow_http": True})
        key = f"{sha256[:2]}/{sha256}"
        data = bytearray(obstore.get(store, key).bytes())
        data[0] ^= 1
        obstore.put(store, key, bytes(data))


def objects(store: ObjectStoreBlobs) -> list[str]:
    return sorted(found["path"] for page in obstore.list(store._store) for found in page)


def test_large_blobs_go_in_parts_and_one_that_fails_leaves_none(bucket: str) -> None:
    store, data = ObjectStoreBlobs(bucket), content(20 * CHUNK_BYTES)

    async def main() -> None:
        name = await store.put(chunks_of(data, CHUNK_BYTES))
        assert "-3" in (await obstore.head_async(store._store, f"{name[:2]}/{name}"))["e_tag"]
        assert await read(store, name) == data
        with pytest.raises(SpecError):
            await store.put(chunks_of(data[1:], CHUNK_BYTES), expected_sha256=ABSENT)
        assert objects(store) == [f"{name[:2]}/{name}"]

    asyncio.run(main())


def test_a_damaged_object_is_moved_aside(bucket: str) -> None:
    store = ObjectStoreBlobs(bucket, now=lambda: 1234.5)

    async def main() -> None:
        await obstore.put_async(store._store, f"{NAME[:2]}/{NAME}", b"other bytes")
        with pytest.raises(Exception, match=f"moved to damaged/{NAME}-1234"):
            await read(store, NAME)
        assert objects(store) == [f"damaged/{NAME}-1234"]
        assert [blob async for blob in store.stored()] == []

    asyncio.run(main())


def test_a_good_object_put_over_a_damaged_one_stays(bucket: str) -> None:
    store, data = ObjectStoreBlobs(bucket), content(3 * CHUNK_BYTES)
    name = sha256_of(data)

    async def main() -> None:
        await obstore.put_async(store._store, f"{name[:2]}/{name}", data[:-1])

        async def read_and_put() -> None:
            async for _ in store.open(name):
                await store.put(chunks_of(data))

        with pytest.raises(Exception, match="replaced or removed meanwhile"):
            await read_and_put()
        assert await read(store, name) == data

    asyncio.run(main())


@pytest.mark.parametrize("use", ["has", "read"])
def test_a_use_of_an_old_blob_is_noted_and_saves_it(bucket: str, use: str) -> None:
    store = ObjectStoreBlobs(bucket)

    async def main() -> None:
        await store.put(chunks_of(DATA))
        uploaded = next(iter([blob async for blob in store.stored()])).last_used
        await store.has(NAME)
        assert objects(store) == [f"{NAME[:2]}/{NAME}"], "it is young: nothing to note"

        store._now = lambda: time.time() + 2 * DAY_S
        # Times in a bucket are whole seconds.
        await asyncio.sleep(1.1)
        await (store.has(NAME) if use == "has" else read(store, NAME))
        assert objects(store) == [f"{NAME[:2]}/{NAME}", f"used/{NAME}"]
        (blob,) = [blob async for blob in store.stored()]
        assert blob.last_used > uploaded
        assert not await store.delete(NAME, if_unused_since=uploaded)
        assert await store.delete(NAME, if_unused_since=blob.last_used)
        assert objects(store) == []

    asyncio.run(main())


def test_a_bucket_that_is_not_there_is_told(s3: S3Server, bucket: str) -> None:
    async def main() -> None:
        store = ObjectStoreBlobs("s3://no-such-bucket")
        with pytest.raises(SpecError, match="The bucket of s3://no-such-bucket isn't there"):
            await store.put(chunks_of(DATA))

    asyncio.run(main())


def test_a_server_that_is_not_there_is_told(bucket: str) -> None:
    async def main() -> None:
        nobody = f"http://127.0.0.1:{free_port()}"
        store = ObjectStoreBlobs("s3://bucket", endpoint=nobody, **IMPATIENT)
        with pytest.raises(TransportDown, match="Check the address") as caught:
            await store.has(NAME)
        assert "\n" not in str(caught.value)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (403, TransportDown, "AWS_ACCESS_KEY_ID"),
        (401, TransportDown, "AWS_ACCESS_KEY_ID"),
        (507, StorageFull, "make room there"),
        (500, TransportDown, "Check the address"),
    ],
)
def test_what_a_bucket_refuses_is_told(
    bucket: str, status: int, error: type[Exception], message: str
) -> None:
    class Refuses(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        store = ObjectStoreBlobs("s3://bucket", endpoint=endpoint, **IMPATIENT)
        try:
            with pytest.raises(error, match=message):
                asyncio.run(store.put(chunks_of(DATA)))
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("url", "options"),
    [("s3://bucket", {"no_such_option": "1"}), ("ftp://bucket", {})],
    ids=["option", "address"],
)
def test_a_wrong_option_or_address_is_told(url: str, options: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="can't be a bucket of blobs"):
        ObjectStoreBlobs(url, **options)


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import: Callable[..., Any] = builtins.__import__

    def without_obstore(name: str, *rest: Any) -> Any:
        if name.startswith("obstore"):
            raise ImportError(name)
        return real_import(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_obstore)
    with pytest.raises(MissingExtra, match=r"visiondyno\[s3\]"):
        ObjectStoreBlobs("s3://bucket")


def test_an_address_chooses_its_store(tmp_path: Path, bucket: str) -> None:
    default = open_blobs(None, tmp_path / "default", quota_bytes=5)
    named = open_blobs(f"file://{tmp_path}/a%20b", tmp_path / "default")
    assert isinstance(default, FolderBlobs)
    assert isinstance(named, FolderBlobs)
    assert (default.path, named.path) == (tmp_path / "default", tmp_path / "a b")
    with pytest.raises(StorageFull):
        asyncio.run(default.put(chunks_of(DATA)))
    assert isinstance(open_blobs(bucket, tmp_path), ObjectStoreBlobs)
    assert str(open_blobs("gs://bucket/prefix", tmp_path)) == "gs://bucket/prefix"
    remote = open_blobs("https://example.org/blobs/", tmp_path, api_key="key")
    assert isinstance(remote, HttpBlobs)
    assert str(remote) == "https://example.org/blobs"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "blobs",
        "/blobs",
        "ftp://x/y",
        "s3://",
        "http://",
        "file://host/x",
        "az://a/b",
        "http://[x",
    ],
)
def test_an_address_of_no_store_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(SpecError, match="is no address of blobs"):
        open_blobs(url, tmp_path)
