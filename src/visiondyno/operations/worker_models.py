"""The models of one worker process, warm from job to job."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a worker imports the runtimes with the first job that needs them
    from visiondyno.runtimes.base import LoadedModel, LoadOptions
    from visiondyno.runtimes.warm import WarmModels

MOST_BYTES = 4 << 30
SHARE_OF_MEMORY = 16


class WorkerModels:
    """A `ModelSource` whose runtimes are imported when the first model is opened.

    The capacity is a sixteenth of the memory that this process may use, at most 4 GiB, unless it
    is given: a machine has several workers.
    """

    def __init__(self, capacity_bytes: int | None = None) -> None:
        self._capacity_bytes = capacity_bytes
        self._warm: WarmModels | None = None

    @contextmanager
    def open(
        self, reference: str, options: "LoadOptions", announce: Callable[[bool], None]
    ) -> "Iterator[LoadedModel]":
        """See `ModelSource.open`."""
        if self._warm is None:
            from visiondyno.operations.model_source import warm_models

            capacity_bytes = self._capacity_bytes
            self._warm = warm_models(capacity_bytes or default_capacity_bytes())
        with self._warm.open(reference, options, announce) as model:
            yield model

    def close(self) -> None:
        """Close every model; those opened later aren't kept."""
        if self._warm is not None:
            self._warm.close()


def default_capacity_bytes() -> int:
    """The capacity where none is given."""
    from visiondyno.probes.slots import host_memory

    total_bytes = host_memory().total_bytes
    return MOST_BYTES if total_bytes is None else min(MOST_BYTES, total_bytes // SHARE_OF_MEMORY)
