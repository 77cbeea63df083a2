"""Requests before they become jobs: idempotency keys, and what a webhook may be."""

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit

from visiondyno.errors import Conflict, SpecError
from visiondyno.service.recorder import Recorder
from visiondyno.store.base import JobStore

KEPT_S = 86_400.0
"""How long a key is remembered."""

_LONGEST_KEY = 255


def digest_of(request: Any) -> str:
    """SHA-256 of a request given as JSON values; the order of an object's keys doesn't matter."""
    text = json.dumps(request, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def check_webhook(url: str | None) -> None:
    """Refuse what isn't an absolute http or https URL without credentials.

    Raises:
        SpecError: it isn't.
    """
    if url is None:
        return
    try:
        parts = urlsplit(url)
        is_fine = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        parts, is_fine = None, False
    if not is_fine or parts is None or any(letter.isspace() for letter in url):
        raise SpecError(f"The webhook '{url:.200}' isn't a URL that begins with http or https.")
    if parts.username is not None or parts.password is not None:
        raise SpecError(
            "The webhook's URL holds a user name or password; take them out: deliveries are signed."
        )


class Requests:
    """Which idempotency key created what."""

    def __init__(self, jobs: JobStore, recorder: Recorder, clock: Callable[[], float]) -> None:
        self._jobs = jobs
        self._recorder = recorder
        self._clock = clock
        self._locks: dict[tuple[str, str], asyncio.Lock] = {}

    @contextlib.asynccontextmanager
    async def once(self, scope: str, key: str, digest: str, new_id: str) -> AsyncIterator[str]:
        """The id to create under: `new_id`, or the one that this key is bound to already.

        Within, no other request of this process has the same key. What the bound id names may not
        exist yet: who bound it may have died before creating it. Then create it.

        Raises:
            SpecError: the key is empty or too long.
            Conflict: the key came with another request before.
        """
        if not key.strip() or len(key) > _LONGEST_KEY:
            raise SpecError(
                f"An Idempotency-Key has 1 to {_LONGEST_KEY} characters; this one has {len(key)}."
            )
        lock = self._locks.setdefault((scope, key), asyncio.Lock())
        try:
            async with lock:
                bound_digest, bound_id = await self._recorder.call(
                    self._jobs.remember_request, scope, key, digest, new_id, self._clock()
                )
                if bound_digest != digest:
                    raise Conflict(
                        f"The Idempotency-Key '{key:.60}' came with another request before; send "
                        "this one with a key of its own."
                    )
                yield bound_id
        finally:
            if not lock.locked():
                self._locks.pop((scope, key), None)

    async def forget_old(self) -> None:
        """Forget keys older than `KEPT_S`."""
        before = self._clock() - KEPT_S
        await self._recorder.call(self._jobs.forget_requests, before)
