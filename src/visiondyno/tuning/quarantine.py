"""Workers that fail trial after trial while others don't: they get no more."""

from dataclasses import dataclass, field

IN_A_ROW = 3


@dataclass(slots=True)
class _Worker:
    failures_in_a_row: int = 0
    others_succeeded: bool = False


@dataclass(slots=True)
class WorkerWatch:
    """Watches the workers of one lane.

    A trial that can't succeed anywhere fails on every worker; so failures speak against a worker
    only where another one of its lane succeeded since the first of them.

    Attributes:
        quarantined: the names of those that get no more trials.
        in_a_row: so many failures.
    """

    in_a_row: int = IN_A_ROW
    quarantined: set[str] = field(default_factory=set)
    _workers: dict[str, _Worker] = field(default_factory=dict)

    def succeeded(self, name: str) -> None:
        """A trial ended well there."""
        self._workers[name] = _Worker()
        for other, worker in self._workers.items():
            if other != name and worker.failures_in_a_row:
                worker.others_succeeded = True

    def failed(self, name: str) -> bool:
        """A trial failed there; whether the worker is quarantined by this."""
        worker = self._workers.setdefault(name, _Worker())
        worker.failures_in_a_row += 1
        is_due = worker.failures_in_a_row >= self.in_a_row and worker.others_succeeded
        if not is_due or name in self.quarantined:
            return False
        self.quarantined.add(name)
        return True
