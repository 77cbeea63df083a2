"""`visiondyno.comparison/1`: the record of one comparison; every other form is made from it."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from visiondyno.environment import Environment
from visiondyno.measurements.measure import Interval, Measure
from visiondyno.report.job_run import JobRun
from visiondyno.specs.operations import BenchmarkInput


class _Value(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SkippedImage(_Value):
    """An image left out by `skip_bad`, and why."""

    image: str
    reason: str


class DatasetSummary(_Value):
    """What the models were scored on.

    `classes` maps each scored class to its number of labelled objects (or images). `level` is
    `image` where boxes were labelled, and models were scored on which classes are in an image;
    then images are counted.
    """

    reference: str
    task: str
    digest: str
    images: int
    objects: int
    classes: dict[str, int]
    skipped: tuple[SkippedImage, ...] = ()
    level: Literal["image"] | None = None


class PrecisionRecallCurve(_Value):
    """Precision at COCO's 101 recall points, IoU 0.5, mean over the classes that have objects."""

    recall: tuple[float, ...]
    precision: tuple[float, ...]


class ConfusionMatrix(_Value):
    """Counts, rows true and columns predicted, in `labels` order.

    Of a detector: at IoU 0.5 and the model's `f1_threshold`, each box matched once; the last label
    is `background` (row: false alarms; column: misses).
    """

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


class Box(_Value):
    """One box for drawing: pixels of the original image; `score` is None for a labelled one."""

    xyxy: tuple[float, float, float, float]
    label: str
    score: float | None = None
    matched: bool


class WorstImage(_Value):
    """An image the model got most wrong.

    `jpeg_base64` is a thumbnail; `boxes` are in its pixels. `errors` counts misses and false
    alarms at IoU 0.5 and `f1_threshold` (of a classifier: 1; of depth: pixels off by a ratio of
    1.25 or more, the thumbnail being image, predicted and true depth side by side).
    """

    image: str
    errors: int
    width: int
    height: int
    jpeg_base64: str
    true_boxes: tuple[Box, ...] = ()
    predicted_boxes: tuple[Box, ...] = ()
    caption: str = ""


class ScenarioResult(_Value):
    """One scenario's measures and its samples.

    `samples_ms` are end-to-end latencies in order of query (single-stream), unclipped.
    `early_stopping` is LoadGen's bound beside a percentile, by measure name. `steady` is False
    where the warm-up ended before the times had settled.
    """

    measures: dict[str, Measure]
    samples_ms: tuple[float, ...] = ()
    warmup_queries: int = 0
    early_stopping: dict[str, Measure] = Field(default_factory=dict)
    steady: bool = True
    notes: tuple[str, ...] = ()


class Verdict(_Value):
    """Whether the machine was quiet enough for the times to be trusted, and what was seen.

    `reasons` say why it was not; `notes` what else bears on trust: of merged reports, whether the
    runs of one model agree.
    """

    quiet: bool
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Origin(_Value):
    """The run that a model of a merged comparison comes from.

    `reference` and `name` are the model's there; `spec` is that run's request.
    """

    reference: str
    name: str
    created_at: str
    visiondyno: str
    spec: BenchmarkInput
    environment: Environment
    verdict: Verdict


class ModelReport(_Value):
    """Everything measured of one model.

    `description` is the model card in use with the source of each part, runtime, device,
    precision, provider, digest and size. `measures` holds all names of `MEASURES` that apply.
    `origin` is the run it was measured in, where several were merged. `stands_in_for` is the family
    asked for, where the model isn't of it but in its place.
    """

    reference: str
    name: str
    stands_in_for: str | None = None
    description: dict[str, Any]
    notes: tuple[str, ...] = ()
    measures: dict[str, Measure]
    per_class: dict[str, dict[str, Measure]] = Field(default_factory=dict)
    scenarios: dict[str, ScenarioResult] = Field(default_factory=dict)
    precision_recall: PrecisionRecallCurve | None = None
    confusion: ConfusionMatrix | None = None
    worst_images: tuple[WorstImage, ...] = ()
    origin: Origin | None = None


class LeftOut(_Value):
    """A model that took no part, and why; the others went on."""

    reference: str
    stage: str
    reason: str


class Difference(_Value):
    """`a` minus `b` in one measure.

    A tie where the 95 % interval holds 0 or is unknown. A reading that isn't a statistic (peak
    memory) has no interval: there a tie is less than `differences.READING_TOLERANCE` apart.
    """

    measure: str
    a: str
    b: str
    value: float
    interval: Interval | None
    tie: bool
    method: str


class Winner(_Value):
    """The best in one category.

    Several references are a tie within the interval, the highest score first. None at all: there
    is no winner, and `explanation` says why.
    """

    category: Literal["overall", "accuracy", "balance", "memory", "greenest"]
    title: str
    references: tuple[str, ...]
    measure: str
    explanation: str


class ParetoFront(_Value):
    """References no other model beats in both measures, best `x` first.

    `estimated` is True where `x` or `y` rests on an assumption for any model.
    """

    x: str
    y: str
    references: tuple[str, ...]
    estimated: bool = False


class Comparison(_Value):
    """One comparison of models on one data set and one machine, or several such merged.

    Of a merged one every model has its `origin`; `spec`, `environment` and `created_at` are the
    newest run's. `job` is where it ran, unless that was the process that asked; `environment` is
    the worker's then.
    """

    schema_: Literal["visiondyno.comparison/1"] = Field("visiondyno.comparison/1", alias="schema")
    visiondyno: str
    created_at: str
    duration_s: float
    spec: BenchmarkInput
    environment: Environment
    dataset: DatasetSummary
    verdict: Verdict
    models: tuple[ModelReport, ...]
    left_out: tuple[LeftOut, ...] = ()
    differences: tuple[Difference, ...] = ()
    winners: tuple[Winner, ...] = ()
    pareto: tuple[ParetoFront, ...] = ()
    green_reference: str | None = None
    notes: tuple[str, ...] = ()
    job: JobRun | None = None

    def model(self, reference: str) -> ModelReport:
        """The report of the model so named.

        Raises:
            KeyError: no such model took part.
        """
        for report in self.models:
            if reference in (report.reference, report.name):
                return report
        raise KeyError(reference)

    def to_json(self) -> str:
        """The wire form: JSON of schema `visiondyno.comparison/1`."""
        return self.model_dump_json(by_alias=True, indent=1)
