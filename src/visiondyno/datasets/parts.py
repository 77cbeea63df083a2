"""A data set of one piece in three parts: which sample belongs to which."""

import functools
import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from visiondyno.errors import DatasetError


def part_of(count: int, part: int, shares: Sequence[float], seed: int) -> NDArray[np.int64]:
    """Indices, ascending, of the samples in a part.

    Samples are ranked by the SHA-256 of seed and index; the first part has the lowest ranks, and
    so on. No generator's stream is involved, so that the parts are the same with every version of
    every package. They have no sample in common, and together all.

    Args:
        count: of all samples.
        part: which one, from 0.
        shares: of each part, together 1. A part ends at the whole sample nearest to its share and
            those before it.
        seed: another one gives other parts.

    Raises:
        DatasetError: there are too few samples to have one in the part.
    """
    before, after = sum(shares[:part]), sum(shares[: part + 1])
    is_last = not any(shares[part + 1 :])
    first, end = round(count * before), count if is_last else round(count * after)
    if first >= end:
        raise DatasetError(
            f"{count} sample{'s are' if count != 1 else ' is'} too few for a part of "
            f"{shares[part]:g}; give more data, or each part its own"
        )
    return np.sort(_ranked(count, seed)[first:end])


@functools.lru_cache(maxsize=8)
def _ranked(count: int, seed: int) -> NDArray[np.int64]:
    order = sorted(
        range(count), key=lambda index: hashlib.sha256(f"{seed}:{index}".encode()).digest()
    )
    ranked = np.array(order, np.int64)
    ranked.setflags(write=False)
    return ranked
