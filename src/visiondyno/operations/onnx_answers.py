"""What an ONNX file answers, found in a child process: its crash in native code is only its own.

`sandbox.run_in_child` calls `answer_features`; arrays go by files in `folder`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visiondyno.errors import ModelError

FEATURES, ANSWERS = "features.npy", "answers"
_FATAL_ONLY = 4

Arrays = list[NDArray[Any]]


def answer_features(payload: dict[str, Any], _: Any) -> dict[str, Any]:
    """Run a file of one input on `features.npy`, in batches of `batches`, the sizes.

    Payload: `folder`, `model`, `batches`, `threads`. The answers lie in `answers/`.

    Raises:
        ModelError: ONNX Runtime can't load or run it.
    """
    import onnxruntime

    folder = Path(payload["folder"])
    features = np.load(folder / FEATURES)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.intra_op_num_threads = payload["threads"]
    version = onnxruntime.__version__
    try:
        session = onnxruntime.InferenceSession(
            payload["model"], options, providers=["CPUExecutionProvider"]
        )
        name = session.get_inputs()[0].name
        batches = _batches(features, payload["batches"])
        pieces: list[Arrays] = [session.run(None, {name: batch}) for batch in batches]
    except Exception as error:  # ONNX Runtime's exceptions share no base class but Exception
        told = " ".join(str(error).split())[:300].rstrip(". ")
        raise ModelError(f"ONNX Runtime {version} can't run the file: {told}.") from error
    write_answers(folder, pieces)
    return {}


def read_answers(folder: Path) -> Arrays:
    """The outputs, in the graph's order; each holds all samples."""
    found = sorted((folder / ANSWERS).iterdir())
    return [np.load(path) for path in found]


def write_answers(folder: Path, pieces: Sequence[Arrays]) -> None:
    """Each output of all batches as one array, flat where batches differ in more than samples."""
    (folder / ANSWERS).mkdir()
    for index, parts in enumerate(zip(*pieces, strict=True)):
        alike = len({part.shape[1:] for part in parts}) == 1
        whole = np.concatenate(parts if alike else [part.ravel() for part in parts])
        np.save(folder / ANSWERS / f"{index:04d}.npy", whole)


def _batches(samples: NDArray[Any], sizes: Sequence[int]) -> list[NDArray[Any]]:
    ends = np.cumsum(sizes)
    return [samples[end - size : end] for end, size in zip(ends, sizes, strict=True)]
