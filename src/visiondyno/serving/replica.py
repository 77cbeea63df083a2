"""A replica's own process: it holds one model and answers batches that come over a socket.

`python -m visiondyno.serving.replica FD`. The end of the socket means that the front is gone: the
process ends at once. What it prints goes where the front's goes.
"""

import ctypes
import gc
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NoReturn

from visiondyno.serving.wire import answers_frame, frame, read_batch

if TYPE_CHECKING:
    from visiondyno.runtimes.base import LoadedModel, LoadOptions
    from visiondyno.serving.batches import Batches, Prepared
    from visiondyno.serving.tensor_batches import PreparedTensors
    from visiondyno.serving.wire import Answer, Item

_SET_PDEATHSIG = 1
_CHUNK_BYTES = 1 << 20


def main(arguments: list[str]) -> None:
    """`FD`: the socket to the front."""
    entered_ns = time.monotonic_ns()
    _leave_signals_to_the_front()
    front = socket.socket(fileno=int(arguments[0]))
    frames = _Frames(front)
    config = json.loads(bytes(frames.next()[1:]))
    try:
        ready, batches, ahead = _make_ready(config, entered_ns)
    except Exception as error:
        _tell(front, _failure(error))
        os._exit(1)
    _leave_packages_to_themselves()
    _tell(front, frame(b"R", ready))
    _serve(front, frames, batches, ahead=ahead)


def _leave_packages_to_themselves() -> None:
    """Have the garbage collector pass over what lives as long as the process.

    Those are a hundred thousand objects, most of them of imported packages: walking through them
    now and then cost a replica 0.6 % of its inferences of 29 ms.
    """
    gc.collect()
    gc.freeze()


def _tell(front: socket.socket, told: bytes) -> None:
    """To a front that may have been stopped meanwhile: then nobody is left to serve."""
    try:
        front.sendall(told)
    except (BrokenPipeError, ConnectionResetError):
        os._exit(0)


class _Frames:
    """Bodies of frames out of a blocking socket."""

    def __init__(self, front: socket.socket) -> None:
        self._front = front

    def next(self) -> memoryview:
        length = int.from_bytes(self._exactly(4), "little")
        return self._exactly(length)

    def _exactly(self, size: int) -> memoryview:
        buffer = memoryview(bytearray(size))
        at = 0
        while at < size:
            count = self._front.recv_into(buffer[at:], min(size - at, _CHUNK_BYTES))
            if count == 0:
                os._exit(0)
            at += count
        return buffer


def _make_ready(config: dict[str, Any], entered_ns: int) -> tuple[dict[str, Any], "Batches", bool]:
    """Load and warm up; what is told of it, and whether batches are prepared ahead."""
    import cv2

    from visiondyno.runtimes.registry import load_model
    from visiondyno.serving.batches import Batches

    # The model's threads are what the user chose; a pool of OpenCV's would be in their way.
    cv2.setNumThreads(1)
    imported_ns = time.monotonic_ns()
    options = _load_options(config)
    model = load_model(config["model"], options)
    loaded_ns = time.monotonic_ns()
    first_ns = _warm_up(model, config["max_batch"])
    ready = {
        "pid": os.getpid(),
        "entered_ns": entered_ns,
        "process_ms": (imported_ns - config["started_ns"]) / 1e6,
        "load_ms": (loaded_ns - imported_ns) / 1e6,
        "first_inference_ms": (first_ns - loaded_ns) / 1e6,
        "total_ms": (time.monotonic_ns() - config["started_ns"]) / 1e6,
        "model": _facts(model),
    }
    return ready, Batches(model), options.device != "cpu"


def _load_options(config: dict[str, Any]) -> "LoadOptions":
    from visiondyno.probes.gpu_share import gpu_share
    from visiondyno.runtimes.base import LoadOptions
    from visiondyno.runtimes.card_file import read_card

    card = None if config["card"] is None else read_card(Path(config["card"]))
    share = gpu_share(config["device"])
    if share is not None and share.reason is not None:
        sys.stderr.write(f"{share.reason}\n")
    limit_bytes = None if share is None else share.limit_bytes
    return LoadOptions(config["device"], config["threads"], card, limit_bytes)


def _warm_up(model: "LoadedModel", max_batch: int | None) -> int:
    """Run every part once, with one image and with most; when the first inference was done, ns."""
    import numpy as np

    card = model.description.card.input
    image = np.full((card.height, card.width, 3), 114, np.uint8)
    model.predict([image])
    first_ns = time.monotonic_ns()
    most = max_batch or 1
    if most > 1:
        model.predict([image] * most)
    model.predict([image])
    return first_ns


def _facts(model: "LoadedModel") -> dict[str, Any]:
    from dataclasses import asdict

    from visiondyno.measuring.described import describe

    graph = model.graph
    told = None
    if graph is not None:
        told = {
            "inputs": [asdict(one) for one in graph.inputs],
            "outputs": [asdict(one) for one in graph.outputs],
            "has_free_rows": graph.has_free_rows,
        }
    return {**describe(model.description), "graph": told}


def _failure(error: Exception) -> bytes:
    from visiondyno.errors import OperationFailed, VisionDynoError
    from visiondyno.job import JobError

    if not isinstance(error, VisionDynoError):
        traceback.print_exception(error)
        error = OperationFailed(
            f"The model's process stopped while it started: {type(error).__name__}: {error}"
        )
    return frame(b"F", JobError.from_exception(error, None).model_dump())


def _serve(front: socket.socket, frames: _Frames, batches: "Batches", *, ahead: bool) -> None:
    """Answer batches for ever; whatever goes wrong ends the process, and the front sees that.

    Where the model runs beside the processor (`ahead`), a thread reads, decodes and pre-processes
    the next batch meanwhile. On the processor that would only take turns with the inference: there
    the next batch waits in the socket, and no thread has to be woken for one.
    """
    try:
        if ahead:
            _serve_ahead(front, frames, batches)
        while True:
            batch_id, items = read_batch(frames.next())
            front.sendall(answers_frame(batch_id, _answers(batches, items, None)))
    except (BrokenPipeError, ConnectionResetError):
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _serve_ahead(front: socket.socket, frames: _Frames, batches: "Batches") -> NoReturn:
    waiting: SimpleQueue[tuple[int, list[Item], Prepared | PreparedTensors | None]]
    waiting = SimpleQueue()

    def read() -> None:
        try:
            while True:
                batch_id, items = read_batch(frames.next())
                waiting.put((batch_id, items, _prepared(batches, items)))
        except ConnectionResetError:
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    threading.Thread(target=read, daemon=True).start()
    while True:
        batch_id, items, prepared = waiting.get()
        front.sendall(answers_frame(batch_id, _answers(batches, items, prepared)))


def _prepared(batches: "Batches", items: "list[Item]") -> "Prepared | PreparedTensors | None":
    """None where a defect came out: then it comes out again where an answer is made of it."""
    try:
        return batches.prepare(items)
    except Exception:
        return None


def _answers(
    batches: "Batches", items: "list[Item]", prepared: "Prepared | PreparedTensors | None"
) -> "list[Answer]":
    """One for each item. A defect that one item brings out isn't the others' affair."""
    from visiondyno.errors import OperationFailed
    from visiondyno.serving.batches import problem

    try:
        return batches.finish(prepared or batches.prepare(items))
    except Exception as error:
        traceback.print_exc()
        if len(items) > 1:
            return [answer for item in items for answer in _answers(batches, [item], None)]
        failed = f"The prediction stopped ({type(error).__name__}); the server's log has more."
        return [problem(OperationFailed(failed), 500)]


def _leave_signals_to_the_front() -> None:
    """Ctrl-C comes to a terminal's whole group: the front drains, and this answers meanwhile."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
