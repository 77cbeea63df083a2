"""API keys: made once, shown once, kept as digests.

A key is 256 random bits, so its SHA-256 digest suffices at rest: nothing can be guessed that a
slow password hash would protect, and a digest can be looked up by an index.
"""

import asyncio
import hashlib
import hmac
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from visiondyno.errors import NotFound, SpecError, Unauthorized
from visiondyno.store.base import KeyStore
from visiondyno.store.records import ApiKeyRecord, KeyScope

PREFIX = "vd_"
_TOKEN_BYTES = 32
_LOOKS_LIKE_A_KEY = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{43}}", re.ASCII)
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,100}")
_TRUSTED_S = 5.0
_TRUSTED_KEYS = 1024
_TOUCHED_S = 60.0


def key_digest(key: str) -> str:
    """SHA-256 of the key, hexadecimal: what the store keeps."""
    return hashlib.sha256(key.encode()).hexdigest()


class KeyService:
    """Creates, checks and revokes API keys.

    A key that was found valid is trusted for 5 s without asking the store, so a key revoked by
    another process works for at most so long; one revoked here stops at once.
    """

    def __init__(self, store: KeyStore, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives seconds since the epoch."""
        self._store = store
        self._clock = clock
        self._trusted: OrderedDict[str, tuple[ApiKeyRecord, float]] = OrderedDict()
        self._revocations = 0

    async def create(self, name: str, scope: KeyScope = KeyScope.ALL) -> tuple[ApiKeyRecord, str]:
        """A new key's record, and the key itself: it can't be shown again.

        Raises:
            SpecError: the name is empty, longer than 100 characters or holds control characters.
        """
        if not name.strip() or not _NAME.fullmatch(name):
            raise SpecError(
                "A key's name is 1 to 100 characters without control characters; "
                "say who or what will use the key."
            )
        key = PREFIX + secrets.token_urlsafe(_TOKEN_BYTES)
        record = ApiKeyRecord(
            id=f"key_{secrets.token_hex(6)}",
            name=name,
            digest=key_digest(key),
            scope=scope,
            created_at=self._clock(),
        )
        await asyncio.to_thread(self._store.add, record)
        return record, key

    async def check(self, key: str) -> ApiKeyRecord:
        """The record of a key in force.

        Raises:
            Unauthorized: there is no such key, or it was revoked.
        """
        if not _LOOKS_LIKE_A_KEY.fullmatch(key):
            raise _refusal()
        digest = key_digest(key)
        now = self._clock()
        trusted = self._trusted.get(digest)
        if trusted is not None and now < trusted[1]:
            return trusted[0]
        self._trusted.pop(digest, None)
        revocations = self._revocations
        record = await asyncio.to_thread(self._look_up, digest, now)
        if revocations == self._revocations:  # else it may be the very key that was revoked
            self._trust(record, now)
        return record

    async def list(self) -> list[ApiKeyRecord]:
        """All keys, revoked ones too, newest first."""
        return await asyncio.to_thread(self._store.find)

    async def revoke(self, key_id: str) -> None:
        """Make a key invalid for good.

        Raises:
            NotFound: no key in force has this id.
        """
        revoked = await asyncio.to_thread(self._store.revoke, key_id, self._clock())
        self._revocations += 1
        self._trusted.clear()
        if not revoked:
            raise NotFound(
                f"No API key in force has the id '{key_id}'; `dyno keys list` shows the ids."
            )

    def _look_up(self, digest: str, now: float) -> ApiKeyRecord:
        record = self._store.with_digest(digest)
        if record is None or not hmac.compare_digest(record.digest, digest):
            raise _refusal()
        if record.last_used_at is None or now - record.last_used_at > _TOUCHED_S:
            self._store.touch(record.id, now)
            return replace(record, last_used_at=now)
        return record

    def _trust(self, record: ApiKeyRecord, now: float) -> None:
        self._trusted[record.digest] = (record, now + _TRUSTED_S)
        while len(self._trusted) > _TRUSTED_KEYS:
            self._trusted.popitem(last=False)


def _refusal() -> Unauthorized:
    return Unauthorized(
        "This API key is unknown or was revoked; make one on the server with "
        "`dyno keys create NAME`."
    )
