"""What measuring costs: our inference time, our accuracy pass and our start-up beside the least.

- `latency_ratio_to_raw`: our single-stream inference time over that of a plain loop, written here
  as an engineer would write it: decode, resize, `session.run` timed. Same model and images, one
  intra-op thread; medians of rounds in which both take turns query by query.
- `latency_ratio_to_tight_loop`: the same over a loop that does nothing but `session.run` on one
  input. Decoding between inferences evicts caches, so this shows what the pipeline itself costs.
- `accuracy_pass_ratio`: images a second of the accuracy pass (decode, pre-process, inference,
  post-process) over those of inference alone, one intra-op thread in both.
- `help_start_ratio`: `dyno --help` over `python -c pass`, wall time.

Uses YOLOX-nano and COCO images where ../shared/testdata is beside the checkout, else the shipped
street-s on street scenes (another model: not the figures to compare with).
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime

from record import PAIRS, Ratio, interleave, record
from visiondyno.datasets.registry import open_dataset
from visiondyno.measuring.images import EncodedImages
from visiondyno.measuring.pipeline import predict_each
from visiondyno.measuring.single_stream import StageTimes, run_query
from visiondyno.probes.quiet import QuietMonitor
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.registry import load_model, resolve_reference

SHARED = Path(__file__).resolve().parents[2] / "shared" / "testdata"
QUERIES = 200
STARTS = 10


def subject() -> tuple[str, str]:
    """Model and data references."""
    if SHARED.is_dir():
        return str(SHARED / "models" / "yolox_nano_416.onnx"), str(SHARED / "images" / "coco128")
    return "visiondyno:street-s", "street:demo"


def raw_session(reference: str, threads: int | None) -> onnxruntime.InferenceSession:
    """A session as the documentation opens one."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    path = resolve_reference(reference).path
    assert path is not None, "both subjects are files"
    return onnxruntime.InferenceSession(
        str(path), sess_options=options, providers=["CPUExecutionProvider"]
    )


def input_of(session: onnxruntime.InferenceSession) -> tuple[str, int, int]:
    """Name, height and width of the only input."""
    found = session.get_inputs()[0]
    return found.name, found.shape[2], found.shape[3]


def plain_input(data: bytes, height: int, width: int) -> np.ndarray[Any, Any]:
    """Decode and letterbox as most scripts do it."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None, "the data set was opened, so its images are"
    ratio = min(height / image.shape[0], width / image.shape[1])
    size = int(image.shape[1] * ratio), int(image.shape[0] * ratio)
    padded = np.full((height, width, 3), 114, np.uint8)
    padded[: size[1], : size[0]] = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(padded.transpose(2, 0, 1)[None], np.float32)


def latency_ratios(reference: str, images: EncodedImages) -> dict[str, Ratio]:
    """Median inference milliseconds of `QUERIES` queries: ours, a plain loop's, a tight loop's.

    The three take turns query by query, on the same image, so that a change of the processor's
    speed meets them alike. One intra-op thread: the idle threads of one session's pool spin for a
    while and would take the processor from the next session.
    """
    session = raw_session(reference, 1)
    name, height, width = input_of(session)
    outputs = [output.name for output in session.get_outputs()]
    one = plain_input(images.read(0), height, width)

    def timed_run(fed: np.ndarray[Any, Any]) -> float:
        start = time.perf_counter_ns()
        session.run(outputs, {name: fed})
        return (time.perf_counter_ns() - start) / 1e6

    with load_model(reference, LoadOptions(intra_op_threads=1)) as model:

        def ours(number: int) -> float:
            times = StageTimes()
            run_query(model, images, number, times, time.perf_counter_ns)
            return times.inference_ms[0]

        def plain(number: int) -> float:
            return timed_run(plain_input(images.read(number), height, width))

        def tight(_: int) -> float:
            return timed_run(one)

        def in_turns() -> tuple[float, float, float]:
            arms = [ours, plain, tight]
            spent: dict[Callable[[int], float], list[float]] = {arm: [] for arm in arms}
            for number in range(QUERIES):
                for arm in arms[number % 3 :] + arms[: number % 3]:
                    spent[arm].append(arm(number % len(images)))
            first, second, third = (statistics.median(spent[arm]) for arm in arms)
            return first, second, third

        in_turns()
        rounds = [in_turns() for _ in range(PAIRS)]
    return {
        "latency_ratio_to_raw": Ratio(
            [(mine, raw) for mine, raw, _ in rounds],
            "ms",
            "our median inference time over a plain onnxruntime loop's",
            "0.98 to 1.02",
        ),
        "latency_ratio_to_tight_loop": Ratio(
            [(mine, bare) for mine, _, bare in rounds],
            "ms",
            "our median inference time over that of session.run alone on one input",
            "none: caches",
        ),
    }


def accuracy_pass_ratio(reference: str, images: EncodedImages) -> Ratio:
    """Images a second, one intra-op thread in both arms."""
    session = raw_session(reference, 1)
    name, height, width = input_of(session)
    outputs = [output.name for output in session.get_outputs()]
    inputs = [plain_input(images.read(index), height, width) for index in range(len(images))]

    with load_model(reference, LoadOptions(intra_op_threads=1)) as model:

        def ours() -> float:
            start = time.perf_counter()
            for _ in predict_each(model, images):
                pass
            return len(images) / (time.perf_counter() - start)

        def inference_alone() -> float:
            start = time.perf_counter()
            for fed in inputs:
                session.run(outputs, {name: fed})
            return len(images) / (time.perf_counter() - start)

        ours(), inference_alone()
        return Ratio(
            interleave(ours, inference_alone),
            "images/s",
            "accuracy pass over inference alone, one intra-op thread in both",
            ">= 0.85",
        )


def help_start_ratio() -> Ratio:
    """Milliseconds, median of `STARTS` starts in each pair."""
    python = sys.executable
    dyno = str(Path(python).with_name("dyno"))

    def start_ms(command: list[str]) -> float:
        spent: list[float] = []
        for _ in range(STARTS):
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            spent.append((time.perf_counter() - start) * 1e3)
        return statistics.median(spent)

    def ours() -> float:
        return start_ms([dyno, "--help"])

    def nothing() -> float:
        return start_ms([python, "-c", "pass"])

    ours()
    return Ratio(interleave(ours, nothing), "ms", "dyno --help over python -c pass", "<= 6")


def main() -> None:
    """Measure, print and record."""
    reference, data = subject()
    dataset = open_dataset(data)
    images = EncodedImages([dataset.sample(index).path for index in range(len(dataset))])
    monitor = QuietMonitor()
    monitor.start()
    ratios = latency_ratios(reference, images)
    ratios["accuracy_pass_ratio"] = accuracy_pass_ratio(reference, images)
    ratios["help_start_ratio"] = help_start_ratio()
    settings = {
        "model": Path(reference).name,
        "data": Path(data).name,
        "images": len(images),
        "pairs": PAIRS,
        "queries_a_round": QUERIES,
        "intra_op_threads": 1,
        "peer": f"onnxruntime {onnxruntime.__version__}, CPUExecutionProvider",
    }
    record("harness", ratios, settings, monitor)


if __name__ == "__main__":
    main()
