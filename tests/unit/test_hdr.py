"""The histogram keeps its digits, adds up, and is the one that others read and write."""

import base64
import struct
import zlib

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram as PackageHistogram
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.measurements.hdr import HOUR_US, Histogram
from visiondyno.measurements.percentiles import percentile

microseconds = st.integers(0, HOUR_US) | st.integers(0, 5000)
series = st.lists(microseconds, min_size=1, max_size=300)
ranges = st.tuples(
    st.integers(1, 5000), st.integers(2, 10**5).map(lambda n: n * 5000), st.integers(1, 5)
)


def filled(values: list[int], *form: int) -> Histogram:
    histogram = Histogram(*form)
    histogram.record_many(values)
    return histogram


@given(series, st.floats(0.01, 0.999))
def test_a_quantile_is_the_exact_one_to_three_digits(values: list[int], q: float) -> None:
    exact = percentile([float(value) for value in values], q)
    assert exact <= filled(values).value_at(q) <= exact * 1.001 + 0.5


@given(series)
def test_the_last_quantile_is_the_largest_value(values: list[int]) -> None:
    assert max(values) <= filled(values).value_at(1) <= max(values) * 1.001 + 0.5


@given(series, ranges)
def test_every_value_lies_in_its_bucket(values: list[int], form: tuple[int, int, int]) -> None:
    values = [value % (form[1] + 1) for value in values]
    low, high, count = filled(values, *form).buckets()
    assert count.sum() == len(values)
    assert (low[1:] > high[:-1]).all()
    for value in values:
        assert ((low <= value) & (value <= high)).sum() == 1


@given(series, series)
def test_merged_histograms_are_the_histogram_of_all(first: list[int], second: list[int]) -> None:
    merged = filled(first)
    merged.merge(filled(second))
    assert merged.encode() == filled(first + second).encode()


@given(series, ranges)
def test_an_encoding_decodes_to_the_same(values: list[int], form: tuple[int, int, int]) -> None:
    histogram = filled([value % (form[1] + 1) for value in values], *form)
    again = Histogram.decode(histogram.encode())
    assert (again.lowest, again.highest, again.digits) == form
    assert again.encode() == histogram.encode()


@given(series, ranges)
def test_the_package_reads_what_is_written_here(
    values: list[int], form: tuple[int, int, int]
) -> None:
    histogram = filled([value % (form[1] + 1) for value in values], *form)
    theirs = PackageHistogram.decode(histogram.encode())
    assert theirs.get_total_count() == len(values)
    counters = np.array(theirs.counts[:], np.int64)
    low, _, count = histogram.buckets()
    indices = [theirs._counts_index_for(value) for value in low.tolist()]
    assert np.flatnonzero(counters).tolist() == indices
    assert (counters[indices] == count).all()


@given(series, ranges)
def test_what_the_package_writes_is_read_here(
    values: list[int], form: tuple[int, int, int]
) -> None:
    theirs = PackageHistogram(*form)
    kept = [value % (form[1] + 1) for value in values]
    for value in kept:
        assert theirs.record_value(value)
    assert Histogram.decode(theirs.encode().decode()).encode() == filled(kept, *form).encode()


def test_counts_of_every_length_survive_the_encoding() -> None:
    for bits in range(63):
        histogram = Histogram()
        histogram.record_many([7, 9, 5000])
        histogram._counts[9] = 2**bits
        again = Histogram.decode(histogram.encode())
        assert (again._counts == histogram._counts).all()


def test_an_empty_histogram_is_encoded_and_has_no_quantile() -> None:
    again = Histogram.decode(Histogram().encode())
    again.record_many([])
    assert again.total == 0
    with pytest.raises(ValueError, match="0 values"):
        again.value_at(0.5)


@pytest.mark.parametrize("bad", [-1.0, float("nan"), HOUR_US + 1.0])
def test_a_value_outside_the_range_is_refused_and_nothing_counted(bad: float) -> None:
    histogram = Histogram()
    with pytest.raises(ValueError, match="larger 'highest'"):
        histogram.record_many([5.0, bad])
    assert histogram.total == 0


@pytest.mark.parametrize("form", [(0, 10, 3), (10, 19, 3), (1, 2**53, 3), (1, 10, 0), (1, 10, 6)])
def test_a_histogram_that_cannot_be_is_refused(form: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="A histogram"):
        Histogram(*form)


def test_histograms_of_other_ranges_are_not_merged() -> None:
    with pytest.raises(ValueError, match="same range"):
        Histogram().merge(Histogram(digits=2))


@pytest.mark.parametrize("q", [0, -0.1, 1.1, float("nan")])
def test_a_quantile_of_a_histogram_outside_its_range_is_refused(q: float) -> None:
    with pytest.raises(ValueError, match="quantile"):
        filled([1]).value_at(q)


def packed(inner: bytes, cookie: int = 0x1C849314) -> str:
    body = zlib.compress(inner)
    return base64.b64encode(struct.pack(">II", cookie, len(body)) + body).decode()


def inner(counts: bytes, size: int | None = None, offset: int = 0, highest: int = 4096) -> bytes:
    length = len(counts) if size is None else size
    return struct.pack(">IIIIQQd", 0x1C849313, length, offset, 3, 1, highest, 1.0) + counts


@pytest.mark.parametrize(
    ("encoded", "why"),
    [
        ("?", "no encoded histogram"),
        ("é", "no encoded histogram|ASCII"),
        (base64.b64encode(b"abc").decode(), "no encoded histogram"),
        (base64.b64encode(b"x" * 80).decode(), "no encoded histogram"),
        (packed(inner(b"\x02"), cookie=1), "V2"),
        (packed(inner(b"\x02", offset=1)), "V2"),
        (packed(inner(b"\x02", size=5)), "cut"),
        (packed(inner(b"\x82")), "middle of a number"),
        (packed(inner(b"\xff\xff\x7f\x02")), "past the end"),
        (packed(inner(b"\x02", highest=1)), "range"),
        (packed(inner(b"\x00" * (17 * 2**20))), "cut"),
    ],
)
def test_what_is_no_encoding_is_refused(encoded: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Histogram.decode(encoded)


def test_the_counts_of_an_array_are_those_of_its_numbers() -> None:
    values = np.random.default_rng(1).lognormal(8, 2, 5000)
    together, apart = Histogram(), Histogram()
    together.record_many(values)
    for value in values:
        apart.record_many([value])
    assert together.encode() == apart.encode()
