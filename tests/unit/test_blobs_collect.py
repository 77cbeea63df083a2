"""Which blobs a collection deletes."""

import asyncio
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from contracts.blob_contract import chunks_of
from visiondyno.blobs.base import StoredBlob
from visiondyno.blobs.collect import Collected, collect_garbage, plan
from visiondyno.blobs.folder import FolderBlobs

NOW = 1_000_000.0
AGES_S = st.floats(0, 500_000)
BLOBS = st.lists(
    st.builds(
        lambda sha256, size, age: StoredBlob(sha256, size, NOW - age),
        st.text("abcdef", min_size=4, max_size=4),
        st.integers(0, 1000),
        AGES_S,
    ),
    unique_by=lambda blob: blob.sha256,
    max_size=30,
)


@given(BLOBS, st.data(), AGES_S, st.none() | st.integers(0, 20_000), st.floats(0, 10_000))
def test_the_plan_keeps_its_promises(
    blobs: list[StoredBlob],
    data: st.DataObject,
    max_age_s: float,
    quota_bytes: int | None,
    grace_s: float,
) -> None:
    names = [blob.sha256 for blob in blobs]
    in_use = data.draw(st.sets(st.sampled_from(names))) if names else set()
    going = plan(blobs, in_use, max_age_s, quota_bytes, NOW, grace_s)
    gone = {blob.sha256 for blob in going}
    kept = [blob for blob in blobs if blob.sha256 not in gone]
    free = [blob for blob in kept if blob.sha256 not in in_use and NOW - blob.last_used > grace_s]
    kept_bytes = sum(blob.size_bytes for blob in kept)

    assert not gone & in_use
    assert all(NOW - blob.last_used > grace_s for blob in going)
    assert all(NOW - blob.last_used <= max_age_s for blob in free), "what is old goes"
    assert quota_bytes is None or kept_bytes <= quota_bytes or not free, "as far as it may"
    assert all(a.last_used <= b.last_used for a in going for b in free), "least recent first"
    # None more than needed: with the last of the young ones back, the quota would be passed.
    young = [blob for blob in going if NOW - blob.last_used <= max_age_s]
    if young:
        assert quota_bytes is not None
        assert kept_bytes + young[-1].size_bytes > quota_bytes


def test_over_quota_the_least_recently_used_goes_first_and_a_late_use_saves(
    tmp_path: Path,
) -> None:
    times = iter([100.0, 200.0, 300.0, 400.0])

    class UsedMeanwhile(FolderBlobs):
        """The second blob is asked for just when it is to be deleted."""

        async def delete(self, sha256: str, *, if_unused_since: float | None = None) -> bool:
            if sha256 == names[1]:
                assert await self.has(sha256)
            return await super().delete(sha256, if_unused_since=if_unused_since)

    store = UsedMeanwhile(tmp_path, now=lambda: next(times))
    names: list[str] = []

    async def main() -> Collected:
        for length in (10, 20, 40):
            names.append(await store.put(chunks_of(b"x" * length)))
        done = await collect_garbage(store, [], 1e9, quota_bytes=40, now=10_000.0)
        left = {blob.sha256 async for blob in store.stored()}
        assert left == {names[1], names[2]}
        return done

    assert asyncio.run(main()) == Collected(deleted=1, freed_bytes=10, kept=2)
