"""One input an operation, versioned by the job contract (SPEC: the job contract)."""

import inspect
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from visiondyno.errors import SpecError
from visiondyno.specs.evaluation_task import EvaluationTask

Scenario = Literal["single-stream", "multi-stream", "server", "offline"]
"""How load is applied, in MLPerf's terms."""

Engine = Literal["dyno", "loadgen"]
"""Who applies it: `loadgen` runs MLPerf's LoadGen too, beside ours."""


DEFAULT_CONFIDENCE = 0.25
"""Lowest score of a detector's boxes, where nothing else is asked for."""


class OperationInput(BaseModel):
    """What every operation's input has in common."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    operation: str


class BenchmarkInput(OperationInput):
    """Compare models on one data set and one machine.

    Attributes:
        models: model references, at least one; a reference may stand once only.
        data: dataset reference.
        classes: score these classes of the data only.
        level: `image`: score which classes are in an image, not where; None: so where a classifier
            takes part on data with boxes, else as the data are labelled.
        scenarios: how load is applied.
        engine: `loadgen` lets MLPerf's LoadGen drive each scenario too.
        duration_s: least time of each scenario's measured part, seconds.
        rate_per_s: images a second of the server scenario's arrivals; without one the highest
            rate that keeps `latency_limit_ms` is searched for.
        latency_limit_ms: that the server scenario's p99 must keep.
        repeat: fresh processes a model, interleaved between the models.
        use_cache: take predictions of the same model, data, settings and machine from the cache.
        reference: the model that scores 50 on the green score; the first one if None.
        device: `cpu`, `cuda` or `cuda:N`.
        threads: intra-op threads of the runtime; its own default if None.
        region: ISO country code of the electricity grid, for CO2.
        price: name in the price table, or USD an hour as a number, for cost.
        max_images: use the first so many images only.
        skip_bad: leave bad images and labels out and count them, instead of stopping.
        seed: of every resampling.
        resamples: of the images, for the intervals of accuracies.
        time_limit_s: each model's process is killed after so many seconds.
    """

    operation: Literal["benchmark"] = "benchmark"
    models: Annotated[tuple[str, ...], Field(min_length=1, max_length=1000)]
    data: str
    classes: tuple[str, ...] | None = None
    level: Literal["image"] | None = None
    scenarios: tuple[Scenario, ...] = ("single-stream", "offline")
    engine: Engine = "dyno"
    duration_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    rate_per_s: Annotated[float, Field(gt=0, le=1e6)] | None = None
    latency_limit_ms: Annotated[float, Field(gt=0, le=1e9)] | None = None
    repeat: Annotated[int, Field(ge=1, le=100)] = 1
    use_cache: bool = True
    reference: str | None = None
    device: str = "cpu"
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    region: str | None = None
    price: str | None = None
    max_images: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    skip_bad: bool = False
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    resamples: Annotated[int, Field(ge=100, le=100_000)] = 1000
    time_limit_s: Annotated[float, Field(gt=0, le=7 * 86400)] = 3600.0


class EvaluateInput(OperationInput):
    """Score one model's accuracy on a data set (no timing).

    `level` is as of `BenchmarkInput`.
    """

    operation: Literal["evaluate"] = "evaluate"
    model: str
    data: str
    classes: tuple[str, ...] | None = None
    level: Literal["image"] | None = None
    device: str = "cpu"
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    max_images: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    skip_bad: bool = False
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    resamples: Annotated[int, Field(ge=100, le=100_000)] = 1000


class PredictInput(OperationInput):
    """Run a model on images.

    Attributes:
        images: each a JPEG or PNG file, as base64 or as the name of a blob (`sha256:…`).
        confidence: lowest score returned; None: 0.25 of a detector, any of a classifier.
        classes: names or ids of those that are returned; None: all.
    """

    operation: Literal["predict"] = "predict"
    model: str
    images: Annotated[tuple[str, ...], Field(min_length=1)]
    confidence: Annotated[float, Field(ge=0, le=1)] | None = None
    classes: tuple[str, ...] | None = None
    device: str = "cpu"
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None


class ScoreSubmissionInput(OperationInput):
    """Score a model that somebody handed in for an evaluation task, in a sandbox.

    Attributes:
        task: whole, so that a worker needs no folder of tasks.
        model: the blob, `sha256:` and 64 hexadecimal digits.
        file_name: what messages call the file.
        blobs_url: where the blob is, for a worker that has no address of blobs of its own.
    """

    operation: Literal["score_submission"] = "score_submission"
    task: EvaluationTask
    model: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    file_name: Annotated[str, Field(min_length=1, max_length=255)] = "model.onnx"
    blobs_url: str | None = None


def parse(kind: type[BaseModel], payload: Any, what: str) -> Any:
    """`payload` as `kind`, or a `SpecError` whose one sentence names the first wrong field."""
    try:
        return kind.model_validate(payload)
    except ValidationError as error:
        raise SpecError(f"{what}: {describe_validation(error)}{_meant(kind, error)}") from error


def describe_validation(error: ValidationError) -> str:
    """The first problem of a pydantic error in one sentence, and how many more there are."""
    problems = error.errors(include_url=False)
    first = problems[0]
    place = ".".join(str(part) for part in first["loc"])
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    given = first.get("input")
    shown = f", got {given!r:.200}" if isinstance(given, str | int | float | bool | None) else ""
    said = first["msg"].removeprefix("Value error, ")
    if first["type"] == "union_tag_not_found":
        said = f"it names no {first['ctx']['discriminator']}; give one"
    return f"'{place}': {said}{shown}{more}" if place else f"{said}{shown}{more}"


def _meant(kind: type[BaseModel], error: ValidationError) -> str:
    """What to add where a field is unknown: the nearest known one."""
    first = error.errors(include_url=False)[0]
    if first["type"] != "extra_forbidden":
        return ""
    *path, name = (str(part) for part in first["loc"])
    models: set[type[BaseModel]] = {kind}
    for part in path:  # what isn't a field is the tag of a union, or an index
        found = {inner for model in models for inner in _models_in(_field_type(model, part))}
        models = found or models
    known = [field.alias or own for model in models for own, field in model.model_fields.items()]
    near = get_close_matches(name, sorted(known), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def _field_type(model: type[BaseModel], name: str) -> Any:
    fields = {field.alias or own: field for own, field in model.model_fields.items()}
    return fields[name].annotation if name in fields else None


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)
