"""What scripts and notebooks call: the operations as plain functions."""

import base64
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from visiondyno.client.async_client import ignore
from visiondyno.client.attachments import INLINE_BYTES, as_progress_of, attach
from visiondyno.client.client import Client
from visiondyno.client.job_facts import JobWatch
from visiondyno.client.time_limit import policy_within
from visiondyno.errors import DatasetError
from visiondyno.job import JobEvent
from visiondyno.operations.family_models import ResolvedModels, resolve_families
from visiondyno.places import Place
from visiondyno.report.comparison import Comparison
from visiondyno.report.job_run import JobRun
from visiondyno.specs.operations import (
    BenchmarkInput,
    EvaluateInput,
    OperationInput,
    PredictInput,
    parse,
)
from visiondyno.vision.decode import decode_image

OnEvent = Callable[[JobEvent], None]
Where = Client | Place | str
"""A client, which stays open, or what one is made of: `inline`, `local`, `redis`, `runpod`, the URL
of a server or of a RunPod endpoint; a `Place` says more."""


def compare(
    models: Sequence[str],
    *,
    data: str,
    on: Where = "inline",
    on_event: OnEvent = ignore,
    **options: Any,
) -> Comparison:
    """Compare models on one data set and one machine.

    Files of this machine are sent to workers that don't see them.

    Args:
        models: model references, e.g. `model.onnx` or `visiondyno:street-n`; or families, such as
            `family:yolov8`: the newest model of it that was trained on these data, else its
            published weights (docs/comparing-families.md).
        data: dataset reference, a folder or a built-in name such as `street:demo`.
        on: where; an interrupt (Ctrl-C) stops the job there.
        on_event: called with each event of the job, for a progress display; those of number 0
            tell of what is packed and uploaded before.
        **options: the other fields of `visiondyno.specs.operations.BenchmarkInput`.

    Errors of a job elsewhere carry where it ran and what it cost in their notes.

    Raises:
        SpecError: an option is wrong.
        DatasetError: the data can't be read.
        ModelError: no model could be measured (one that fails beside others is in `left_out`).
        VisionDynoError: the place can't run it, as the message says.
    """
    given = {"models": list(models), "data": data, **options}
    spec = parse(BenchmarkInput, given, "The comparison's options are wrong")
    return run_comparison(spec, on_event, on)


def run_comparison(
    spec: BenchmarkInput, on_event: OnEvent = ignore, on: Where = "inline"
) -> Comparison:
    """`compare` with its options in one value."""
    spec, chosen = _without_families(spec, on_event)
    output, job = run_operation(spec, on_event, on)
    found: Comparison = Comparison.model_validate(output["comparison"])
    notes = (*chosen.notes, *found.notes, *output.get("notes", ()))
    models = tuple(
        one.model_copy(update={"stands_in_for": chosen.stand_ins.get(one.reference)})
        for one in found.models
    )
    return found.model_copy(update={"job": job, "notes": notes, "models": models})


def _without_families(
    spec: BenchmarkInput, on_event: OnEvent
) -> tuple[BenchmarkInput, ResolvedModels]:
    """The comparison with a model in the place of each family; how each was chosen.

    Here and not where the job runs: trained models are known to the machine that trained them.
    """
    tell = as_progress_of(on_event)

    def on_progress(file: str, done_bytes: int, total_bytes: int | None) -> None:
        counted = {"done": done_bytes, "total": total_bytes, "unit": "bytes"}
        tell({"stage": f"downloading {file}", **counted})

    resolved = resolve_families(spec.models, spec.data, spec.classes, on_progress)
    stands_for = dict(zip(spec.models, resolved.models, strict=True))
    reference = spec.reference and stands_for.get(spec.reference, spec.reference)
    changed = {"models": resolved.models, "reference": reference}
    return spec.model_copy(update=changed), resolved


def evaluate(
    model: str,
    *,
    data: str,
    on: Where = "inline",
    on_event: OnEvent = ignore,
    **options: Any,
) -> dict[str, Any]:
    """A model's accuracy on a data set: `metrics` and `per_class`, each with interval and method.

    `on` and `on_event` are as of `compare`. `options` are the other fields of
    `visiondyno.specs.operations.EvaluateInput`. Where it ran elsewhere, `job` says where, how long,
    and what that cost.

    Raises:
        SpecError, DatasetError, ModelError, ClassMismatch: as the message says.
    """
    given = {"model": model, "data": data, **options}
    spec = parse(EvaluateInput, given, "The evaluation's options are wrong")
    output, job = run_operation(spec, on_event, on)
    return output if job is None else {**output, "job": job.to_json()}


def predict(
    model: str,
    images: Sequence[Path | str],
    *,
    on: Where = "inline",
    on_event: OnEvent = ignore,
    **options: Any,
) -> list[dict[str, Any]]:
    """Predictions of each image file, in order: boxes in pixels, scores, class ids and names.

    `on` and `on_event` are as of `compare`. `options` are the other fields of
    `visiondyno.specs.operations.PredictInput`.

    Raises:
        SpecError, DatasetError, ModelError: as the message says.
    """
    return run_prediction(model, images, options, on_event, on)[0]


def run_prediction(
    model: str,
    images: Sequence[Path | str],
    options: dict[str, Any],
    on_event: OnEvent = ignore,
    on: Where = "inline",
) -> tuple[list[dict[str, Any]], list[str], JobRun | None]:
    """`predict`; with the output's notes, and what is known of the job."""
    files = [_read(Path(image)) for image in images]
    with _client(on) as client:
        given = {"model": model, "images": _sent_images(files, client), **options}
        spec = parse(PredictInput, given, "The prediction's options are wrong")
        output, job = run_operation(spec, on_event, client)
    return output["predictions"], list(output.get("notes", ())), job


def run_operation(
    spec: OperationInput, on_event: OnEvent = ignore, on: Where = "inline"
) -> tuple[dict[str, Any], JobRun | None]:
    """An operation's output, and what is known of its job; None of one in this process."""
    watch = JobWatch()

    def listen(event: JobEvent) -> None:
        watch.on_event(event)
        on_event(event)

    with _client(on) as client:
        job_input = attach(spec.model_dump(mode="json"), client, as_progress_of(on_event))
        try:
            output = client.run(job_input, policy=policy_within(client), on_event=listen)
        except BaseException as error:
            _note_job(error, watch, client)
            raise
        return output, _job(watch, client)


def _job(watch: JobWatch, client: Client) -> JobRun | None:
    return None if client.place.where == "inline" else watch.facts(client)


def _note_job(error: BaseException, watch: JobWatch, client: Client) -> None:
    """With the error: what the job has cost until then, and where it ran."""
    job = _job(watch, client)
    for name, text in [] if job is None else job.lines():
        error.add_note(f"{name}: {text}")


@contextmanager
def _client(on: Where) -> Iterator[Client]:
    """The client; closed at the end where it was made here."""
    if isinstance(on, Client):
        yield on
        return
    with Client(on) as client:
        yield client


def _sent_images(files: Sequence[bytes], client: Client) -> list[str]:
    """As base64; by blob where workers are elsewhere and a request might not hold them."""
    size_bytes = sum(map(len, files)) * 4 // 3
    if client.place.is_remote and size_bytes > INLINE_BYTES:
        return [client.put_blob(data) for data in files]
    return [base64.b64encode(data).decode() for data in files]


def _read(path: Path) -> bytes:
    """The file's bytes, decoded once here: only here is a bad image's name known."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path} can't be read: {error.strerror}. Check the path.") from error
    decode_image(data, str(path))
    return data
