"""`benchmark`: compare models on one data set and this machine, each in a fresh process.

The child (`measuring.child`) loads the model, predicts every image and takes the times; labels
stay here, and here predictions are scored and everything is put together. A model that fails is
listed with its reason and the others go on.
"""

import datetime
import tempfile
import time
from pathlib import Path
from typing import Any

from visiondyno import __version__
from visiondyno.datasets.base import Dataset
from visiondyno.datasets.class_mapping import ClassMapping
from visiondyno.datasets.indexed import class_counts
from visiondyno.environment import Environment
from visiondyno.errors import (
    Cancelled,
    ModelError,
    SpecError,
    VisionDynoError,
)
from visiondyno.measuring.prediction_files import load_predictions
from visiondyno.measuring.worst_images import worst_images
from visiondyno.operations.context import OperationContext
from visiondyno.operations.model_report import ScoredModel, make_report
from visiondyno.operations.scoring import (
    ScoringRules,
    map_predictions,
    match_classes,
    score_predictions,
)
from visiondyno.operations.verified_data import open_verified
from visiondyno.probes.carbon import carbon_intensity
from visiondyno.probes.cost import find_price
from visiondyno.probes.machine import capture_environment
from visiondyno.probes.quiet import QuietMonitor
from visiondyno.report.comparison import (
    Comparison,
    DatasetSummary,
    LeftOut,
    SkippedImage,
    Verdict,
)
from visiondyno.report.green import with_green_scores
from visiondyno.report.ranking import rank
from visiondyno.sandbox import run_in_child
from visiondyno.specs.model_card import ModelCard
from visiondyno.specs.operations import BenchmarkInput

_CHILD = "visiondyno.measuring.child:measure_model"


def run(spec: BenchmarkInput, context: OperationContext) -> dict[str, Any]:
    """The comparison, under `comparison`, as `visiondyno.comparison/1`.

    Raises:
        SpecError: an option is wrong.
        DatasetError: the data can't be read.
        VisionDynoError: no model could be measured; the first one's error.
    """
    _check_options(spec)
    start_s = time.monotonic()
    created_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    dataset = open_verified(
        spec.data, skip_bad=spec.skip_bad, max_images=spec.max_images, context=context
    )
    environment = capture_environment()
    monitor = QuietMonitor()
    monitor.start()
    scored, left_out = _measure_all(spec, dataset, environment, context)
    quietness = monitor.stop()
    context.progress("ranking")
    reference = spec.reference if spec.reference in {s.reference for s in scored} else None
    reference = reference or scored[0].reference
    models = with_green_scores([s.report for s in scored], reference)
    ranking = rank(models, {s.reference: s.accuracy.resampled for s in scored}, spec)
    comparison = Comparison(
        visiondyno=__version__,
        created_at=created_at,
        duration_s=time.monotonic() - start_s,
        spec=spec,
        environment=environment,
        dataset=_summary(dataset, scored[0].mapping),
        verdict=_verdict(quietness.quiet, quietness.reasons, scored),
        models=models,
        left_out=tuple(left_out),
        differences=ranking.differences,
        winners=ranking.winners,
        pareto=ranking.pareto,
        green_reference=reference,
        notes=(*dataset.notes, *_notes(spec, reference)),
    )
    return {
        "operation": "benchmark",
        "status": "success",
        "comparison": comparison.model_dump(mode="json", by_alias=True),
    }


def _check_options(spec: BenchmarkInput) -> None:
    """Find what is wrong before minutes are spent."""
    twice = {reference for reference in spec.models if spec.models.count(reference) > 1}
    if twice:
        raise SpecError(f"{', '.join(sorted(twice))} is given twice; name each model once.")
    if spec.reference is not None and spec.reference not in spec.models:
        raise SpecError(
            f"The reference model '{spec.reference}' isn't among the compared ones: "
            f"{', '.join(spec.models)}."
        )
    carbon_intensity(spec.region)
    if spec.price is not None:
        find_price(spec.price)


def _measure_all(
    spec: BenchmarkInput, dataset: Dataset, environment: Environment, context: OperationContext
) -> tuple[list[ScoredModel], list[LeftOut]]:
    rules = ScoringRules(spec.classes, spec.resamples, spec.seed)
    scored: list[ScoredModel] = []
    left_out: list[LeftOut] = []
    first_error: VisionDynoError | None = None
    for reference in spec.models:
        measuring = _Measuring(reference, spec, dataset, rules, context)
        try:
            scored.append(measuring.run(environment))
        except Cancelled:
            raise
        except VisionDynoError as error:
            context.check()  # the job's own time limit isn't this model's
            first_error = first_error or error
            left_out.append(
                LeftOut(reference=reference, stage=measuring.stage, reason=error.message)
            )
            context.progress(f"left out: {error.message}", model=reference)
    if not scored:
        assert first_error is not None, "there is at least one model"
        raise _none_left(left_out, first_error)
    return scored, left_out


def _none_left(left_out: list[LeftOut], first: VisionDynoError) -> VisionDynoError:
    if len(left_out) == 1:
        return first
    reasons = " ".join(f"{left.reference}: {left.reason}" for left in left_out)
    return ModelError(f"None of the {len(left_out)} models could be measured. {reasons}")


class _Measuring:
    """One model on its way through its child process to its report."""

    def __init__(
        self,
        reference: str,
        spec: BenchmarkInput,
        dataset: Dataset,
        rules: ScoringRules,
        context: OperationContext,
    ) -> None:
        self.stage = "load"
        self._reference = reference
        self._spec = spec
        self._dataset = dataset
        self._rules = rules
        self._context = context
        self._mapping: ClassMapping | None = None

    def run(self, environment: Environment) -> ScoredModel:
        """Measure in a fresh process, then score what it predicted."""
        with tempfile.TemporaryDirectory(prefix="visiondyno-") as folder:
            file = Path(folder) / "predictions.npz"
            found = run_in_child(
                _CHILD,
                self._payload(file),
                on_event=self._on_event,
                check=self._context.check,
                time_limit_s=self._spec.time_limit_s,
            )
            predictions = load_predictions(file)
        assert self._mapping is not None, "the child tells what it loaded before anything else"
        self.stage = "score"
        self._context.progress("scoring", model=self._reference)
        mapped = map_predictions(self._mapping, predictions)
        accuracy = score_predictions(self._dataset, self._mapping, mapped, self._rules)
        report = make_report(found, accuracy, self._mapping, self._spec, environment)
        gallery = worst_images(self._dataset, accuracy, mapped)
        report = report.model_copy(update={"worst_images": gallery})
        return ScoredModel(self._reference, report, accuracy, self._mapping)

    def _payload(self, predictions_file: Path) -> dict[str, Any]:
        dataset, spec = self._dataset, self._spec
        return {
            "reference": self._reference,
            "device": spec.device,
            "threads": spec.threads,
            "images": [str(dataset.sample(index).path) for index in range(len(dataset))],
            "scenarios": list(spec.scenarios),
            "duration_s": spec.duration_s,
            "seed": spec.seed,
            "predictions_file": str(predictions_file),
        }

    def _on_event(self, event: dict[str, Any]) -> None:
        """Pass progress on; match classes as soon as the model is known: a misfit ends it here."""
        self.stage = event["stage"]
        if "description" in event:
            card = ModelCard.model_validate(event.pop("description")["card"])
            self._mapping = match_classes(card, self._reference, self._dataset, self._rules)
        self._context.progress(event.pop("stage"), model=self._reference, **event)


def _summary(dataset: Dataset, mapping: ClassMapping) -> DatasetSummary:
    counts = class_counts(dataset)
    scored = {name: counts[name] for name in mapping.scored}
    return DatasetSummary(
        reference=dataset.reference,
        task=dataset.task,
        digest=dataset.digest,
        images=len(dataset),
        objects=sum(scored.values()),
        classes=scored,
        skipped=tuple(
            SkippedImage(image=str(bad.path), reason=bad.reason) for bad in dataset.skipped
        ),
    )


def _verdict(quiet: bool, reasons: tuple[str, ...], scored: list[ScoredModel]) -> Verdict:
    """The machine's quietness and every warm-up that did not settle."""
    unsteady = tuple(
        f"{model.report.name}: {note}"
        for model in scored
        for scenario in model.report.scenarios.values()
        for note in scenario.notes
    )
    return Verdict(quiet=quiet and not unsteady, reasons=(*reasons, *unsteady))


def _notes(spec: BenchmarkInput, reference: str) -> tuple[str, ...]:
    if spec.reference is None or spec.reference == reference:
        return ()
    note = (
        f"The reference model {spec.reference} could not be measured; green scores are against "
        f"{reference}."
    )
    return (note,)
