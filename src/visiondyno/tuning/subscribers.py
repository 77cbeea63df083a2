"""Callbacks that are told everything, each at its own pace."""

import logging
import threading
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, TypeVar

from visiondyno.measurements.percentiles import percentile

Thing = TypeVar("Thing")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CallbackReading:
    """What a callback was told, and what it cost.

    Attributes:
        name: of the callback.
        calls: that have ended.
        pending: things that it hasn't been told yet.
        errors: calls that raised.
        seconds: in all calls together.
        p50_s, p99_s: seconds of a call; None before the first one.
    """

    name: str
    calls: int
    pending: int
    errors: int
    seconds: float
    p50_s: float | None
    p99_s: float | None


class Subscriber(Generic[Thing]):
    """Tells one callback everything it is given: in order, one after another, on its own thread.

    Whoever gives never waits for the callback. What hasn't been told is kept in memory, without
    limit, since nothing may be lost. What the callback raises is logged once, and counted.

    Args:
        callback: takes one thing.
        name: for logs and readings; None: the callback's own.
    """

    def __init__(self, callback: Callable[[Thing], object], name: str | None = None) -> None:
        self._callback = callback
        kind = type(callback).__name__
        self.name = name or getattr(callback, "__qualname__", None) or kind
        self._given: SimpleQueue[Thing | None] = SimpleQueue()
        self._durations_s = array("d")
        self._n_given = 0
        self._errors = 0
        self._thread = threading.Thread(
            target=self._tell_all, name=f"progress of {self.name}", daemon=True
        )
        self._thread.start()

    def give(self, thing: Thing) -> None:
        """Tell it this, after everything before it. For one thread at a time."""
        self._n_given += 1
        self._given.put(thing)

    def reading(self) -> CallbackReading:
        """What it was told and what it cost; from any thread."""
        durations_s = array("d", self._durations_s)
        p50_s = p99_s = None
        if durations_s:
            p50_s, p99_s = percentile(durations_s, 0.5), percentile(durations_s, 0.99)
        return CallbackReading(
            self.name,
            len(durations_s),
            self._n_given - len(durations_s),
            self._errors,
            sum(durations_s),
            p50_s,
            p99_s,
        )

    def close(self, patience_s: float) -> bool:
        """Wait until it has been told everything, or for so long; whether it has."""
        self._given.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join(patience_s)
        return not self._thread.is_alive()

    def _tell_all(self) -> None:
        while (thing := self._given.get()) is not None:
            began_s = time.perf_counter()
            try:
                self._callback(thing)
            except Exception:
                if not self._errors:
                    _log.exception(
                        "The progress callback %s raised; it goes on to be told, and what else it "
                        "raises is counted.",
                        self.name,
                    )
                self._errors += 1
            finally:
                self._durations_s.append(time.perf_counter() - began_s)
