"""The card of a model whose own library prepares its images: what a given card may change of it."""

from collections.abc import Collection

from visiondyno.errors import ModelError
from visiondyno.specs.model_card import DetectionCard, ModelCard


def card_in_use(
    own: ModelCard,
    given: ModelCard | None,
    reference: str,
    *,
    source: str = "metadata",
    thresholds: Collection[str] = ("confidence",),
) -> tuple[ModelCard, dict[str, str]]:
    """The card in use, and where each part of it came from.

    A given card may rename classes, set thresholds, and name licence and source. What the library
    decides (task, head, input, activation) it may repeat but not change.

    Args:
        own: what the library says.
        given: what the user says.
        reference: of the model, for messages.
        source: of `own`, in words for the report.
        thresholds: fields of `DetectionCard` that the library lets one set.

    Raises:
        ModelError: the given card asks for what the library doesn't do.
    """
    origins = dict.fromkeys(sorted(_said(own)), source)
    if given is None:
        return own, origins
    for part in ("task", "head", "input", "output", "depth", "activation"):
        if part in given.model_fields_set and getattr(given, part) != getattr(own, part):
            raise ModelError(
                f"The card given for {reference} sets '{part}', which the model's own library "
                f"decides; take it from 'dyno models show {reference}'."
            )
    if len(given.classes) != len(own.classes):
        raise ModelError(
            f"The card given for {reference} names {len(given.classes)} classes, and the model "
            f"has {len(own.classes)}; name each one in order."
        )
    changes = {
        "classes": given.classes,
        "detection": _thresholds(own, given, reference, thresholds),
        "license": given.license or own.license,
        "source": given.source or own.source,
    }
    return own.model_copy(update=changes), origins | dict.fromkeys(_said(given), "given")


def _said(card: ModelCard) -> set[str]:
    return {name for name in card.model_fields_set if getattr(card, name) is not None} - {"schema_"}


def _thresholds(
    own: ModelCard, given: ModelCard, reference: str, allowed: Collection[str]
) -> DetectionCard | None:
    if own.detection is None or given.detection is None:
        return own.detection
    for name, value in given.detection:
        fixed = name not in allowed or value is None
        if name in given.detection.model_fields_set and fixed:
            usual = getattr(own.detection, name)
            if value != usual:
                raise ModelError(
                    f"The card given for {reference} sets 'detection.{name}' to {value}, which its "
                    f"library doesn't let one change; leave it at {usual}."
                )
    said = {name: getattr(given.detection, name) for name in given.detection.model_fields_set}
    return own.detection.model_copy(update=said)
