"""The high-dynamic-range histogram: counts at a fixed relative precision, whatever the magnitude.

After Gil Tene's HdrHistogram. A value's leading bits choose a bucket, the next ones a sub-bucket
of it, so that every value is kept to so many significant digits, from microseconds to an hour, in
some thousand counters. Histograms of the same range add up. The encoding is HdrHistogram's "V2
compressed": counts as ZigZag LEB128 numbers, runs of zeros as one negative number, zlib, base64.
"""

import base64
import binascii
import struct
import zlib
from collections.abc import Iterable
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

HOUR_US = 3_600_000_000

_ENCODED = 0x1C849303
_COMPRESSED = 0x1C849304
_WORD_SIZE = 0x10
_OUTER = struct.Struct(">II")
_INNER = struct.Struct(">IIIIQQd")
_LARGEST_EXACT = 2**53
"""Exponents are taken from float64, which holds whole numbers up to here exactly."""
_MOST_ENCODED_BYTES = 16 * 2**20
_LONGEST_NUMBER = 9
"""Bytes of a LEB128 number: eight of seven bits, and a ninth that is whole."""


class Histogram:
    """Counts of whole numbers from 0 to `highest`, each kept to `digits` significant digits.

    Args:
        lowest: the smallest difference from 0 that must be seen, at least 1.
        highest: the largest value taken, at least twice `lowest`. Microseconds up to an hour
            unless told otherwise.
        digits: significant decimal digits, 1 to 5.

    Raises:
        ValueError: a bound or the number of digits is out of range.
    """

    def __init__(self, lowest: int = 1, highest: int = HOUR_US, digits: int = 3) -> None:
        if not 1 <= digits <= 5:
            raise ValueError(f"A histogram keeps 1 to 5 significant digits, not {digits}.")
        if lowest < 1 or not 2 * lowest <= highest < _LARGEST_EXACT:
            raise ValueError(
                f"A histogram's range is 1 <= lowest, 2 * lowest <= highest < 2**53, "
                f"not {lowest} to {highest}."
            )
        self.lowest, self.highest, self.digits = lowest, highest, digits
        self._unit = lowest.bit_length() - 1
        self._half_bits = (2 * 10**digits - 1).bit_length() - 1
        """Half of a bucket's sub-buckets, as a power of two: the lower half belongs to the bucket
        before."""
        buckets = 1
        while (2 << self._half_bits << self._unit << (buckets - 1)) <= highest:
            buckets += 1
        self._counts = np.zeros((buckets + 1) << self._half_bits, np.int64)

    @property
    def total(self) -> int:
        """How many values were recorded."""
        return int(self._counts.sum())

    def record_many(self, values: ArrayLike) -> None:
        """Count values, each rounded to a whole number.

        Args:
            values: (n,) numbers in the histogram's unit (µs by default), 0 to `highest`.

        Raises:
            ValueError: one is negative, not a number, or above `highest`; then none is counted.
        """
        exact = np.asarray(values, np.float64).ravel()
        if not len(exact):
            return
        least, most = float(exact.min()), float(exact.max())
        if not (least >= 0 and most <= self.highest):  # NaN is neither
            raise ValueError(
                f"This histogram takes 0 to {self.highest}, not {least:g} to {most:g}; "
                "make one with a larger 'highest'."
            )
        self._counts += np.bincount(
            self._index(np.rint(exact).astype(np.int64)), minlength=len(self._counts)
        )

    def value_at(self, q: float) -> int:
        """The q-quantile: of the ⌊n·q⌋-th smallest value, counted from 0, the highest equivalent.

        The rank is that of `measurements.percentiles.percentile`; the value is at least the exact
        one, and above it by at most one unit in the last significant digit.

        Args:
            q: in (0, 1]; 1 is the largest value.

        Raises:
            ValueError: q outside (0, 1], or nothing was recorded.
        """
        total = self.total
        if not 0 < q <= 1 or not total:
            raise ValueError(f"A quantile of {total} values at {q}: give q in (0, 1] and values.")
        rank = min(int(total * q), total - 1)
        index = int(np.searchsorted(np.cumsum(self._counts), rank, side="right"))
        return int(self._highest_equivalent(np.array([index]))[0])

    def buckets(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Every counter that isn't 0: (m,) lowest value, (m,) highest value, (m,) count; int64."""
        index = np.flatnonzero(self._counts)
        return self._value(index)[0], self._highest_equivalent(index), self._counts[index]

    def merge(self, other: "Histogram") -> None:
        """Add the counts of another histogram of the same range and precision.

        Raises:
            ValueError: its range or precision is another.
        """
        if self._form != other._form:
            raise ValueError(
                f"Histograms of (lowest, highest, digits) {self._form} and {other._form} can't be "
                "merged; record both in the same range."
            )
        self._counts += other._counts

    def encode(self) -> str:
        """In HdrHistogram's V2 compressed encoding, base64: what its log files and tools read."""
        body = b"".join(map(_leb128, _with_runs(self._counts)))
        head = _INNER.pack(_ENCODED | _WORD_SIZE, len(body), 0, *self._head, 1.0)
        packed = zlib.compress(head + body)
        return base64.b64encode(_OUTER.pack(_COMPRESSED | _WORD_SIZE, len(packed)) + packed).decode(
            "ascii"
        )

    @classmethod
    def decode(cls, encoded: str) -> Self:
        """A histogram of its V2 compressed encoding in base64, whoever wrote it.

        Raises:
            ValueError: it isn't one, it is cut, or it claims more than a histogram can hold.
        """
        digits, lowest, highest, body = _unpacked(encoded)
        found = cls(lowest, highest, digits)
        index = 0
        for number in _numbers(body):
            if number >= 0:
                if index >= len(found._counts):
                    raise ValueError("An encoded histogram has counts past the end of its range.")
                found._counts[index] = number
            index += 1 if number >= 0 else -number
        return found

    @property
    def _form(self) -> tuple[int, int, int]:
        return self.lowest, self.highest, self.digits

    @property
    def _head(self) -> tuple[int, int, int]:
        return self.digits, self.lowest, self.highest

    def _index(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Counter of each value: `(bucket + 1) * half + sub-bucket - half`."""
        mask = ((2 << self._half_bits) - 1) << self._unit
        exponent = np.frexp((values | mask).astype(np.float64))[1].astype(np.int64)
        bucket = exponent - self._unit - self._half_bits - 1
        sub_bucket = values >> (bucket + self._unit)
        index: NDArray[np.int64] = (bucket << self._half_bits) + sub_bucket
        return index

    def _value(self, index: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Lowest value of each counter, and how many values share it."""
        half = 1 << self._half_bits
        bucket = np.maximum((index >> self._half_bits) - 1, 0)
        sub_bucket = index - (bucket << self._half_bits)
        assert (sub_bucket < 2 * half).all()
        shift = bucket + self._unit
        return sub_bucket << shift, np.left_shift(np.int64(1), shift)

    def _highest_equivalent(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        low, width = self._value(index)
        return low + width - 1


def _with_runs(counts: NDArray[np.int64]) -> Iterable[int]:
    """The counts up to the last that isn't 0; two and more zeros as minus their number."""
    after = 0
    for index in np.flatnonzero(counts).tolist():
        zeros = index - after
        if zeros:
            yield -zeros if zeros > 1 else 0
        yield int(counts[index])
        after = index + 1


def _leb128(number: int) -> bytes:
    """ZigZag, then little-endian groups of seven bits; a ninth byte holds eight."""
    left = (number << 1) ^ (number >> 63)
    coded = bytearray()
    while left > 0x7F and len(coded) < _LONGEST_NUMBER - 1:
        coded.append(left & 0x7F | 0x80)
        left >>= 7
    coded.append(left)
    return bytes(coded)


def _numbers(body: bytes) -> Iterable[int]:
    number = shift = 0
    for byte in body:
        last = shift == 7 * (_LONGEST_NUMBER - 1)
        number |= (byte if last else byte & 0x7F) << shift
        shift += 7
        if last or byte < 0x80:
            yield (number >> 1) ^ -(number & 1)
            number = shift = 0
    if shift:
        raise ValueError("An encoded histogram ends in the middle of a number.")


def _unpacked(encoded: str) -> tuple[int, int, int, bytes]:
    """Digits, lowest, highest, and the counts as bytes."""
    try:
        outer = base64.b64decode(encoded, validate=True)
        cookie, length = _OUTER.unpack_from(outer)
        reader = zlib.decompressobj()
        inner = reader.decompress(outer[_OUTER.size :], _MOST_ENCODED_BYTES)
        inner_cookie, size, offset, digits, lowest, highest, _ = _INNER.unpack_from(inner)
    except (binascii.Error, zlib.error, struct.error, UnicodeEncodeError) as error:
        raise ValueError(f"This is no encoded histogram: {error}.") from error
    cookies = (cookie & ~0xF0, inner_cookie & ~0xF0)
    if cookies != (_COMPRESSED, _ENCODED) or offset:
        raise ValueError("This is no histogram in the V2 compressed encoding.")
    body = inner[_INNER.size :]
    if not reader.eof or length != len(outer) - _OUTER.size or size != len(body):
        raise ValueError("An encoded histogram is cut: its lengths don't fit what is there.")
    return digits, lowest, highest, body
