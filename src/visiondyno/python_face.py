"""What scripts and notebooks call: the operations as plain functions."""

import base64
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from visiondyno.errors import DatasetError
from visiondyno.executors.blocking import run_job
from visiondyno.job import JobEvent, JobRequest
from visiondyno.report.comparison import Comparison
from visiondyno.specs.operations import (
    BenchmarkInput,
    EvaluateInput,
    OperationInput,
    PredictInput,
    parse,
)
from visiondyno.vision.decode import decode_image
from visiondyno.wiring import make_executor

OnEvent = Callable[[JobEvent], None]


def _ignore(_: JobEvent) -> None:
    """Nobody listens."""


def compare(
    models: Sequence[str], *, data: str, on_event: OnEvent = _ignore, **options: Any
) -> Comparison:
    """Compare models on one data set and this machine.

    Args:
        models: model references, e.g. `model.onnx` or `visiondyno:street-n`.
        data: dataset reference, a folder or a built-in name such as `street:demo`.
        on_event: called with each event of the job, for a progress display.
        **options: the other fields of `visiondyno.specs.operations.BenchmarkInput`.

    Raises:
        SpecError: an option is wrong.
        DatasetError: the data can't be read.
        ModelError: no model could be measured (one that fails beside others is in `left_out`).
    """
    given = {"models": list(models), "data": data, **options}
    spec = parse(BenchmarkInput, given, "The comparison's options are wrong")
    return run_comparison(spec, on_event)


def run_comparison(spec: BenchmarkInput, on_event: OnEvent = _ignore) -> Comparison:
    """`compare` with its options in one value."""
    output = _run(spec, on_event)
    return Comparison.model_validate(output["comparison"])


def evaluate(
    model: str, *, data: str, on_event: OnEvent = _ignore, **options: Any
) -> dict[str, Any]:
    """A model's accuracy on a data set: `metrics` and `per_class`, each with interval and method.

    `options` are the other fields of `visiondyno.specs.operations.EvaluateInput`.

    Raises:
        SpecError, DatasetError, ModelError, ClassMismatch: as the message says.
    """
    given = {"model": model, "data": data, **options}
    return _run(parse(EvaluateInput, given, "The evaluation's options are wrong"), on_event)


def predict(
    model: str, images: Sequence[Path | str], *, on_event: OnEvent = _ignore, **options: Any
) -> list[dict[str, Any]]:
    """Predictions of each image file, in order: boxes in pixels, scores, class ids and names.

    `options` are the other fields of `visiondyno.specs.operations.PredictInput`.

    Raises:
        SpecError, DatasetError, ModelError: as the message says.
    """
    encoded = [base64.b64encode(_read(Path(image))).decode() for image in images]
    given = {"model": model, "images": encoded, **options}
    spec = parse(PredictInput, given, "The prediction's options are wrong")
    predictions: list[dict[str, Any]] = _run(spec, on_event)["predictions"]
    return predictions


def _run(spec: OperationInput, on_event: OnEvent) -> dict[str, Any]:
    request = JobRequest(input=spec.model_dump(mode="json"))
    return run_job(make_executor, request, on_event)


def _read(path: Path) -> bytes:
    """The file's bytes, decoded once here: only here is a bad image's name known."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path} can't be read: {error.strerror}. Check the path.") from error
    decode_image(data, str(path))
    return data
