"""The runtime of trained models: the library that trained one builds it again."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from visiondyno.errors import MissingExtra, ModelError
from visiondyno.runtimes.base import LoadedModel, LoadOptions, Runtime
from visiondyno.runtimes.pytorch.module import reason
from visiondyno.runtimes.references import resolve_reference
from visiondyno.runtimes.trained_models import read_trained, read_weights
from visiondyno.specs.trained_model import RECORD, WEIGHTS, Family, TrainedModel
from visiondyno.state import to_tensors

if TYPE_CHECKING:
    import torch

    BuildTrained = Callable[
        [TrainedModel, Mapping[str, torch.Tensor], LoadOptions, Path], LoadedModel
    ]

_BUILDERS: dict[Family, str] = {
    "ultralytics": "visiondyno.runtimes.pytorch.ultralytics",
    "torchvision": "visiondyno.runtimes.pytorch.torchvision",
    "timm": "visiondyno.runtimes.pytorch.timm",
    "transformers": "visiondyno.runtimes.pytorch.transformers",
}
"""Modules whose `build_trained(record, state, options, folder)` makes a loaded model of the record
and the weights, which are on the processor; `folder` is for messages."""


class TrainedRuntime(Runtime):
    """Loads the folder that a training left; its weights are verified against its record."""

    name = "trained"

    def load(self, reference: str, options: LoadOptions) -> LoadedModel:
        """See `Runtime.load`.

        Raises:
            ModelError: the folder isn't a trained model, is damaged, or its weights don't fit.
            MissingExtra: torch, or the library that trained it, isn't installed.
        """
        folder = resolve_reference(reference).path
        if folder is None:
            raise ModelError(f"{reference} isn't a trained model; give the folder of a training.")
        record = read_trained(folder)
        try:
            import torch  # noqa: F401 - asked for here: the weights are made its tensors
        except ImportError as error:
            raise MissingExtra("torch", f"The trained model {reference}") from error
        state = to_tensors(read_weights(folder, record))
        model = self._built(record, state, options, folder, reference)
        files = (folder / RECORD, folder / WEIGHTS)
        model.files = files
        model.description = replace(
            model.description,
            reference=reference,
            digest=f"sha256:{record.weights_sha256}",
            file_bytes=files[1].stat().st_size,
            notes=_notes(model.description.notes, record),
        )
        return model

    def _built(
        self,
        record: TrainedModel,
        state: "Mapping[str, torch.Tensor]",
        options: LoadOptions,
        folder: Path,
        reference: str,
    ) -> LoadedModel:
        build: BuildTrained = import_module(_BUILDERS[record.family]).build_trained
        try:
            return build(record, state, options, folder)
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            # `load_state_dict` and the builders of libraries raise these for what doesn't fit.
            raise ModelError(
                f"{reference} can't be built as {record.family}:{record.name} again: "
                f"{reason(error)}. Its record may be of another version of the library; train it "
                "again."
            ) from error


def _notes(said: tuple[str, ...], record: TrainedModel) -> tuple[str, ...]:
    on = record.trained_on
    learned = (
        f"Trained on {on.reference} ({on.images} images); these are the weights of epoch "
        f"{record.best_epoch} of {record.epochs}."
    )
    notes = [learned]
    if record.pruned:
        left, had = record.pruned.parameters_after, record.pruned.parameters_before
        since = "; nothing was trained since" if record.pruned.epochs_after == 0 else ""
        notes.append(f"Pruned: {left:,} of {had:,} parameters were left{since}.")
    if record.license and not any(record.license in note for note in said):
        notes.append(f"Its weights are under {record.license}.")
    return (*said, *notes)
