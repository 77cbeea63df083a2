"""What was asked of an emulated endpoint, and how it was answered."""

from collections import Counter, deque
from dataclasses import asdict, dataclass

from visiondyno.emulator.records import Json

MOST_KEPT = 10_000


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: when it came by the endpoint's clock, to which operation, and its status."""

    at_s: float
    operation: str
    status: int


class RequestLog:
    """Counts every request by operation and status, and keeps the last 10,000."""

    def __init__(self) -> None:
        self._last: deque[Asked] = deque(maxlen=MOST_KEPT)
        self._counts: Counter[tuple[str, int]] = Counter()

    def note(self, at_s: float, operation: str, status: int) -> None:
        """A request was answered."""
        self._last.append(Asked(at_s, operation, status))
        self._counts[operation, status] += 1

    def last(self, operation: str) -> list[Asked]:
        """Those that are kept, in the order of their answers."""
        return [asked for asked in self._last if asked.operation == operation]

    def count(self, operation: str, status: int | None = None) -> int:
        """How many there were, with this status or with any."""
        return sum(
            number
            for (name, answered), number in self._counts.items()
            if name == operation and status in (None, answered)
        )

    def to_json(self) -> Json:
        """As plain values."""
        counts: Json = {}
        for (operation, status), number in sorted(self._counts.items()):
            counts.setdefault(operation, {})[str(status)] = number
        return {"counts": counts, "last": [asdict(asked) for asked in self._last]}
