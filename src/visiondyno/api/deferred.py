"""Bookkeeping that runs when somebody looks, rather than once in every request.

Between two requests of a server whose machine is busy with a model, the processor's caches forget
the server's code: what takes a microsecond in a loop takes ten then. Counting a hundred requests at
once costs about as much as counting one.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

_MOST_KEPT = 256


class Deferred:
    """Calls that are made before the registry is next read, or when there are many.

    To be made before the metrics that they change: a registry is read in the order in which it
    was filled. Without a registry, whoever looks calls `flush` first. Appending is all that a
    request pays; order is kept.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._calls: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        if registry is not None:
            registry.register(_Before(self.flush))

    def later(self, call: Callable[..., None], *arguments: Any) -> None:
        """Make this call in time."""
        self._calls.append((call, arguments))
        if len(self._calls) >= _MOST_KEPT:
            self.flush()

    def flush(self) -> None:
        """Make them now."""
        # One by one: a scrape may come from another thread, and none is to be lost or made twice.
        while self._calls:
            try:
                call, arguments = self._calls.popleft()
            except IndexError:
                return
            call(*arguments)


class _Before(Collector):
    """Has no metric of its own."""

    def __init__(self, flush: Callable[[], None]) -> None:
        self._flush = flush

    def describe(self) -> Iterable[Metric]:
        """None: and the registry doesn't collect at registration."""
        return []

    def collect(self) -> Iterable[Metric]:
        """None."""
        self._flush()
        return []
