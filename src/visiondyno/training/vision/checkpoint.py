"""The checkpoint of a vision training, in the trainer's own folder; and its best weights so far."""

import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from visiondyno.errors import ModelError
from visiondyno.training.memory import is_out_of_memory
from visiondyno.training.session import SessionState
from visiondyno.training.state_file import Piece, from_bytes, to_pieces

if TYPE_CHECKING:
    import torch

FILE = "checkpoint.state"

MAX_SHARE_OF_TIME = 0.05
"""Of the time since the last one, that writing one may take."""

_BEST = "best/"


class FolderCheckpoint:
    """Where a training stands, kept after epochs; what goes wrong with it never fails a training.

    Attributes:
        best: weights of the best epoch so far, on the processor; of the last one where none was
            scored; empty before the first.
        best_score: its score; None where none was scored.
        notes: what went wrong, for the result.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.best: dict[str, torch.Tensor] = {}
        self.best_score: float | None = None
        self.notes: list[str] = []
        self._path = folder / FILE
        self._clock = clock
        self._cost_s = 0.0
        self._ended_s: float | None = None

    def take_up(self) -> SessionState | None:
        """What was kept last, and the best weights with it; None where there is nothing whole."""
        try:
            state = from_bytes(self._path.read_bytes())
            score = state.values["best_score"]
        except FileNotFoundError:
            return None
        except (OSError, ModelError, KeyError) as error:
            self.notes.append(
                f"The checkpoint of this training couldn't be read, so it began anew: {error}"
            )
            return None
        best = {name: tensor for name, tensor in state.tensors.items() if name.startswith(_BEST)}
        self.best = {name.removeprefix(_BEST): tensor for name, tensor in best.items()}
        self.best_score = score
        rest = {name: tensor for name, tensor in state.tensors.items() if name not in best}
        return SessionState(rest, state.values)

    def scored(self, score: float | None, weights: Callable[[], Mapping[str, object]]) -> None:
        """After each epoch: take its weights over as the best, if they are.

        Args:
            score: higher is better; of equals the later one, which has learned more.
            weights: gives them by name; called only where they are the best.
        """
        if not self.best or self.best_score is None:
            is_best = True
        else:
            is_best = score is not None and score >= self.best_score
        if is_best:
            self.best = {name: _own(tensor) for name, tensor in weights().items()}
            self.best_score = score

    def keep(self, state: Callable[[], SessionState], *, is_last: bool) -> None:
        """Write where the training stands, unless that takes too much of the time.

        The first and the last are always kept.

        Args:
            state: makes it; called only where it is written.
            is_last: there is no epoch after this one.
        """
        began_s = self._clock()
        since_s = began_s - (self._ended_s or 0.0)
        is_first = self._ended_s is None
        if not (is_first or is_last) and self._cost_s > MAX_SHARE_OF_TIME * since_s:
            return
        try:
            found = state()
            best = {f"{_BEST}{name}": tensor for name, tensor in self.best.items()}
            values = {**found.values, "best_score": self.best_score}
            _write(self._path, to_pieces(SessionState({**found.tensors, **best}, values)))
        except OSError as error:
            self._tell_failure(f"{self._path.parent}: {error.strerror or error}")
        except ModelError as error:
            self._tell_failure(str(error))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self._tell_failure("the memory is full")
        self._ended_s = self._clock()
        self._cost_s = self._ended_s - began_s

    def _tell_failure(self, reason: str) -> None:
        note = f"A checkpoint couldn't be kept: {reason}"
        if note not in self.notes:
            self.notes.append(note)


def _own(tensor: "object") -> "torch.Tensor":
    import torch

    assert isinstance(tensor, torch.Tensor)
    # A copy: the next step changes the tensor in place.
    return tensor.detach().to("cpu", copy=True)


def _write(path: Path, pieces: Iterable[Piece]) -> None:
    """In pieces: optimiser and weights together may be several times the model."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with partial.open("xb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
