"""What an operation is given besides its input: a way to tell its progress and to be stopped."""

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from visiondyno.errors import Cancelled, TimeLimitExceeded

if TYPE_CHECKING:  # whoever only runs jobs doesn't pay for the runtimes
    from visiondyno.operations.model_source import ModelSource
    from visiondyno.runtimes.base import LoadedModel, LoadOptions


class OperationContext:
    """The operation's line to its worker.

    Contract: an operation calls `check` (or `progress`) at least once a second, and lets what it
    raises pass through, so that a cancel and a time limit stop it.
    """

    def __init__(
        self,
        on_progress: Callable[[dict[str, Any]], None] = lambda _: None,
        is_cancelled: Callable[[], bool] = lambda: False,
        deadline_s: float | None = None,
        models: "ModelSource | None" = None,
    ) -> None:
        """`deadline_s` is on `time.monotonic`'s clock.

        `models` keeps models warm between jobs; None: each is loaded and closed.
        """
        self._on_progress = on_progress
        self._is_cancelled = is_cancelled
        self._deadline_s = deadline_s
        self._models = models
        self.put_back: Callable[[Any], Any] = lambda value: value
        """What is written elsewhere than into the output goes through this first."""

    def check(self) -> None:
        """Raise if the operation must stop.

        Raises:
            Cancelled: the user stopped the job.
            TimeLimitExceeded: the job's `executionTimeout` has passed.
        """
        if self._is_cancelled():
            raise Cancelled("The job was cancelled.")
        if self._deadline_s is not None and time.monotonic() > self._deadline_s:
            raise TimeLimitExceeded(
                "The job ran past its executionTimeout; raise the policy's limit (--time-limit), "
                "or ask for less."
            )

    def progress(self, stage: str, **facts: Any) -> None:
        """Tell what is being done: `stage` in words, and facts such as `done` and `total`."""
        self.check()
        self._on_progress({"stage": stage, **facts})

    def within(self, **facts: Any) -> "OperationContext":
        """The same line for a part of the operation: its progress carries `facts` too."""
        part = copy.copy(self)
        part._on_progress = lambda progress: self._on_progress(progress | facts)
        return part

    def putting_back(self, put_back: Callable[[Any], Any]) -> "OperationContext":
        """The same line for an operation that was given other names than its user gave.

        Args:
            put_back: from a JSON value to the same with the user's names.
        """
        part = copy.copy(self)
        part._on_progress = lambda progress: self._on_progress(put_back(progress))
        part.put_back = put_back
        return part

    def fetch_weights(self, reference: str) -> None:
        """Download what a model needs and this machine hasn't got yet, with progress.

        Raises:
            ModelError: there is no such model, or what came isn't what was announced.
            Unavailable: the server can't be reached, nothing may be downloaded, or the disk is
                full.
        """
        from visiondyno.operations.downloads import DownloadTicker
        from visiondyno.runtimes.registry import fetch_weights

        fetch_weights(reference, DownloadTicker(self, reference).tell)

    @contextmanager
    def model(self, reference: str, options: "LoadOptions") -> "Iterator[LoadedModel]":
        """A model, ready to run, for as long as the context lasts; don't close it.

        Weights that its name stands for are downloaded first, unless it is `warm`: loaded already
        for an earlier job of this process; progress says which. On a GPU it keeps to the worker's
        share of the memory; where that can't be told, progress says so as `log`.

        Raises:
            ModelError: it can't be found, read, understood or run.
            SpecError: an option is wrong.
            Unavailable: the device isn't here, or its weights can't be downloaded.
        """
        from visiondyno.operations.model_source import ColdModels
        from visiondyno.probes.gpu_share import gpu_share

        share = gpu_share(options.device)
        said: dict[str, Any] = {"model": reference}
        if share is not None:
            options = replace(options, gpu_memory_limit_bytes=share.limit_bytes)
            said |= {"log": share.reason} if share.reason is not None else {}

        def announce(warm: bool) -> None:
            if not warm:
                self.fetch_weights(reference)
            stage = "taking the warm model" if warm else "loading the model"
            self.progress(stage, warm=warm, **said)

        models = self._models if self._models is not None else ColdModels()
        with models.open(reference, options, announce) as model:
            yield model
