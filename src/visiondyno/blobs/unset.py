"""No store: every use is refused with the step that gives one."""

from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import NoReturn

from visiondyno.blobs.base import BlobStore
from visiondyno.errors import SpecError


class UnsetBlobs(BlobStore):
    """Stands where client and workers share no store; refuses whatever is asked of it.

    Every method raises `SpecError`, with the sentence that it was made with.
    """

    def __init__(self, why: str) -> None:
        """`why`: what is missing, and the next step."""
        self._why = why

    def __str__(self) -> str:
        return "no blob store"

    async def put(
        self,
        chunks: AsyncIterator[bytes],  # noqa: ARG002 - all is refused
        expected_sha256: str | None = None,  # noqa: ARG002 - all is refused
        max_bytes: int | None = None,  # noqa: ARG002 - all is refused
    ) -> str:
        self._refuse()

    async def open(self, sha256: str) -> AsyncGenerator[bytes, None]:  # noqa: ARG002 - all is refused
        yield self._refuse()

    async def has(self, sha256: str) -> bool:  # noqa: ARG002 - all is refused
        self._refuse()

    async def size(self, sha256: str) -> int:  # noqa: ARG002 - all is refused
        self._refuse()

    async def local_path(self, sha256: str, cache: Path) -> Path:  # noqa: ARG002 - all is refused
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise SpecError(self._why)
