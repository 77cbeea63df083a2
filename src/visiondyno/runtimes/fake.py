"""A runtime without a model file: its answers follow from the pixels alone.

For the tests of the layers above, and for trying out a command without a model. It passes the
same contract suite as the others.
"""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visiondyno.errors import ModelError, Unavailable
from visiondyno.runtimes.base import LoadedModel, LoadOptions, ModelDescription, Runtime
from visiondyno.runtimes.card_model import CardModel
from visiondyno.runtimes.references import FAKE_PREFIX
from visiondyno.specs.model_card import DetectionCard, InputCard, ModelCard
from visiondyno.vision.heads import Output

CLASSES = ("car", "truck", "pedestrian", "sign")
BOXES_AN_IMAGE = 5
_SIDE_PIXELS = 32

_INPUT = InputCard(height=_SIDE_PIXELS, width=_SIDE_PIXELS, resize="stretch", scale=1.0)
_CARDS = {
    "detection": ModelCard(
        task="detection",
        head="end_to_end",
        classes=CLASSES,
        input=_INPUT,
        detection=DetectionCard(nms_iou=None),
    ),
    "classification": ModelCard(
        task="classification",
        head="classification",
        classes=CLASSES,
        input=_INPUT,
        activation="softmax",
    ),
}


class FakeRuntime(Runtime):
    """Loads `fake:detection` and `fake:classification`, optionally with `:SEED`.

    The same image and seed give the same predictions, everywhere; another image or seed gives
    others. A detector answers `BOXES_AN_IMAGE` boxes.
    """

    name = "fake"

    def load(self, reference: str, options: LoadOptions) -> LoadedModel:
        """See `Runtime.load`; the only device is `cpu`."""
        prefix, _, rest = reference.partition(":")
        kind, _, seed = rest.partition(":")
        if prefix != FAKE_PREFIX or kind not in _CARDS or not (seed or "0").isdecimal():
            raise ModelError(
                f"There is no fake model '{reference}'; there are fake:detection[:SEED] and "
                "fake:classification[:SEED]."
            )
        if options.device != "cpu":
            raise Unavailable(f"The fake runtime has no device '{options.device}'; use cpu.")
        card = options.card or _CARDS[kind]
        if card.task != kind:
            raise ModelError(f"{reference} can't do {card.task}; leave its card out.")
        description = ModelDescription(
            reference=reference,
            runtime="fake 1",
            device="cpu",
            precision="fp32",
            provider="fake",
            card=card,
            card_source=dict.fromkeys(
                sorted(card.model_fields_set), "given" if options.card else "metadata"
            ),
            batch_size=None,
            parameters=0,
            file_bytes=0,
            digest=f"sha256:{hashlib.sha256(reference.encode()).hexdigest()}",
            notes=("A fake model: its predictions have no meaning.",),
        )
        return _FakeModel(description, int(seed or 0))


class _FakeModel(CardModel):
    def __init__(self, description: ModelDescription, seed: int) -> None:
        super().__init__(description, ["output"])
        self._seed = seed

    def _run(self, tensor: NDArray[Any]) -> list[Output]:
        return [np.stack([self._answer(image) for image in tensor])]

    def _answer(self, image: NDArray[Any]) -> NDArray[np.float32]:
        content = hashlib.sha256(image.tobytes()).digest()[:8]
        random = np.random.default_rng([self._seed, int.from_bytes(content, "little")])
        card = self.description.card
        classes = len(card.classes)
        if card.task == "classification":
            return random.standard_normal(classes).astype(np.float32)
        size = np.array([card.input.width, card.input.height])
        corners = random.uniform(0, size * 0.6, (BOXES_AN_IMAGE, 2))
        sizes = random.uniform(size * 0.1, size * 0.4, (BOXES_AN_IMAGE, 2))
        scores = random.uniform(0.3, 1.0, (BOXES_AN_IMAGE, 1))
        class_ids = random.integers(0, classes, (BOXES_AN_IMAGE, 1))
        rows = np.concatenate([corners, corners + sizes, scores, class_ids], axis=1)
        return rows.astype(np.float32)

    def _free(self) -> None:
        pass
