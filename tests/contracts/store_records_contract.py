"""What the store promises of submissions, comparisons and keys: a part of `StoreContract`."""

from dataclasses import replace

import pytest

from visiondyno.errors import Conflict
from visiondyno.store.records import (
    ApiKeyRecord,
    ComparisonRecord,
    KeyScope,
    SubmissionRecord,
    SubmissionState,
)
from visiondyno.store.sql import SqlStore


class StoreRecordsContract:
    """Kept as they were given, found by what they are found by."""

    def test_submissions(self, store: SqlStore) -> None:
        first = SubmissionRecord(
            "sub_1", "task2", "Ä", "ab" * 32, "m.onnx", SubmissionState.QUEUED, 1.0, owner="me"
        )
        second = replace(first, id="sub_2", created_at=2.0, task="other", owner=None, job_id="j2")
        store.submissions.save(first)
        store.submissions.save(second)
        done = replace(
            first,
            state=SubmissionState.COMPLETED,
            ended_at=3.0,
            score=0.1,
            low=1e-300,
            high=0.30000000000000004,
            metrics={"delta1": 0.5, "none": None},
        )
        store.submissions.save(done)
        assert store.submissions.get("sub_1") == done
        assert store.submissions.get("sub_9") is None
        assert store.submissions.of_job("j2") == second
        assert store.submissions.of_job("j9") is None
        assert store.submissions.find() == [second, done]
        assert store.submissions.find(limit=1) == [second]
        assert store.submissions.find(task="task2") == store.submissions.find(owner="me") == [done]
        assert store.submissions.ranked("task2") == [done]
        assert store.submissions.ranked("other") == []
        assert store.submissions.count_since("task2", "me", 1.0) == 1
        assert store.submissions.count_since("task2", "me", 1.5) == 0
        assert store.submissions.count_since("other", None, 0.0) == 1
        assert store.submissions.delete("sub_1")
        assert not store.submissions.delete("sub_1")

    def test_comparisons_are_found_by_content(self, store: SqlStore) -> None:
        waiting = ComparisonRecord("a", 1.0, {"models": ["x"]}, content_key="k")
        store.comparisons.save(waiting)
        assert store.comparisons.with_content("k") is None, "not completed"
        first = replace(waiting, comparison={"rows": [None, 1.5]})
        copy = replace(first, id="b", created_at=2.0, cached_from="a", owner="me")
        store.comparisons.save(first)
        store.comparisons.save(copy)
        assert store.comparisons.with_content("k") == first, "a copy is no source"
        newer = replace(first, id="c", created_at=3.0)
        store.comparisons.save(newer)
        assert store.comparisons.with_content("k") == newer
        assert store.comparisons.find() == [newer, copy, first]
        assert store.comparisons.find(limit=1) == [newer]
        assert store.comparisons.get("b") == copy
        assert store.comparisons.delete("b")
        assert not store.comparisons.delete("b")
        assert store.comparisons.get("b") is None

    def test_keys(self, store: SqlStore) -> None:
        key = ApiKeyRecord("key_1", "laptop", "digest", KeyScope.SUBMIT, 1.0)
        store.keys.add(key)
        with pytest.raises(Conflict):
            store.keys.add(replace(key, id="key_2"))
        assert store.keys.with_digest("digest") == key
        assert store.keys.with_digest("another") is None
        store.keys.touch("key_1", 5.0)
        assert store.keys.find() == [replace(key, last_used_at=5.0)]
        assert store.keys.revoke("key_1", 6.0)
        assert not store.keys.revoke("key_1", 7.0)
        assert store.keys.with_digest("digest") is None
        assert store.keys.find() == [replace(key, last_used_at=5.0, revoked_at=6.0)]
