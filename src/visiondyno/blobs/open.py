"""From an address to a store of blobs."""

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from visiondyno.blobs.base import BlobStore
from visiondyno.blobs.folder import FolderBlobs
from visiondyno.errors import SpecError

_CREDENTIALS = re.compile(r"^[^/]*://[^/?#]*@")


def open_blobs(
    url: str | None, folder: Path, api_key: str | None = None, quota_bytes: int | None = None
) -> BlobStore:
    """The store that `url` names.

    Args:
        url: `file:///…`, `s3://bucket/prefix`, `gs://bucket/prefix` or `http(s)://server/blobs`;
            None for `folder`.
        folder: where blobs are without `url`.
        api_key: of the server at an `http(s)` address.
        quota_bytes: limit of a folder; a bucket or a server has its own.

    Raises:
        SpecError: the address is of none of these forms, or its folder can't be written.
        MissingExtra: the address is a bucket's, and the extra `s3` isn't installed.
    """
    if url is None:
        return FolderBlobs(folder, quota_bytes)
    if _CREDENTIALS.search(url):  # which messages would tell to whoever sent a job
        raise SpecError(
            "The address of the blobs holds a user name or a password; take it out. A server's "
            "key is VISIONDYNO_BLOBS_API_KEY, and a bucket's are those of its provider"
        )
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise _no_address(url) from error
    if parts.scheme == "file" and parts.netloc in {"", "localhost"} and parts.path:
        return FolderBlobs(Path(unquote(parts.path)), quota_bytes)
    if parts.scheme in {"s3", "gs"} and parts.netloc:
        from visiondyno.blobs.object_store import ObjectStoreBlobs

        return ObjectStoreBlobs(url)
    if parts.scheme in {"http", "https"} and parts.netloc:
        from visiondyno.blobs.http import HttpBlobs

        return HttpBlobs(url, api_key)
    raise _no_address(url)


def _no_address(url: str) -> SpecError:
    return SpecError(
        f"'{url}' is no address of blobs. Give file:///folder, s3://bucket/prefix, "
        "gs://bucket/prefix or http(s)://server/blobs"
    )
