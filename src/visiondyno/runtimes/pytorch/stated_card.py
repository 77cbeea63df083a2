"""The card of a model whose shapes nobody can look up: somebody must have written it."""

from visiondyno.errors import ModelError
from visiondyno.runtimes.known_shapes import conventional_detection
from visiondyno.runtimes.model_cards import ResolvedCard
from visiondyno.runtimes.partial_card import all_parts, merge
from visiondyno.specs.model_card import DepthCard, ModelCard
from visiondyno.vision.heads import HEADS, overlaid
from visiondyno.vision.preprocess import Preprocessor


def complete_card(card: ModelCard, origin: str, reference: str) -> ResolvedCard:
    """A written card, with its head's conventions where it says nothing.

    Whether the model's outputs are its head's is found out when they are read.

    Args:
        card: as written.
        origin: where, in words for the report.
        reference: for messages.

    Raises:
        ModelError: the card can't be used.
    """
    head = HEADS.get(card.head)
    if head is None:
        raise ModelError(
            f"{reference}: its card says head '{card.head}', which only models of a library have; "
            f"there are {', '.join(HEADS)}."
        )
    if head.task != card.task:
        raise ModelError(
            f"{reference}: its card says task '{card.task}', but head '{card.head}' is for "
            f"{head.task}; correct the model card."
        )
    if not card.classes and card.task != "depth":
        raise ModelError(f"{reference}: its card names no classes; add them to the model card.")
    parts, origins = merge([all_parts(card, origin)])
    output = overlaid(card.output, head.defaults)
    if card.output is not None:
        parts["output"] = output
    if card.task == "detection" and "detection" not in parts:
        parts["detection"] = conventional_detection(card.head, output)
        origins["detection"] = "assumed"
    if card.task == "depth" and "depth" not in parts:
        parts["depth"] = DepthCard()
        origins["depth"] = "assumed"
    notes: tuple[str, ...] = ()
    if card.task == "classification" and "activation" not in parts:
        notes = ("The card says no 'activation': the output is taken for probabilities as it is.",)
    completed = ModelCard(**parts)
    try:
        Preprocessor(completed.input)
    except ModelError as error:
        raise ModelError(f"{reference}: {error}") from error
    return ResolvedCard(completed, origins, notes)
