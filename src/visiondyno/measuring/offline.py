"""MLPerf's offline scenario: all images are there from the start; what counts is images a second.

Decoding, pre-processing and post-processing overlap the inference. The batch size is the model's
own where it is fixed, else the fastest of a few in a short trial.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from visiondyno.measuring.images import EncodedImages
from visiondyno.measuring.pipeline import Indices, stream
from visiondyno.runtimes.base import LoadedModel

_CANDIDATES = (1, 4, 16)
_TRIAL_S = 0.4
_STRETCHES = 40
Clock = Callable[[], int]


@dataclass(frozen=True, slots=True)
class OfflineRun:
    """What an offline run did.

    Attributes:
        images: how many were finished in `elapsed_s`.
        elapsed_s: seconds.
        batch_size: images a batch.
        batch_size_from: why that size, in words.
        stretch_images: images in each stretch of `stretch_s`.
        stretch_s: seconds of consecutive stretches of equally many images, for the interval.
    """

    images: int
    elapsed_s: float
    batch_size: int
    batch_size_from: str
    stretch_images: int
    stretch_s: tuple[float, ...]


def run_offline(
    model: LoadedModel,
    images: EncodedImages,
    order: Iterator[int],
    *,
    duration_s: float,
    on_done: Callable[[int], None] = lambda _: None,
    clock: Clock = time.perf_counter_ns,
) -> OfflineRun:
    """Run batches of images in `order` for at least `duration_s`."""
    fixed = model.description.batch_size
    if fixed is not None:
        batch_size, reason = fixed, "the model's fixed batch size"
    else:
        batch_size = _fastest_batch_size(model, images, order, clock)
        tried = ", ".join(str(size) for size in _CANDIDATES)
        reason = f"the fastest of {tried} in a trial of {_TRIAL_S} s each"
    ends_ns = _run(model, images, order, batch_size, duration_s, on_done, clock)
    elapsed_s = (ends_ns[-1] - ends_ns[0]) / 1e9
    done = (len(ends_ns) - 1) * batch_size
    step = max(1, (len(ends_ns) - 1) // _STRETCHES)
    marks = ends_ns[::step]
    stretches = tuple((end - start) / 1e9 for start, end in pairwise(marks))
    return OfflineRun(done, elapsed_s, batch_size, reason, step * batch_size, stretches)


def _fastest_batch_size(
    model: LoadedModel, images: EncodedImages, order: Iterator[int], clock: Clock
) -> int:
    rates: dict[int, float] = {}
    for size in _CANDIDATES:
        ends_ns = _run(model, images, order, size, _TRIAL_S, lambda _: None, clock)
        rates[size] = (len(ends_ns) - 1) * size / (ends_ns[-1] - ends_ns[0])
    return max(rates, key=lambda size: rates[size])


def _run(
    model: LoadedModel,
    images: EncodedImages,
    order: Iterator[int],
    batch_size: int,
    duration_s: float,
    on_done: Callable[[int], None],
    clock: Clock,
) -> list[int]:
    """End of each batch in ns; the first one, which fills the pipeline, only starts the clock."""
    ends_ns: list[int] = []
    running = stream(model, images, _batches(order, batch_size))
    for _ in running:
        ends_ns.append(clock())
        on_done((len(ends_ns) - 1) * batch_size)
        if len(ends_ns) > 2 and ends_ns[-1] - ends_ns[0] >= duration_s * 1e9:
            break
    running.close()
    return ends_ns


def _batches(order: Iterator[int], size: int) -> Iterator[Indices]:
    while True:
        yield tuple(next(order) for _ in range(size))
