"""A stranger's model in its confined process: started, followed, and judged by what it left."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from visiondyno.datasets.base import Dataset
from visiondyno.datasets.class_mapping import ClassMapping
from visiondyno.errors import (
    ChildDied,
    ClassMismatch,
    ModelError,
    TimeLimitExceeded,
    Unavailable,
    VisionDynoError,
)
from visiondyno.operations.context import OperationContext
from visiondyno.operations.scoring import ScoringRules, match_classes
from visiondyno.operations.untrusted_predictions import load_untrusted, predictions_bytes
from visiondyno.predictions import Predictions
from visiondyno.probes.gpu_share import gpu_share
from visiondyno.sandbox import Limits, Protection, run_in_child
from visiondyno.specs.model_card import ModelCard
from visiondyno.specs.operations import ScoreSubmissionInput

_CHILD = "visiondyno.measuring.untrusted:predict_untrusted"
_STAGES = ("checking the model", "loading the model", "running the model")
_PROGRESS_EVERY_S = 0.5
_LONGEST_MESSAGE = 600

_Text = Annotated[str, Field(max_length=500)]
_Count = Annotated[int, Field(ge=0, le=2**62)]


class ConfinedDescription(BaseModel):
    """What the child says it loaded: shown, and never believed where it would matter.

    See `ModelDescription`; what else the child says is dropped.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    runtime: _Text
    device: _Text
    provider: _Text
    precision: _Text
    batch_size: _Count | None
    parameters: _Count | None
    card: ModelCard
    notes: Annotated[tuple[_Text, ...], Field(max_length=50)]


@dataclass(frozen=True, slots=True)
class ConfinedRun:
    """What came of a model's confined process.

    Attributes:
        protections: name → whether it held and by what.
        mapping: the model's classes and the data's.
        predictions: checked, one an image in the data set's order; valid until the file goes.
        predict_s: the whole process, start and loading included.
    """

    protections: dict[str, Protection]
    description: ConfinedDescription
    mapping: ClassMapping
    predictions: Sequence[Predictions]
    predict_s: float


def predict_confined(
    spec: ScoreSubmissionInput,
    dataset: Dataset,
    context: OperationContext,
    model: Path,
    predictions_file: Path,
) -> ConfinedRun:
    """Run the model over the data set's images in a confined process.

    Args:
        spec: the task with its limits, and what to call the model.
        dataset: of which the child sees the images.
        context: of the operation.
        model: the file.
        predictions_file: in a folder of ours; it is made here.

    Raises:
        ModelError, ClassMismatch: in words for the model's author.
        TimeLimitExceeded: it took longer than the task allows.
        ChildDied: its process crashed, or answered what can't be read.
        Unavailable: this worker lacks what the task needs.
    """
    follower = _Follower(spec, dataset, context)
    limits = spec.task.limits
    predictions_file.touch()
    begun_s = monotonic()
    try:
        run_in_child(
            _CHILD,
            _payload(spec, dataset, context, model, predictions_file),
            on_event=follower.on_event,
            check=follower.check,
            time_limit_s=limits.time_s,
            limits=_limits(spec, dataset, model, predictions_file),
        )
    except VisionDynoError as error:
        if error is follower.raised:
            raise
        raise _for_the_author(error, spec, follower.stage, model) from error
    predict_s = monotonic() - begun_s
    if follower.description is None or follower.mapping is None:
        raise ChildDied("The model's process never said what it loaded.")
    n_classes = len(follower.description.card.classes)
    predictions = load_untrusted(predictions_file, dataset, n_classes)
    return ConfinedRun(
        follower.protections, follower.description, follower.mapping, predictions, predict_s
    )


def _payload(
    spec: ScoreSubmissionInput,
    dataset: Dataset,
    context: OperationContext,
    model: Path,
    predictions_file: Path,
) -> dict[str, Any]:
    task = spec.task
    share = gpu_share(task.device)
    if share is not None and share.reason is not None:
        context.progress(_STAGES[0], log=share.reason)
    return {
        "model": str(model),
        "images": _images(dataset),
        "rule": task.input.model_dump(mode="json"),
        "card": None if task.card is None else task.card.model_dump(mode="json", by_alias=True),
        "batch_size": task.batch_size,
        "device": task.device,
        "gpu_memory_limit_bytes": None if share is None else share.limit_bytes,
        "threads": task.threads,
        "max_bytes": task.limits.upload_bytes,
        "memory_bytes": task.limits.memory_bytes,
        "predictions_file": str(predictions_file),
    }


def _limits(
    spec: ScoreSubmissionInput, dataset: Dataset, model: Path, predictions_file: Path
) -> Limits:
    limits = spec.task.limits
    return Limits(
        memory_bytes=limits.memory_bytes,
        cpu_s=limits.processor_s,
        file_bytes=predictions_bytes(dataset),
        gpu=spec.task.device != "cpu",
        # Each image by itself: labels lie beside them.
        readable=(str(model), *_images(dataset)),
        writable=(str(predictions_file),),
    )


def _images(dataset: Dataset) -> list[str]:
    return [str(dataset.sample(index).path.resolve()) for index in range(len(dataset))]


class _Follower:
    """Listens to the child, as to somebody who may lie.

    Attributes:
        stage: what the child says it is doing.
        raised: what was raised here, rather than by the child.
    """

    def __init__(
        self, spec: ScoreSubmissionInput, dataset: Dataset, context: OperationContext
    ) -> None:
        self._spec = spec
        self._dataset = dataset
        self._context = context
        self._told_s = 0.0
        self.stage = _STAGES[0]
        self.raised: VisionDynoError | None = None
        self.protections: dict[str, Protection] = {}
        self.description: ConfinedDescription | None = None
        self.mapping: ClassMapping | None = None

    def check(self) -> None:
        with self._ours():
            self._context.check()

    def on_event(self, event: dict[str, Any]) -> None:
        with self._ours():
            if not self.protections:
                # The first event comes from our code, before the model's was loaded.
                self.protections = {
                    name: Protection.model_validate(held)
                    for name, held in event["protections"].items()
                }
                return
            if "description" in event and self.description is None:
                self._describe(event["description"])
            self._tell(event)

    def _describe(self, said: Any) -> None:
        try:
            self.description = ConfinedDescription.model_validate(said)
        except ValidationError as error:
            raise ChildDied("The model's process answered what can't be read.") from error
        task = self._spec.task
        rules = ScoringRules(None, task.resamples, task.seed)
        card = self.description.card
        self.mapping = match_classes(card, self._spec.file_name, self._dataset, rules)

    def _tell(self, event: dict[str, Any]) -> None:
        stage, done = event.get("stage"), event.get("done")
        if stage not in _STAGES:
            return
        is_new, self.stage = stage != self.stage, stage
        now_s = monotonic()
        if not is_new and now_s - self._told_s < _PROGRESS_EVERY_S:
            return
        self._told_s = now_s
        total = len(self._dataset)
        facts = {"done": done, "total": total} if done in range(total + 1) else {}
        self._context.progress(stage, **facts)

    @contextlib.contextmanager
    def _ours(self) -> Iterator[None]:
        try:
            yield
        except VisionDynoError as error:
            self.raised = error
            raise


def _for_the_author(
    error: VisionDynoError, spec: ScoreSubmissionInput, stage: str, model: Path
) -> VisionDynoError:
    """The child's end in words for whoever handed the model in: no path of ours, no epic."""
    limits = spec.task.limits
    said = error.message.replace(str(model), spec.file_name).replace(str(model.parent), "")
    said = said if len(said) <= _LONGEST_MESSAGE else f"{said[:_LONGEST_MESSAGE]}…"
    kind: Callable[[str], VisionDynoError] = ModelError
    if isinstance(error, TimeLimitExceeded):
        kind = TimeLimitExceeded
        said = (
            f"{spec.file_name} was stopped while {stage}: the task gives a model {limits.time_s:g} "
            f"s, and {limits.processor_s} s of processor time. Make it smaller or simpler."
        )
    elif isinstance(error, ChildDied):
        kind = ChildDied
        said = f"{spec.file_name} ended the process that was {stage}. {said}"
    elif isinstance(error, ClassMismatch):
        kind = ClassMismatch
    elif isinstance(error, Unavailable) or type(error) is VisionDynoError:
        return error  # of this worker or of our code, not of the model
    made = kind(said)
    made.__dict__["traceback"] = error.__dict__.get("traceback")
    return made
