"""Distributions as Google Cloud Monitoring has them: counts in buckets, and a mean."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Distribution:
    """Values counted by bucket.

    Attributes:
        count: of values, above 0.
        mean: of them, exact.
        bounds: between buckets, rising; bucket i is from `bounds[i - 1]` up to `bounds[i]`, the
            first has no lower and the last no upper bound.
        counts: one more than bounds.
    """

    count: int
    mean: float
    bounds: tuple[float, ...]
    counts: tuple[int, ...]

    def quantile(self, fraction: float) -> float | None:
        """The value below which this fraction of values lies, straight lines inside buckets.

        In the first bucket it is between 0 and the bound; in the last the bound, which it is at
        least. None where nothing is told of buckets.
        """
        wanted = fraction * sum(self.counts)
        if wanted <= 0 or not self.bounds:
            return None
        before = 0
        for index, count in enumerate(self.counts):
            if before + count >= wanted and count > 0:
                low = self.bounds[index - 1] if index else min(0.0, self.bounds[0])
                high = self.bounds[index] if index < len(self.bounds) else low
                return low + (high - low) * (wanted - before) / count
            before += count
        return self.bounds[-1]


def read_distribution(value: Mapping[str, Any]) -> Distribution | None:
    """A `distributionValue` of the API; None where it counts nothing.

    Raises:
        ValueError, KeyError, TypeError: it isn't of the API's form.
    """
    count = int(value.get("count", 0))
    if count <= 0:
        return None
    bounds = _bounds(value.get("bucketOptions", {}))
    counts = [int(number) for number in value.get("bucketCounts", [])]
    # Empty buckets at the end are left out.
    counts += [0] * (len(bounds) + 1 - len(counts))
    if len(counts) != len(bounds) + 1:
        raise ValueError(f"{len(counts)} buckets for {len(bounds)} bounds")
    return Distribution(count, float(value.get("mean", 0.0)), bounds, tuple(counts))


def merge(distributions: Iterable[Distribution]) -> Distribution | None:
    """All values together; without buckets where they differ. None of none."""
    each = list(distributions)
    if not each:
        return None
    count = sum(one.count for one in each)
    mean = math.fsum(one.count * one.mean for one in each) / count
    if any(one.bounds != each[0].bounds for one in each):
        return Distribution(count, mean, (), (count,))
    columns = zip(*(one.counts for one in each), strict=True)
    return Distribution(count, mean, each[0].bounds, tuple(sum(column) for column in columns))


def _bounds(options: Mapping[str, Any]) -> tuple[float, ...]:
    """google.api.Distribution.BucketOptions: linear, exponential or explicit."""
    if "linearBuckets" in options:
        linear = options["linearBuckets"]
        width, offset = float(linear["width"]), float(linear.get("offset", 0))
        return tuple(offset + width * i for i in range(int(linear["numFiniteBuckets"]) + 1))
    if "exponentialBuckets" in options:
        exponential = options["exponentialBuckets"]
        scale, growth = float(exponential["scale"]), float(exponential["growthFactor"])
        return tuple(scale * growth**i for i in range(int(exponential["numFiniteBuckets"]) + 1))
    return tuple(float(bound) for bound in options.get("explicitBuckets", {}).get("bounds", []))
