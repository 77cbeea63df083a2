"""Blobs as objects of a bucket: S3, what speaks its protocol, or Google Cloud Storage."""

import os
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visiondyno.blobs.base import (
    CHUNK_BYTES,
    CollectableBlobs,
    StoredBlob,
    check_sha256,
    is_sha256,
    not_found,
)
from visiondyno.blobs.remote import RemoteBlobs
from visiondyno.blobs.streams import Content
from visiondyno.errors import MissingExtra, SpecError, StorageFull, TransportDown

if TYPE_CHECKING:
    from obstore import ObjectMeta

_NOTE_USE_AFTER_S = 86400.0
_PART_BYTES = 8 * 2**20
_PARTS_AT_ONCE = 4
_DEFAULTS: dict[str, Any] = {
    "retry_config": {"max_retries": 5, "retry_timeout": timedelta(seconds=60)},
}


class ObjectStoreBlobs(RemoteBlobs, CollectableBlobs):
    """Blobs under `ab/abcdef…` of a bucket, or of a prefix in it.

    An object has one time, that of its upload. When a blob older than a day is used, an empty
    object `used/abcdef…` is written to note it, so a use is known to the day. Damaged blobs go to
    `damaged/`. An upload that was killed can leave parts that the bucket's owner pays for: let a
    lifecycle rule of the bucket abort incomplete uploads.
    """

    def __init__(
        self,
        url: str,
        *,
        spool: Path | None = None,
        now: Callable[[], float] = time.time,
        **options: Any,
    ) -> None:
        """Name the bucket; nothing is asked of it yet.

        Keys, region and endpoint come from the usual variables (`AWS_ACCESS_KEY_ID`,
        `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT_URL`;
        `GOOGLE_APPLICATION_CREDENTIALS`) or the machine's role.

        Args:
            url: `s3://bucket/prefix` or `gs://bucket/prefix`.
            spool: as `RemoteBlobs`.
            now: seconds since the epoch.
            options: of obstore's store, over the variables: `endpoint`, `region`, `retry_config` …

        Raises:
            MissingExtra: obstore isn't installed.
            SpecError: the address or an option is wrong.
        """
        super().__init__(spool)
        try:
            import obstore
            from obstore.store import from_url
        except ImportError as error:
            raise MissingExtra("s3", f"Storing blobs at {url}") from error
        self._obstore = obstore
        self._url = url
        self._now = now
        options = {**_DEFAULTS, **options}
        if _endpoint(options).startswith("http://"):
            options["client_options"] = {"allow_http": True, **options.get("client_options", {})}
        try:
            self._store = from_url(url, **options)
        except (obstore.exceptions.BaseError, ValueError) as error:
            raise SpecError(
                f"{url} can't be a bucket of blobs: {_first_line(error)}. Give "
                "s3://bucket/prefix or gs://bucket/prefix"
            ) from error

    def __str__(self) -> str:
        return self._url

    async def has(self, sha256: str) -> bool:
        found = await self._head(_key(check_sha256(sha256)))
        if found is not None:
            await self._note_use(sha256, found)
        return found is not None

    async def size(self, sha256: str) -> int:
        found = await self._head(_key(check_sha256(sha256)))
        if found is None:
            raise not_found(sha256, self)
        return int(found["size"])

    async def stored(self) -> AsyncGenerator[StoredBlob, None]:
        noted: dict[str, float] = {}
        with self._errors():
            async for page in self._obstore.list(self._store, prefix="used"):
                for marker in page:
                    name = marker["path"].rpartition("/")[2]
                    noted[name] = marker["last_modified"].timestamp()
            async for page in self._obstore.list(self._store):
                for found in page:
                    folder, _, name = found["path"].rpartition("/")
                    if is_sha256(name) and folder == name[:2]:
                        last_used = max(found["last_modified"].timestamp(), noted.get(name, 0.0))
                        yield StoredBlob(name, found["size"], last_used)

    async def delete(self, sha256: str, *, if_unused_since: float | None = None) -> bool:
        found = await self._head(_key(check_sha256(sha256)))
        if found is None:
            return False
        if if_unused_since is not None and await self._last_used(sha256, found) > if_unused_since:
            return False
        with self._errors():
            await self._obstore.delete_async(self._store, _key(sha256))
            await self._obstore.delete_async(self._store, _marker(sha256))
        return True

    async def _upload(self, file: FileIO, content: Content) -> None:
        file.seek(0)
        with self._errors():
            await self._obstore.put_async(
                self._store,
                _key(content.sha256),
                file,
                chunk_size=_PART_BYTES,
                max_concurrency=_PARTS_AT_ONCE,
            )

    async def _download(self, sha256: str, versions: list[str]) -> AsyncGenerator[bytes, None]:
        with self._errors():
            try:
                answer = await self._obstore.get_async(self._store, _key(sha256))
            except (FileNotFoundError, self._obstore.exceptions.NotFoundError):
                raise not_found(sha256, self) from None
            versions.append(_version(answer.meta))
            await self._note_use(sha256, answer.meta)
            async for chunk in answer.stream(min_chunk_size=CHUNK_BYTES):
                yield bytes(chunk)

    async def _move_aside(self, sha256: str, versions: list[str]) -> str:
        found = await self._head(_key(sha256))
        # A good one may have been put over it meanwhile.
        if found is not None and versions == [_version(found)]:
            aside = f"damaged/{sha256}-{int(self._now())}"
            with self._errors():
                await self._obstore.rename_async(self._store, _key(sha256), aside)
            return f"It was moved to {aside}; upload it again"
        return "It was replaced or removed meanwhile: try again"

    async def _last_used(self, sha256: str, found: "ObjectMeta") -> float:
        noted = await self._head(_marker(sha256))
        times = [meta["last_modified"].timestamp() for meta in (found, noted) if meta]
        return max(times)

    async def _note_use(self, sha256: str, found: "ObjectMeta") -> None:
        if self._now() - found["last_modified"].timestamp() > _NOTE_USE_AFTER_S:
            with self._errors():
                await self._obstore.put_async(self._store, _marker(sha256), b"")

    async def _head(self, key: str) -> "ObjectMeta | None":
        with self._errors():
            try:
                return await self._obstore.head_async(self._store, key)
            except (FileNotFoundError, self._obstore.exceptions.NotFoundError):
                return None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        errors = self._obstore.exceptions
        try:
            yield
        except (FileNotFoundError, errors.NotFoundError) as error:
            raise SpecError(
                f"The bucket of {self} isn't there. Make it, or correct VISIONDYNO_BLOBS_URL"
            ) from error
        except (errors.UnauthenticatedError, errors.PermissionDeniedError) as error:
            raise TransportDown(
                f"{self} refuses this server's credentials: {_first_line(error)}. Check "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
                "GOOGLE_APPLICATION_CREDENTIALS, and what they may do"
            ) from error
        except errors.BaseError as error:
            # S3-compatible servers on disks of their own (MinIO, Ceph) say so by this status.
            if "507 Insufficient Storage" in str(error):
                raise StorageFull(
                    f"{self} has no room left. What is stored is intact; make room there, then "
                    "try again"
                ) from error
            raise TransportDown(
                f"{self} can't be reached just now: {_first_line(error)}. Check the address and "
                "the network, then try again"
            ) from error


def _key(sha256: str) -> str:
    return f"{sha256[:2]}/{sha256}"


def _marker(sha256: str) -> str:
    return f"used/{sha256}"


def _version(meta: "ObjectMeta") -> str:
    return f"{meta['e_tag']} {meta['last_modified']}"


def _endpoint(options: dict[str, Any]) -> str:
    """The endpoint that obstore will use, empty if none is named."""
    given = (options.get(name) for name in ("endpoint", "endpoint_url", "aws_endpoint"))
    variables = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    return str(next(filter(None, [*given, *map(os.environ.get, variables)]), ""))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(" :.")
