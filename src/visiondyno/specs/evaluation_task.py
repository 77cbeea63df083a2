"""An evaluation task: a named challenge of hidden data, a metric, and limits."""

import datetime
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator, model_validator

from visiondyno.specs.model_card import DepthCard, ModelCard

RESERVED_NAMES = frozenset({"queue", "health"})
"""They are addresses of their own beside the tasks: `/submit/queue/…`, `/submit/health`."""

SplitName = Literal["all", "public", "private"]
"""Which images: all of a task without a split, else the public or the private part."""

MetricName = Literal[
    "abs_rel", "rmse", "delta1", "map_50_95", "map_50", "map_75", "f1", "top1", "top5"
]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Metric(_Part):
    """What ranks.

    Attributes:
        name: one of the measures of accuracy.
        better: whether more or less of it wins.
        formula: in words and symbols, for those who take part.
    """

    name: MetricName
    better: Literal["higher", "lower"]
    formula: Annotated[str, Field(min_length=10)]

    @model_validator(mode="after")
    def _direction_fits(self) -> Self:
        lower = self.name in ("abs_rel", "rmse")
        if lower != (self.better == "lower"):
            raise ValueError(f"of '{self.name}', {'less' if lower else 'more'} is better")
        return self


class InputRule(_Part):
    """What the model must take: one batch of colour images.

    Attributes:
        height, width: in pixels; a model may leave them open.
        layouts, dtypes: those allowed.
        max_batch: the largest fixed batch size that is run.
    """

    height: Annotated[int, Field(ge=1, le=16384)]
    width: Annotated[int, Field(ge=1, le=16384)]
    layouts: Annotated[tuple[Literal["nchw", "nhwc"], ...], Field(min_length=1)] = ("nchw",)
    dtypes: Annotated[
        tuple[Literal["float32", "float16", "uint8", "int8"], ...], Field(min_length=1)
    ] = ("float32",)
    max_batch: Annotated[int, Field(ge=1, le=1024)] = 64


class TaskLimits(_Part):
    """What one submission may use.

    Attributes:
        time_s: from the start of its process to its last prediction.
        cpu_s: processor time of all its threads; `time_s` on each of 8 cores if None.
        memory_bytes: private memory.
        upload_bytes: size of the file.
    """

    time_s: Annotated[float, Field(gt=0, le=86_400)]
    cpu_s: Annotated[int, Field(ge=1)] | None = None
    memory_bytes: Annotated[int, Field(ge=300_000_000)]
    upload_bytes: Annotated[int, Field(ge=1)]

    @property
    def processor_s(self) -> int:
        """`cpu_s`, filled in."""
        return self.cpu_s if self.cpu_s is not None else int(self.time_s * 8) + 1


class Split(_Part):
    """Which images rank before the deadline and which after it.

    Attributes:
        public: share of the images whose score is shown until the deadline.
        seed: of the permutation that parts them.
    """

    public: Annotated[float, Field(gt=0, lt=1)]
    seed: Annotated[int, Field(ge=0)]


class EvaluationTask(_Part):
    """One challenge.

    Attributes:
        name: in addresses.
        vision_task, data: what is scored, on which dataset reference; labels stay outside the
            model's process.
        images: how many, the first ones by name; all of the data set if None.
        depth: of a depth task: what an output means and how it is aligned, the same for everyone.
        card: how a model is fed that doesn't say it itself in its metadata `visiondyno.model`.
        batch_size: images a call, where the model leaves it open.
        device, threads: where it runs; None leaves threads to the runtime.
        submissions_per_day: of one key (or of everybody, where no key is needed).
        deadline: later submissions are refused, and the private part ranks.
        split: None ranks by all images.
        resamples, seed: of the intervals.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
    title: Annotated[str, Field(min_length=1, max_length=200)]
    description: str
    vision_task: Literal["detection", "classification", "depth"]
    data: Annotated[str, Field(min_length=1)]
    images: Annotated[int, Field(ge=1)] | None = None
    metric: Metric
    depth: DepthCard | None = None
    card: ModelCard | None = None
    input: InputRule
    batch_size: Annotated[int, Field(ge=1, le=1024)] = 1
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?)$")] = "cpu"
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    limits: TaskLimits
    submissions_per_day: Annotated[int, Field(ge=1)]
    deadline: AwareDatetime | None = None
    split: Split | None = None
    resamples: Annotated[int, Field(ge=100, le=10_000)] = 1000
    seed: Annotated[int, Field(ge=0)] = 0

    @field_validator("name")
    @classmethod
    def _name_is_free(cls, name: str) -> str:
        if name in RESERVED_NAMES:
            raise ValueError(f"'{name}' is reserved; choose another name")
        return name

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        of_depth = self.metric.name in ("abs_rel", "rmse", "delta1")
        of_classes = self.metric.name in ("top1", "top5")
        right = {"depth": of_depth, "classification": of_classes}.get(
            self.vision_task, not of_depth and not of_classes
        )
        if not right:
            raise ValueError(f"metric '{self.metric.name}' isn't one of {self.vision_task}")
        if (self.depth is not None) != (self.vision_task == "depth"):
            raise ValueError("'depth' says how depth is scored: needed there, and nowhere else")
        if self.card is not None and self.card.task != self.vision_task:
            raise ValueError(f"the card is for {self.card.task}, the task for {self.vision_task}")
        return self

    def is_over(self, now_s: float) -> bool:
        """Whether the deadline has passed, `now_s` seconds since the epoch."""
        now = datetime.datetime.fromtimestamp(now_s, datetime.UTC)
        return self.deadline is not None and now >= self.deadline

    def ranking_split(self, now_s: float) -> SplitName:
        """The images that rank now."""
        if self.split is None:
            return "all"
        return "private" if self.is_over(now_s) else "public"

    def parts(self, n_images: int) -> dict[SplitName, tuple[int, ...]]:
        """Indices of the images of each part, ascending; both parts hold at least one image.

        The parts are the two ends of PCG64's permutation of `split.seed`.
        """
        if self.split is None:
            return {"all": tuple(range(n_images))}
        order = np.random.Generator(np.random.PCG64(self.split.seed)).permutation(n_images)
        count = min(max(round(self.split.public * n_images), 1), max(n_images - 1, 1))
        public, private = order[:count], order[count:]
        return {
            "public": tuple(sorted(int(index) for index in public)),
            "private": tuple(sorted(int(index) for index in private)),
        }
