"""Where a training stands, as a file in the worker's cache: a redelivered job goes on from it."""

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import suppress

from visiondyno import __version__
from visiondyno.errors import ModelError, Unavailable
from visiondyno.operations.training_setup import PreparedModule
from visiondyno.operations.worker_cache import WorkerCache
from visiondyno.specs.training_operations import TrainInput
from visiondyno.training.memory import is_out_of_memory
from visiondyno.training.session import TrainingSession
from visiondyno.training.state_file import from_bytes, to_pieces

KIND = "checkpoints"

MAX_SHARE_OF_TIME = 0.05
"""Of the time since the last one, that writing one may take."""


def checkpoint_key(spec: TrainInput, prepared: PreparedModule, data_digests: list[str]) -> str:
    """SHA-256 of all that decides what a training comes to, on this worker.

    Args:
        spec: of the job; how it wants its answer doesn't count.
        prepared: its module.
        data_digests: of the training data, then of the validation data if there is any.
    """
    parts = {
        "model_config": spec.config.model_dump(mode="json"),
        "model_state": None if prepared.received is None else prepared.received.sha256,
        "hyperparameters": spec.hyperparameters.model_dump(mode="json"),
        "seed": spec.seed_used,
        "data": data_digests,
        "epochs": spec.epochs,
        "early_stopping": spec.early_stopping and spec.early_stopping.model_dump(mode="json"),
        "device": _device_name(prepared),
        "threads": prepared.environment["threads"],
        "torch": prepared.environment["torch"],
        "visiondyno": __version__,
        **({"health": True} if spec.health else {}),
    }
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class Checkpoints:
    """The checkpoint of one training: taken up, kept after epochs, dropped.

    Jobs that would come to the same result share it: each writes it whole and reads it whole, so
    that none disturbs another. What goes wrong with it never fails a training.

    Attributes:
        notes: what went wrong with it, for the answer.
    """

    def __init__(
        self, cache: WorkerCache, key: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.notes: list[str] = []
        self._cache = cache
        self._key = key
        self._clock = clock
        self._kept_epoch = 0
        self._has_failed = False
        self._cost_s = 0.0
        self._ended_s: float | None = None

    def take_up(self, session: TrainingSession) -> int:
        """Let `session` go on from the checkpoint; how many epochs it had, 0 without one."""
        try:
            data = self._cache.read(KIND, self._key)
            if data is None:
                return 0
            session.load_state(from_bytes(data))
        except (Unavailable, ModelError) as error:
            self.notes.append(
                f"The checkpoint of this training couldn't be read, so it began anew: {error}"
            )
            self.drop()
            return 0
        self._kept_epoch = session.epoch
        return session.epoch

    def after_epoch(self, session: TrainingSession) -> None:
        """Keep a checkpoint, unless that takes too much of the time; the first is always kept."""
        if self._ended_s is not None:
            since_s = self._clock() - self._ended_s
            if self._cost_s > MAX_SHARE_OF_TIME * since_s:
                return
        self._keep(session)

    def after_training(self, session: TrainingSession) -> None:
        """Keep the last epoch: encoding the answer may take a while too."""
        if self._kept_epoch != session.epoch:
            self._keep(session)

    def drop(self) -> None:
        """Forget it: the training has its answer."""
        with suppress(Unavailable):  # a full disk: it is evicted some day
            self._cache.drop(KIND, self._key)

    def _keep(self, session: TrainingSession) -> None:
        began_s = self._clock()
        try:
            self._cache.put(KIND, self._key, to_pieces(session.state(copy=False)))
            self._kept_epoch = session.epoch
        except (Unavailable, ModelError) as error:
            self._tell_failure(str(error))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self._tell_failure("the memory is full")
        self._ended_s = self._clock()
        self._cost_s = self._ended_s - began_s

    def _tell_failure(self, reason: str) -> None:
        if not self._has_failed:
            self.notes.append(f"A checkpoint couldn't be kept: {reason}")
        self._has_failed = True


def _device_name(prepared: PreparedModule) -> str:
    import torch

    kind = prepared.device.type
    return str(torch.cuda.get_device_name(prepared.device) if kind == "cuda" else kind)
