"""Weights as a value: immutable, named by its hash, kept as safetensors, loaded into any module."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from visiondyno.errors import ModelError, NotFound, SpecError, VisionDynoError
from visiondyno.state import from_module, from_safetensors, identity, load_into, to_safetensors
from visiondyno.state.writing import size_bytes
from visiondyno.training.program_export import is_module
from visiondyno.whole_file import write_whole

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class TrainedSoFar:
    """What a state's training goes on from, beside its weights.

    Attributes:
        epoch: how many epochs of `train_epoch` led to it.
        optimizer_state: the name under which the worker keeps its optimiser's state.
    """

    epoch: int = 0
    optimizer_state: str | None = None


class ModelState(Mapping[str, Array]):
    """The parameters and buffers of a model by name, as read-only arrays.

    It never changes, so copies of it are itself, and it may be a key. Two states are equal if
    their bytes are.

    Attributes:
        trained: epoch and optimiser that `Trainer.train_epoch` goes on from. It travels with
            copies and pickles, not with files: training goes on from a file with a fresh optimiser.
    """

    __slots__ = ("_holders", "_sha256", "_tensors", "size_bytes", "trained")

    def __init__(self, tensors: Mapping[str, npt.ArrayLike], trained: TrainedSoFar | None = None):
        """Copy the tensors.

        Args:
            tensors: arrays, or tensors of torch, by name.
            trained: see the class.

        Raises:
            ModelError: a name or a dtype has no place in safetensors.
        """
        self._set(_copied(tensors), trained or TrainedSoFar())

    @classmethod
    def of(cls, module: Any) -> Self:
        """The state of a torch module, as it is now.

        Raises:
            ModelError: an entry of its state isn't a dense tensor.
        """
        return cls.adopt(from_module(module))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """The state in a safetensors file, whoever wrote it.

        Raises:
            NotFound: there is no such file.
            ModelError: it isn't safetensors. A pickle, such as a file of `torch.save`, is refused.
        """
        try:
            data = Path(path).read_bytes()
        except FileNotFoundError:
            raise NotFound(f"There is no file {path}; check the path of the model state.") from None
        except OSError as error:
            raise ModelError(
                f"{path} can't be read ({error.strerror}); check the path of the model state."
            ) from error
        try:
            return cls.adopt(from_safetensors(data))
        except VisionDynoError as error:
            raise type(error)(f"{path}: {error}") from error

    @classmethod
    def adopt(
        cls,
        tensors: Mapping[str, Array],
        *,
        sha256: str | None = None,
        trained: TrainedSoFar | None = None,
    ) -> Self:
        """A state of arrays that nobody else writes to, without copying them.

        Args:
            tensors: by name; made read-only.
            sha256: their identity, where it is known.
            trained: see the class.

        Raises:
            ModelError: a name or a dtype has no place in safetensors.
        """
        state = cls.__new__(cls)
        state._set(dict(tensors), trained or TrainedSoFar(), sha256)
        return state

    def _set(
        self, tensors: dict[str, Array], trained: TrainedSoFar, sha256: str | None = None
    ) -> None:
        self.size_bytes = size_bytes(tensors)
        for tensor in tensors.values():
            tensor.flags.writeable = False
        # Of what doesn't own its memory, nobody can make a writeable one again by its flag.
        self._tensors = {name: tensor.view() for name, tensor in tensors.items()}
        self._sha256 = sha256
        self._holders: set[str] = set()
        self.trained = trained

    def load_into(self, module: Any) -> None:
        """Copy the weights into a torch module, wherever it is; all of them or none.

        Raises:
            ModelError: they are of another module; what is missing or different is named.
            SpecError: it isn't a module.
        """
        if not is_module(module):
            raise SpecError(
                f"A model state is loaded into a torch.nn.Module; got {type(module).__name__}."
            )
        load_into(module, self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file; its SHA-256 is `sha256`. An older file there is replaced whole.

        Raises:
            StorageFull: it can't be written.
        """
        write_whole(Path(path), bytes(self), "The model state")

    @property
    def sha256(self) -> str:
        """Its identity: SHA-256 of its safetensors file, 64 hexadecimal digits."""
        if self._sha256 is None:
            self._sha256 = identity(self)
        return self._sha256

    @property
    def worker_holds(self) -> bool:
        """Whether a worker has said that it keeps this state, so that its name is enough there."""
        return bool(self._holders)

    def held_by(self, client: str) -> bool:
        """Whether a worker behind this client keeps it, as far as is known."""
        return client in self._holders

    def note_held(self, client: str, *, held: bool = True) -> None:
        """Remember that a worker behind this client keeps it, or no longer does."""
        (self._holders.add if held else self._holders.discard)(client)

    def __getitem__(self, name: str) -> Array:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __bytes__(self) -> bytes:
        return to_safetensors(self._tensors)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ModelState):
            return NotImplemented
        return self is other or self.sha256 == other.sha256

    def __hash__(self) -> int:
        return hash(self.sha256)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (bytes(self), self.trained)

    def __repr__(self) -> str:
        size = f"{len(self)} tensors, {self.size_bytes:,} bytes"
        return f"<ModelState {self.sha256[:12]}: {size}>"


def _restored(data: bytes, trained: TrainedSoFar) -> ModelState:
    return ModelState.adopt(from_safetensors(data), trained=trained)


def _copied(tensors: Mapping[str, Any]) -> dict[str, Array]:
    of_torch = {name: value for name, value in tensors.items() if hasattr(value, "detach")}
    if of_torch:
        from visiondyno.state.torch_modules import from_tensors

        converted = from_tensors(of_torch)
        tensors = {name: converted.get(name, value) for name, value in tensors.items()}
    return {name: np.array(value) for name, value in tensors.items()}
