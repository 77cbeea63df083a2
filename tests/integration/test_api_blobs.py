"""The blob store over HTTP."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from live_api import LiveApi

LIMIT = 3_000_000


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    home = tmp_path_factory.mktemp("home")
    with LiveApi(home, rate_limit_per_minute=0, max_upload_bytes=LIMIT) as live:
        yield live


@pytest.fixture(scope="module")
def client(api: LiveApi) -> Iterator[httpx.Client]:
    with api.client() as client:
        yield client


def address(content: bytes) -> str:
    return f"/blobs/{hashlib.sha256(content).hexdigest()}"


@pytest.mark.parametrize("size", [0, 1, 1_000_000, LIMIT])
def test_what_was_put_is_given_back(client: httpx.Client, size: int) -> None:
    content = os.urandom(size)
    assert client.head(address(content)).status_code == 404
    first = client.put(address(content), content=content)
    assert first.status_code == 201
    assert first.json() == {"sha256": address(content)[7:], "size_bytes": size}
    assert client.put(address(content), content=content).status_code == 200
    head = client.head(address(content))
    assert (head.status_code, head.headers["content-length"]) == (200, str(size))
    got = client.get(address(content))
    assert got.content == content
    assert got.headers["etag"] == f'"{address(content)[7:]}"'
    assert got.headers["content-length"] == str(size)


def test_what_was_not_put_is_not_found(client: httpx.Client) -> None:
    assert client.head(address(b"never")).status_code == 404
    answer = client.get(address(b"never"))
    assert answer.status_code == 404
    assert answer.json()["code"] == "not_found"


def test_content_of_another_hash_is_refused(client: httpx.Client) -> None:
    answer = client.put(address(b"one"), content=b"another")
    assert answer.status_code == 422
    assert client.head(address(b"one")).status_code == 404


@pytest.mark.parametrize("name", ["x", "A" * 64, "0" * 63, "0" * 65, "..%2f..%2fetc%2fpasswd"])
def test_a_name_that_is_no_hash_is_refused(client: httpx.Client, name: str) -> None:
    for method in ("GET", "PUT", "HEAD"):
        assert client.request(method, f"/blobs/{name}").status_code in (404, 422)


def test_more_than_the_limit_is_refused_and_not_kept(api: LiveApi, client: httpx.Client) -> None:
    content = os.urandom(LIMIT + 1)

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(content), 100_000):
            yield content[start : start + 100_000]

    for body in (content, pieces()):
        answer = client.put(address(content), content=body)
        assert answer.status_code == 413
        assert answer.json()["code"] == "too_large"
    assert client.head(address(content)).status_code == 404


def test_a_full_store_says_so_and_loses_nothing(tmp_path: Path) -> None:
    with LiveApi(tmp_path, blobs_quota_bytes=1000) as api, api.client() as client:
        kept = b"x" * 900
        assert client.put(address(kept), content=kept).status_code == 201
        answer = client.put(address(b"y" * 200), content=b"y" * 200)
        assert answer.status_code == 507
        assert answer.json()["code"] == "storage_full"
        assert client.get(address(kept)).content == kept


def test_a_damaged_blob_does_not_pass_for_whole(api: LiveApi, client: httpx.Client) -> None:
    content = os.urandom(2_500_000)
    assert client.put(address(content), content=content).status_code == 201
    (file,) = [f for f in api.settings.folder.rglob("*") if f.name == address(content)[7:]]
    damaged = bytearray(content)
    damaged[1_000_000] ^= 1
    file.chmod(0o600)
    file.write_bytes(damaged)
    with pytest.raises(httpx.RemoteProtocolError), client.stream("GET", address(content)) as got:
        for _ in got.iter_bytes():
            pass
    assert client.get("/health").status_code == 200
    assert client.put(address(content), content=content).status_code in (200, 201)
    assert client.get(address(content)).content == content
