"""Modules of the user's own as `model_config`: exported and uploaded once, weights kept apart."""

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from visiondyno.client.client import Client
from visiondyno.client.fingerprint import fingerprint
from visiondyno.client.model_state import ModelState
from visiondyno.errors import SpecError, VisionDynoError
from visiondyno.specs.inline_data import InlineData
from visiondyno.training.program_export import export_program, is_module

__all__ = ["ModulePrograms", "example_of", "is_module"]

Features = npt.NDArray[Any]


@dataclass(frozen=True)
class _Program:
    """A module's program in the blob store.

    Attributes:
        reference: its name there.
        structure: what the module and its sample were like when it was exported; None where that
            can't be seen.
        weights: identity of the weights in it.
    """

    reference: str
    structure: str | None
    weights: str


class ModulePrograms:
    """The programs of a trainer's modules.

    A module is exported again where its code or what its parts hold, its tensors' shapes, what of
    it learns, or the shape of its samples differ from before, or where that can't be seen (see
    `fingerprint`); not where only its weights do.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._of: weakref.WeakKeyDictionary[Any, _Program] = weakref.WeakKeyDictionary()

    def take(self, module: Any, example: Features) -> tuple[dict[str, Any], ModelState | None]:
        """The module's `model_config`, and its weights where they aren't those of its program.

        Args:
            module: a `torch.nn.Module`.
            example: of two samples.

        Raises:
            ModelError: it can't be exported; says why and what else is possible.
            SpecError: client and workers share no store of blobs.
        """
        structure = _structure(module, example)
        known = self._of.get(module)
        state = ModelState.of(module)
        if (
            known is None
            or structure is None
            or known.structure != structure
            or not self._client.has_blob(known.reference)
        ):
            data = _exported(module, example)
            known = _Program(self._client.put_blob(data), structure, state.sha256)
            self._of[module] = known
        config = {"type": "exported", "program": known.reference}
        return config, None if state.sha256 == known.weights else state


def example_of(data: Any, input_shape: Sequence[int] | None) -> Features:
    """Features of two samples, to export a module with: of `data`, or zeros of `input_shape`.

    Args:
        data: as the trainer takes it.
        input_shape: of one sample, without the batch; None takes it from the data.

    Raises:
        SpecError: the data lie elsewhere, so that only `input_shape` can tell.
    """
    if input_shape is not None:
        return np.zeros((2, *input_shape), np.float32)
    found = _first_features(data)
    if found is None:
        raise SpecError(
            "A module of your own is exported with an example, and the data lie elsewhere: give "
            "'input_shape', the shape of one sample without the batch, such as (3, 64, 64)."
        )
    array = np.asarray(found)
    if array.dtype.kind not in "biuf" or array.ndim == 0 or len(array) == 0:
        raise SpecError(
            "A module of your own is exported with an example: the first samples must be numbers, "
            "of one shape."
        )
    # Two of them, whatever there is: torch takes a size of 1 for a special case.
    return np.concatenate([array, array])[:2]


def _first_features(data: Any) -> Any:
    if isinstance(data, InlineData):
        return data.features[:2]
    if isinstance(data, Mapping):
        return None if "features" not in data else _numbers(data["features"][:2])
    if isinstance(data, tuple) and len(data) == 2:
        return _numbers(data[0][:2])
    if isinstance(data, list) or hasattr(data, "dtype"):  # features alone
        return _numbers(data[:2])
    if isinstance(data, str) or not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        return None
    return np.stack([np.asarray(_numbers(data[index][0])) for index in range(min(2, len(data)))])


def _numbers(values: Any) -> Any:
    return values.detach().cpu().numpy() if hasattr(values, "detach") else values


def _exported(module: Any, example: Features) -> bytes:
    """Whole numbers go to a look-up where there is one; else features are float32 on the worker."""
    looks_up = any("Embedding" in type(part).__name__ for part in module.modules())
    if example.dtype.kind in "iu" and looks_up:
        try:
            return export_program(module, example.astype(np.int64))
        except VisionDynoError:  # it may look up something else than its features
            pass
    return export_program(module, example.astype(np.float32))


def _structure(module: Any, example: Features) -> str | None:
    learns = [name for name, weight in module.named_parameters() if weight.requires_grad]
    state = module.state_dict()
    shapes = [(name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in state.items()]
    ties = [name for name, _ in module.named_parameters()]
    constants = {name: value for name, value in module.named_buffers() if name not in state}
    parts = [(name, type(part), _held(part)) for name, part in module.named_modules()]
    sample = (example.shape[1:], example.dtype.kind)
    return fingerprint((repr(module), learns, shapes, ties, constants, parts, sample))


def _held(part: Any) -> dict[str, Any]:
    """What a part holds beside its tensors and parts; modes don't matter to a program."""
    ours = ("training", "_parameters", "_buffers", "_modules")
    return {name: value for name, value in vars(part).items() if name not in ours}
