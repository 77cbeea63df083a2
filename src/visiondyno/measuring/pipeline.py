"""Run a model over many images with decoding and pre-processing overlapping the inference.

Three stages on threads: feeders decode and pre-process ahead, the calling thread runs inference,
one thread post-processes behind. OpenCV, NumPy and onnxruntime release the interpreter's lock in
their loops, so the stages use different cores. What waits between stages is bounded.
"""

import itertools
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from visiondyno.measuring.images import EncodedImages
from visiondyno.predictions import Predictions
from visiondyno.runtimes.base import LoadedModel

Indices = tuple[int, ...]


def predict_each(
    model: LoadedModel,
    images: EncodedImages,
    *,
    batch_size: int = 1,
    on_done: Callable[[int], None] = lambda _: None,
) -> Iterator[Predictions]:
    """Predictions of every image, in order, with the card's own confidence.

    `on_done` is given the number of images finished so far.
    """
    done = 0
    for indices, predictions in stream(model, images, _in_batches(range(len(images)), batch_size)):
        yield from predictions
        done += len(indices)
        on_done(done)


def stream(
    model: LoadedModel, images: EncodedImages, batches: Iterable[Indices]
) -> Generator[tuple[Indices, list[Predictions]], None, None]:
    """Each batch's indices and predictions, in the order of `batches`.

    Closing the iterator early stops the threads after what they hold.
    """

    def prepare(indices: Indices) -> Any:
        return model.preprocess([images.decode(index) for index in indices])

    feeders = max(1, min(4, len(os.sched_getaffinity(0)) - 1))
    feed = ThreadPoolExecutor(feeders, thread_name_prefix="decode-preprocess")
    finish = ThreadPoolExecutor(1, thread_name_prefix="postprocess")
    source = iter(batches)
    ahead: deque[tuple[Indices, Future[Any]]] = deque()
    behind: deque[tuple[Indices, Future[list[Predictions]]]] = deque()
    try:
        for indices in itertools.islice(source, feeders + 2):
            ahead.append((indices, feed.submit(prepare, indices)))
        while ahead:
            indices, prepared_soon = ahead.popleft()
            prepared = prepared_soon.result()
            for following in itertools.islice(source, 1):
                ahead.append((following, feed.submit(prepare, following)))
            outputs = model.infer(prepared)
            behind.append((indices, finish.submit(model.postprocess, outputs, prepared)))
            while len(behind) > 3 or (behind and behind[0][1].done()):
                done, predictions = behind.popleft()
                yield done, predictions.result()
        for done, predictions in behind:
            yield done, predictions.result()
    finally:
        feed.shutdown(wait=True, cancel_futures=True)
        finish.shutdown(wait=True, cancel_futures=True)


def _in_batches(indices: Iterable[int], size: int) -> Iterator[Indices]:
    source = iter(indices)
    while batch := tuple(itertools.islice(source, size)):
        yield batch
