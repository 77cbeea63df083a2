"""The seam of blobs. Contract: tests/contracts/blob_contract.py, run on every implementation."""

import re
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from visiondyno.errors import NotFound, OperationFailed, SpecError

CHUNK_BYTES = 2**20
"""How much is read, hashed and written at once."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """What a store knows of a blob.

    Attributes:
        sha256: its name: the SHA-256 of its bytes, 64 lower-case hexadecimal digits.
        size_bytes: its length.
        last_used: when it was last put, asked for with `has`, or read; seconds since the epoch.
            A bucket notes later uses to the day.
    """

    sha256: str
    size_bytes: int
    last_used: float


class BlobStore(ABC):
    """Bytes under the SHA-256 of their content, so that a name never changes its meaning.

    A blob is there entirely or not at all: a put that was interrupted, refused or cancelled leaves
    nothing. The same content put twice, even at once, is one blob. Readers that began before a
    blob was deleted read it to its end. All methods may be called concurrently, and several
    processes may use the same store.

    Raises, beside what each method names: `SpecError` for a name that is no SHA-256,
    `TransportDown` where the store can't be reached just now.
    """

    @abstractmethod
    async def put(
        self,
        chunks: AsyncIterator[bytes],
        expected_sha256: str | None = None,
        max_bytes: int | None = None,
    ) -> str:
        """Store the bytes and return their SHA-256. Putting a damaged blob again heals it.

        Args:
            chunks: the bytes, of any lengths; what it raises is passed on, and nothing is kept.
            expected_sha256: what the bytes must hash to.
            max_bytes: how many are taken at most.

        Raises:
            SpecError: the bytes don't hash to `expected_sha256`; nothing is kept.
            TooLarge: there are more than `max_bytes`; nothing is kept.
            StorageFull: the disk or the quota is full; what is stored is intact.
        """

    @abstractmethod
    def open(self, sha256: str) -> AsyncGenerator[bytes, None]:
        """Stream the blob; the hash is checked on the way.

        The last chunk is held back until the hash is right, so a damaged blob never comes whole:
        it is moved aside, as far as this store may, and the stream ends with `OperationFailed`.

        Raises:
            NotFound: there is no such blob (at the first step of the iteration).
            OperationFailed: it is damaged.
        """

    @abstractmethod
    async def has(self, sha256: str) -> bool:
        """Whether it is there. Counts as a use, so that who is told yes may refer to it."""

    @abstractmethod
    async def size(self, sha256: str) -> int:
        """Its length in bytes.

        Raises:
            NotFound: there is no such blob.
        """

    @abstractmethod
    async def local_path(self, sha256: str, cache: Path) -> Path:
        """A file with the blob's bytes, verified now, for readers that need a file. Read only.

        A folder gives its own file; others download it once into the folder `cache`, which is
        itself such a store (`FolderBlobs`).

        Raises:
            NotFound, OperationFailed: as `open`.
            StorageFull: `cache` has no room.
        """

    async def close(self) -> None:
        """Let go of connections. The store can't be used afterwards."""
        return


class CollectableBlobs(BlobStore):
    """A store whose owner we are: it lists and deletes. A client over HTTP is none."""

    @abstractmethod
    def stored(self) -> AsyncGenerator[StoredBlob, None]:
        """Every blob, in no order."""

    @abstractmethod
    async def delete(self, sha256: str, *, if_unused_since: float | None = None) -> bool:
        """Delete it; False if there is none, or it was used after `if_unused_since`.

        Args:
            sha256: which.
            if_unused_since: seconds since the epoch; None deletes in any case.
        """


def is_sha256(text: str) -> bool:
    """Whether it can be a blob's name."""
    return _SHA256.fullmatch(text) is not None


def check_sha256(sha256: str) -> str:
    """The name, if it is one.

    Raises:
        SpecError: it isn't.
    """
    if not is_sha256(sha256):
        raise SpecError(
            f"'{sha256[:80]}' is no blob's name: 64 digits 0–9 a–f were expected, the SHA-256 of "
            "its content"
        )
    return sha256


def not_found(sha256: str, where: object) -> NotFound:
    """No such blob."""
    return NotFound(
        f"There is no blob {sha256} in {where}. It was never uploaded, or was removed after long "
        "without use: upload it again"
    )


def damaged(sha256: str, where: object, next_step: str) -> OperationFailed:
    """The bytes don't hash to the blob's name."""
    return OperationFailed(
        f"The blob {sha256} in {where} is damaged: its bytes have another hash. {next_step}",
        stage="read blob",
    )
