"""Google's distributions: buckets of three kinds, quantiles, and several as one."""

import bisect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.loadtest.watching.distribution import merge, read_distribution

BOUNDS = [0.0, 1.0, 2.0, 5.0, 10.0, 100.0]


def told(values, bounds=BOUNDS, *, trims=False):
    counts = [0] * (len(bounds) + 1)
    for value in values:
        counts[bisect.bisect_right(bounds, value)] += 1
    while trims and counts and counts[-1] == 0:
        counts.pop()
    return {
        "count": str(len(values)),
        "mean": sum(values) / len(values) if values else 0,
        "bucketOptions": {"explicitBuckets": {"bounds": bounds}},
        "bucketCounts": [str(count) for count in counts],
    }


VALUES = st.lists(st.floats(0, 99.9), min_size=1, max_size=200)


@given(VALUES, st.floats(0.01, 1.0), st.booleans())
def test_a_quantile_lies_in_the_bucket_of_the_true_one(values, fraction, trims):
    found = read_distribution(told(values, trims=trims))
    assert found.count == len(values)
    quantile = found.quantile(fraction)
    at = max(0, -int(-fraction * len(values) // 1) - 1)
    true = sorted(values)[at]
    place = bisect.bisect_right(BOUNDS, true)
    assert BOUNDS[place - 1] <= quantile <= BOUNDS[place]


@given(st.lists(VALUES, min_size=1, max_size=4))
def test_several_are_as_one_of_all_values(each):
    found = merge(read_distribution(told(values)) for values in each)
    whole = read_distribution(told([value for values in each for value in values]))
    assert found.counts == whole.counts
    assert found.count == whole.count
    assert found.mean == pytest.approx(whole.mean)


def test_the_three_kinds_of_buckets():
    linear = read_distribution(
        {
            "count": "2",
            "mean": 3.0,
            "bucketOptions": {"linearBuckets": {"numFiniteBuckets": 3, "width": 2, "offset": 1}},
            "bucketCounts": ["0", "1", "1"],
        }
    )
    assert linear.bounds == (1, 3, 5, 7)
    assert linear.counts == (0, 1, 1, 0, 0)
    exponential = read_distribution(
        {
            "count": 4,
            "mean": 3.0,
            "bucketOptions": {
                "exponentialBuckets": {"numFiniteBuckets": 3, "growthFactor": 2, "scale": 0.5}
            },
            "bucketCounts": ["1", "1", "1", "0", "1"],
        }
    )
    assert exponential.bounds == (0.5, 1, 2, 4)
    assert exponential.quantile(0.25) == 0.5
    assert exponential.quantile(0.75) == 2
    # Above the last bound nothing is known but that.
    assert exponential.quantile(1.0) == 4


def test_nothing_counted_is_no_distribution_and_no_buckets_no_quantile():
    assert read_distribution({}) is None
    assert merge([]) is None
    bare = read_distribution({"count": "3", "mean": 1.5, "bucketCounts": ["3"]})
    assert bare.mean == 1.5
    assert bare.quantile(0.5) is None
    assert read_distribution(told([1.0])).quantile(0.0) is None


def test_different_buckets_keep_the_mean_alone():
    found = merge([read_distribution(told([1.0, 3.0])), read_distribution(told([8.0], [0.0, 9.0]))])
    assert found.mean == 4
    assert found.count == 3
    assert found.quantile(0.5) is None


def test_too_many_buckets_are_no_distribution():
    with pytest.raises(ValueError, match="buckets for"):
        read_distribution({**told([1.0]), "bucketCounts": ["1"] * 20})
