"""Where a vision training stands, in a folder of the worker's cache: a redelivered job goes on."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from visiondyno import __version__
from visiondyno.errors import StorageFull, Unavailable
from visiondyno.operations.context import OperationContext
from visiondyno.operations.worker_cache import WorkerCache
from visiondyno.specs.vision_training import TrainVisionInput
from visiondyno.whole_file import write_whole

KIND = "vision-checkpoints"

HISTORY = "history.json"

_ATTEMPTS = 5

# What doesn't change the result, or is in the key as what it comes to.
_NOT_DECIDING = frozenset(
    {"data", "validation_data", "model_state", "model_state_format", "device", "threads"}
)

EpochRecord = dict[str, Any]


def checkpoint_key(
    spec: TrainVisionInput, decided: Mapping[str, Any], data_digests: Sequence[str | None]
) -> str:
    """SHA-256 of all that decides what a training comes to, on this worker.

    Args:
        spec: of the job.
        decided: what its fields came to here: device, threads, initial weights, versions.
        data_digests: of what is learned from, and of what it is scored on.
    """
    parts = {
        "spec": spec.model_dump(mode="json", exclude=set(_NOT_DECIDING)),
        "decided": dict(decided),
        "data": list(data_digests),
        "visiondyno": __version__,
    }
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class CheckpointFolder:
    """The folder of one training, and in it the history; held while the training runs.

    Attributes:
        trainer: the folder for the trainer's own files.
    """

    def __init__(self, cache: WorkerCache, key: str, folder: Path) -> None:
        self.trainer = folder / "trainer"
        self.trainer.mkdir(exist_ok=True)
        self._cache = cache
        self._key = key
        self._history = folder / HISTORY

    def history(self, epochs: int) -> list[EpochRecord]:
        """The records of the first so many epochs, as far as they were kept."""
        try:
            found = json.loads(self._history.read_text(encoding="utf-8"))
            return [dict(record) for record in found if int(record["epoch"]) <= epochs]
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def keep(self, history: Sequence[EpochRecord]) -> None:
        """Before the trainer's checkpoint of the same epoch, which makes it count.

        Raises:
            StorageFull: there is no room.
        """
        write_whole(self._history, json.dumps(history).encode(), "The history of the training")
        self._cache.recount(KIND, self._key)


@contextmanager
def checkpoint_folder(
    cache: WorkerCache, key: str, context: OperationContext
) -> Iterator[CheckpointFolder]:
    """The folder of a training, made if it isn't there, and not evicted meanwhile.

    It is dropped at the end unless an error passes through: then the training goes on from it.

    Raises:
        StorageFull: there is no room for it.
    """
    for _ in range(_ATTEMPTS):
        cache.make(KIND, key, lambda _: None, context.check)
        with cache.hold(KIND, key) as folder:
            if folder is not None:
                yield CheckpointFolder(cache, key, folder)
                break
    else:
        raise StorageFull(
            f"The folder for checkpoints was evicted from {cache.folder} before it could be used, "
            f"{_ATTEMPTS} times. Raise VISIONDYNO_CACHE_BYTES: workers need more than it allows."
        )
    with suppress(Unavailable):  # a full disk: it is evicted some day
        cache.drop(KIND, key)
