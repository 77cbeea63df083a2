"""Collecting of blobs that nothing refers to: by age, and by quota."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from visiondyno.blobs.base import CollectableBlobs, StoredBlob

GRACE_S = 3600.0
_FILLED = 0.9


def to_be_left(quota_bytes: int | None) -> int | None:
    """How much of a quota a collection leaves: a tenth stays free for what comes before the next.

    The quota itself is never passed: what would do so is refused when it is put.
    """
    return None if quota_bytes is None else int(quota_bytes * _FILLED)


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection did.

    Attributes:
        deleted: how many blobs.
        freed_bytes: their length together.
        kept: how many are there still.
    """

    deleted: int
    freed_bytes: int
    kept: int


def plan(
    blobs: Iterable[StoredBlob],
    in_use: Collection[str],
    max_age_s: float,
    quota_bytes: int | None,
    now: float,
    grace_s: float = GRACE_S,
) -> list[StoredBlob]:
    """Which blobs to delete, least recently used first.

    Those unused for longer than `max_age_s`; then, as long as more than `quota_bytes` would be
    stored, the next ones. Never one that is in use, nor one used in the last `grace_s` seconds:
    what was just uploaded is referred to a moment later.
    """
    blobs = list(blobs)
    wanted = frozenset(in_use)
    left_bytes = sum(blob.size_bytes for blob in blobs)
    free = [blob for blob in blobs if blob.sha256 not in wanted and now - blob.last_used > grace_s]
    going = []
    for blob in sorted(free, key=lambda blob: (blob.last_used, blob.sha256)):
        over_quota = quota_bytes is not None and left_bytes > quota_bytes
        if now - blob.last_used > max_age_s or over_quota:
            going.append(blob)
            left_bytes -= blob.size_bytes
    return going


async def collect_garbage(
    store: CollectableBlobs,
    in_use: Collection[str],
    max_age_s: float,
    quota_bytes: int | None,
    now: float,
    grace_s: float = GRACE_S,
) -> Collected:
    """Delete what `plan` names; a blob that is used meanwhile stays.

    Args:
        store: what is collected.
        in_use: the SHA-256 of every blob that something refers to.
        max_age_s: unused blobs older than that go.
        quota_bytes: how much may be left; None without a limit.
        now: seconds since the epoch.
        grace_s: how long after its last use every blob stays.

    Raises:
        TransportDown: the store can't be reached; what was deleted until then was garbage.
    """
    blobs = [blob async for blob in store.stored()]
    deleted, freed_bytes = 0, 0
    for blob in plan(blobs, in_use, max_age_s, quota_bytes, now, grace_s):
        if await store.delete(blob.sha256, if_unused_since=blob.last_used):
            deleted += 1
            freed_bytes += blob.size_bytes
    return Collected(deleted, freed_bytes, len(blobs) - deleted)
