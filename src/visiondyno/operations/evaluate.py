"""`evaluate`: a model's accuracy on a data set, in this process and without timing."""

from dataclasses import replace
from typing import Any

from visiondyno.measuring.images import EncodedImages
from visiondyno.measuring.pipeline import predict_each
from visiondyno.operations.context import OperationContext
from visiondyno.operations.learned_images import learned_notes
from visiondyno.operations.scoring import (
    ScoringRules,
    level_note,
    level_of,
    map_predictions,
    match_classes,
    score_predictions,
)
from visiondyno.operations.verified_data import open_verified
from visiondyno.runtimes.base import LoadOptions
from visiondyno.specs.operations import EvaluateInput


def run(spec: EvaluateInput, context: OperationContext) -> dict[str, Any]:
    """The metrics, each with interval and method, per class too.

    Raises:
        DatasetError: the data can't be read.
        ModelError: the model can't be read or run, or is of another task.
        ClassMismatch: the classes don't match.
    """
    dataset = open_verified(
        spec.data, skip_bad=spec.skip_bad, max_images=spec.max_images, context=context
    )
    rules = ScoringRules(spec.classes, spec.resamples, spec.seed)
    options = LoadOptions(device=spec.device, intra_op_threads=spec.threads)
    with context.model(spec.model, options) as model:
        card = model.description.card
        rules = replace(rules, level=level_of(spec.level, dataset, [card]))
        mapping = match_classes(card, spec.model, dataset, rules, takes_classifiers=True)
        images = EncodedImages([dataset.sample(index).path for index in range(len(dataset))])
        total = len(images)
        each = predict_each(
            model,
            images,
            batch_size=model.description.batch_size or 1,
            on_done=lambda done: context.progress("accuracy pass", done=done, total=total),
        )
        predictions = list(each)
        notes = (*dataset.notes, *model.description.notes, *mapping.notes)
    context.progress("scoring")
    mapped = map_predictions(mapping, predictions, card)
    accuracy = score_predictions(dataset, card, mapping, mapped, rules)
    if rules.level is not None:
        notes = (level_note({spec.model: card}, spec.level), *notes)
    notes = (*learned_notes([spec.model], dataset), *notes)
    return {
        "operation": "evaluate",
        "status": "success",
        "level": rules.level,
        "images": len(dataset),
        "skipped": [{"image": str(s.path), "reason": s.reason} for s in dataset.skipped],
        "metrics": {name: m.model_dump(mode="json") for name, m in accuracy.measures.items()},
        "per_class": {
            label: {name: m.model_dump(mode="json") for name, m in measures.items()}
            for label, measures in accuracy.per_class.items()
        },
        "notes": list(notes),
    }
