"""`benchmark`: compare models on one data set and this machine, each in a fresh process.

The child (`measuring.child`) loads the model, predicts every image and takes the times; labels
stay here, and here predictions are scored and everything is put together. A model that fails is
listed with its reason and the others go on.
"""

import datetime
import importlib.util
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from visiondyno import __version__
from visiondyno.datasets.base import Dataset
from visiondyno.datasets.class_mapping import ClassMapping
from visiondyno.datasets.indexed import class_counts
from visiondyno.environment import Environment
from visiondyno.errors import (
    Cancelled,
    MissingExtra,
    ModelError,
    SpecError,
    VisionDynoError,
)
from visiondyno.operations.context import OperationContext
from visiondyno.operations.learned_images import learned_notes
from visiondyno.operations.model_report import ScoredModel
from visiondyno.operations.model_run import ModelRun
from visiondyno.operations.scoring import (
    Level,
    check_requested_classes,
    images_with_classes,
    level_note,
    level_of,
)
from visiondyno.operations.unlabelled import with_agreement
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
from visiondyno.specs.model_card import ModelCard
from visiondyno.specs.operations import BenchmarkInput

T = TypeVar("T")


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
        spec.data,
        skip_bad=spec.skip_bad,
        max_images=spec.max_images,
        context=context,
        unlabelled=True,
    )
    level_of(spec.level, dataset, ())
    check_requested_classes(dataset, spec.classes)
    comparison = _compared(spec, dataset, context, created_at, start_s)
    return {
        "operation": "benchmark",
        "status": "success",
        "comparison": comparison.model_dump(mode="json", by_alias=True),
    }


def _compared(
    spec: BenchmarkInput,
    dataset: Dataset,
    context: OperationContext,
    created_at: str,
    start_s: float,
) -> Comparison:
    """Of a data set that was looked through; `start_s` by the monotonic clock."""
    environment = capture_environment()
    monitor = QuietMonitor()
    monitor.start()
    scored, left_out, level = _measure_all(spec, dataset, environment, context)
    quietness = monitor.stop()
    context.progress("ranking")
    reference = _reference(spec, scored)
    models = with_green_scores([s.report for s in scored], reference)
    ranking = rank(models, {s.reference: s.accuracy.resampled for s in scored}, spec)
    return Comparison(
        visiondyno=__version__,
        created_at=created_at,
        duration_s=time.monotonic() - start_s,
        spec=spec,
        environment=environment,
        dataset=_summary(dataset, scored[0].mapping, level),
        verdict=_verdict(quietness.quiet, quietness.reasons, scored),
        models=models,
        left_out=tuple(left_out),
        differences=ranking.differences,
        winners=ranking.winners,
        pareto=ranking.pareto,
        green_reference=reference,
        notes=(
            *_level_notes(spec, scored, level),
            *learned_notes([model.reference for model in scored], dataset),
            *dataset.notes,
            *_notes(spec, reference),
        ),
    )


def _reference(spec: BenchmarkInput, scored: list[ScoredModel]) -> str:
    """The reference model: the one asked for where it was measured, else the first."""
    asked = spec.reference in {model.reference for model in scored}
    return spec.reference if asked and spec.reference is not None else scored[0].reference


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
    server = "server" in spec.scenarios
    if server and spec.rate_per_s is None and spec.latency_limit_ms is None:
        raise SpecError(
            "The server scenario needs --rate (images a second), or --latency-limit (ms) to search "
            "for the highest rate that keeps it."
        )
    if spec.engine == "loadgen" and importlib.util.find_spec("mlperf_loadgen") is None:
        raise MissingExtra("loadgen", "--engine loadgen")
    carbon_intensity(spec.region)
    if spec.price is not None:
        find_price(spec.price)


def _measure_all(
    spec: BenchmarkInput, dataset: Dataset, environment: Environment, context: OperationContext
) -> tuple[list[ScoredModel], list[LeftOut], Level]:
    """Every model `repeat` times, the models taking turns, so that a drift meets them all.

    All that ran are scored at one level, which is known only then.
    """
    attempts = _Attempts(context)
    with tempfile.TemporaryDirectory(prefix="visiondyno-") as folder:
        runs: list[ModelRun] = []
        for number, reference in enumerate(spec.models):
            own = Path(folder) / str(number)
            own.mkdir()
            runs.append(ModelRun(reference, spec, dataset, environment, context, own))
        for run in runs:
            attempts.attempt(run, run.fetch)
        for _ in range(spec.repeat):
            for run in runs:
                attempts.attempt(run, run.measure)
        cards = [run.card for run in runs if run.reference not in attempts.failed]
        level = level_of(spec.level, dataset, [card for card in cards if card is not None])
        each = [attempts.attempt(run, partial(run.score, level)) for run in runs]
        scored = [done for done in each if done is not None]
        if not scored:
            raise _none_left(list(attempts.failed.values()))
        if dataset.task == "unlabelled":
            answers = {run.reference: run.answers for run in runs}
            scored = with_agreement(scored, _reference(spec, scored), answers, spec)
    return scored, [left for left, _ in attempts.failed.values()], level


class _Attempts:
    """Takes models through their steps; one that failed takes none any more.

    Attributes:
        failed: why, by model reference.
    """

    def __init__(self, context: OperationContext) -> None:
        self.failed: dict[str, tuple[LeftOut, VisionDynoError]] = {}
        self._context = context

    def attempt(self, run: ModelRun, step: Callable[[], T]) -> T | None:
        """The step's result; None for a model that failed at it or before.

        Raises:
            Cancelled, TimeLimitExceeded: the whole job must stop.
        """
        if run.reference in self.failed:
            return None
        try:
            return step()
        except Cancelled:
            raise
        except VisionDynoError as error:
            self._context.check()  # the job's own time limit isn't this model's
            left = LeftOut(reference=run.reference, stage=run.stage, reason=error.message)
            self.failed[run.reference] = left, error
            self._context.progress(f"left out: {error.message}", model=run.reference)
            return None


def _none_left(failed: list[tuple[LeftOut, VisionDynoError]]) -> VisionDynoError:
    if len(failed) == 1:
        return failed[0][1]
    reasons = " ".join(f"{left.reference}: {left.reason}" for left, _ in failed)
    return ModelError(f"None of the {len(failed)} models could be measured. {reasons}")


def _summary(dataset: Dataset, mapping: ClassMapping, level: Level) -> DatasetSummary:
    counts = class_counts(dataset)
    has_labels = dataset.task != "unlabelled"
    scored = {name: counts[name] for name in mapping.scored} if has_labels else {}
    if level == "image":
        scored = images_with_classes(dataset, mapping.scored)
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
        level=level,
    )


def _verdict(quiet: bool, reasons: tuple[str, ...], scored: list[ScoredModel]) -> Verdict:
    """The machine's quietness and every warm-up that did not settle."""
    unsteady = [
        model.report.name
        for model in scored
        if not all(scenario.steady for scenario in model.report.scenarios.values())
    ]
    if unsteady:
        listed = ", ".join(unsteady)
        reasons += (f"Warm-up ended before three windows agreed within 5 %: {listed}.",)
    return Verdict(quiet=quiet and not unsteady, reasons=reasons)


def _level_notes(spec: BenchmarkInput, scored: list[ScoredModel], level: Level) -> tuple[str, ...]:
    if level is None:
        return ()
    cards = {
        model.report.name: ModelCard.model_validate(model.report.description["card"])
        for model in scored
    }
    return (level_note(cards, spec.level),)


def _notes(spec: BenchmarkInput, reference: str) -> tuple[str, ...]:
    if spec.reference is None or spec.reference == reference:
        return ()
    note = (
        f"The reference model {spec.reference} could not be measured; green scores are against "
        f"{reference}."
    )
    return (note,)
