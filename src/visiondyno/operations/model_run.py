"""One model on its way through its child processes to its scored report."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from visiondyno.datasets.base import Dataset
from visiondyno.datasets.class_mapping import ClassMapping
from visiondyno.environment import Environment
from visiondyno.measuring.prediction_files import load_predictions
from visiondyno.measuring.worst_images import worst_images
from visiondyno.operations.accuracy_cache import AccuracyCache
from visiondyno.operations.context import OperationContext
from visiondyno.operations.model_report import ScoredModel, make_report
from visiondyno.operations.scoring import (
    Level,
    ScoringRules,
    map_predictions,
    match_classes,
    score_predictions,
)
from visiondyno.predictions import Predictions
from visiondyno.sandbox import run_in_child
from visiondyno.specs.model_card import ModelCard
from visiondyno.specs.operations import BenchmarkInput
from visiondyno.vision.accuracy import Accuracy

_CHILD = "visiondyno.measuring.child:measure_model"


class ModelRun:
    """Measures one model in fresh processes, then scores what it predicted.

    Attributes:
        reference: the model's.
        stage: what is being done, for the reason of a failure.
        card: the model's, as soon as it is loaded.
    """

    def __init__(
        self,
        reference: str,
        spec: BenchmarkInput,
        dataset: Dataset,
        environment: Environment,
        context: OperationContext,
        folder: Path,
    ) -> None:
        """`folder` is for the predictions; it must outlast the run."""
        self.reference = reference
        self.stage = "fetch"
        self._spec = spec
        self._dataset = dataset
        self._environment = environment
        self._context = context
        self._rules = ScoringRules(spec.classes, spec.resamples, spec.seed)
        self.card: ModelCard | None = None
        self._mapping: ClassMapping | None = None
        self._children: list[dict[str, Any]] = []
        self._predictions = folder / "predictions.npz"
        self._cached_at: str | None = None

    def fetch(self) -> None:
        """Download its weights unless they are here: no child may, whose load is measured.

        Raises:
            VisionDynoError: there is no such model, or its weights can't be downloaded.
        """
        self._context.fetch_weights(self.reference)

    def measure(self) -> None:
        """One more fresh process; only the first one makes the accuracy pass.

        Raises:
            VisionDynoError: the model can't be loaded, run or matched with the data.
        """
        self.stage = "load"
        needs_pass = not self._children and not self._take_from_cache()
        found = run_in_child(
            _CHILD,
            self._payload(self._predictions if needs_pass else None),
            on_event=self._on_event,
            check=self._context.check,
            time_limit_s=self._spec.time_limit_s,
        )
        self._children.append(found)
        if needs_pass:
            AccuracyCache().keep(self._key(), self._predictions)

    def score(self, level: Level = None) -> ScoredModel:
        """The model's report, all processes together; scored at the level of all models."""
        assert self.card is not None
        assert self._mapping is not None, "the child tells what it loaded before anything else"
        self.stage = "score"
        self._context.progress("scoring", model=self.reference)
        mapped = self.answers()
        rules = replace(self._rules, level=level)
        accuracy = score_predictions(self._dataset, self.card, self._mapping, mapped, rules)
        if self._cached_at is not None:
            accuracy = _marked(accuracy, f"cached accuracy pass of {self._cached_at}")
        report = make_report(self._children, accuracy, self._mapping, self._spec, self._environment)
        gallery = worst_images(self._dataset, accuracy, mapped) if accuracy.image_errors else ()
        update = {"worst_images": gallery, "notes": (*report.notes, *self._cache_notes())}
        report = report.model_copy(update=update)
        return ScoredModel(self.reference, report, accuracy, self._mapping)

    def answers(self) -> Sequence[Predictions]:
        """Its predictions, one an image, in the data set's class ids (without labels, its own)."""
        assert self.card is not None
        assert self._mapping is not None
        return map_predictions(self._mapping, load_predictions(self._predictions), self.card)

    def _cache_notes(self) -> tuple[str, ...]:
        if self._cached_at is None:
            return ()
        note = (
            f"Cached accuracy pass of {self._cached_at}: same model, card, data, settings, "
            "packages and machine. --no-cache makes a fresh one."
        )
        return (note,)

    def _key(self) -> str | None:
        cache = AccuracyCache()
        return cache.key(self.reference, self._spec, self._dataset, self._environment)

    def _take_from_cache(self) -> bool:
        """Use the predictions of an earlier pass, if there is one and it is wanted."""
        found = AccuracyCache().find(self._key()) if self._spec.use_cache else None
        if found is None:
            return False
        try:
            load_predictions(found.file)
        except (OSError, ValueError, KeyError):
            return False  # a damaged cache is no cache
        self._predictions = found.file
        self._cached_at = found.made_at
        return True

    def _payload(self, predictions_file: Path | None) -> dict[str, Any]:
        dataset, spec = self._dataset, self._spec
        return {
            "reference": self.reference,
            "device": spec.device,
            "threads": spec.threads,
            "images": [str(dataset.sample(index).path) for index in range(len(dataset))],
            "scenarios": list(spec.scenarios),
            "engine": spec.engine,
            "duration_s": spec.duration_s,
            "rate_per_s": spec.rate_per_s,
            "latency_limit_ms": spec.latency_limit_ms,
            # Another order in each process: the one drawn must not decide.
            "seed": spec.seed + len(self._children),
            "predictions_file": None if predictions_file is None else str(predictions_file),
        }

    def _on_event(self, event: dict[str, Any]) -> None:
        """Pass progress on; match classes as soon as the model is known: a misfit ends it here."""
        self.stage = event["stage"]
        if "description" in event:
            self.card = ModelCard.model_validate(event.pop("description")["card"])
            self._mapping = match_classes(
                self.card, self.reference, self._dataset, self._rules, takes_classifiers=True
            )
        of = f" {len(self._children) + 1} of {self._spec.repeat}" if self._spec.repeat > 1 else ""
        self._context.progress(f"{event.pop('stage')}{of}", model=self.reference, **event)


def _marked(accuracy: Accuracy, how: str) -> Accuracy:
    """The same accuracy, each method saying `how` its predictions came."""
    measures = {
        name: measure.model_copy(update={"method": f"{measure.method}; {how}"})
        for name, measure in accuracy.measures.items()
    }
    return replace(accuracy, measures=measures)
