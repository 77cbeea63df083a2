"""The search for the highest rate that holds a limit: which rate to try next."""

_FLOOR = 64
"""A rate under the first one over this holds only where nearly nothing waits: the search ends."""


class RateBisection:
    """Asks for rates to try and is told whether each held.

    Without a known capacity the rate doubles until one doesn't hold; then the gap between the
    highest rate that held and the lowest that didn't is halved, until it is narrow.

    Args:
        capacity_per_s: no rate above it can hold; None: not known.
        first_per_s: where to begin without a capacity.
        finest: the search ends when that gap is at most this share of the lowest rate that broke.
        most_tries: the search ends after so many.

    Raises:
        ValueError: neither a capacity nor a first rate.
    """

    def __init__(
        self,
        *,
        capacity_per_s: float | None = None,
        first_per_s: float | None = None,
        finest: float = 0.02,
        most_tries: int = 14,
    ) -> None:
        if capacity_per_s is None and first_per_s is None:
            raise ValueError("A search needs the capacity or a rate to begin with.")
        self._held = 0.0
        self._broke = capacity_per_s
        self._first = first_per_s
        self._lowest = (capacity_per_s or first_per_s or 0.0) / _FLOOR
        self._finest = finest
        self._tries_left = most_tries

    @property
    def best_per_s(self) -> float | None:
        """The highest rate that held; None: none did."""
        return self._held or None

    def next_rate(self) -> float | None:
        """The rate to try now, per second; None where the search is over."""
        if self._tries_left <= 0:
            return None
        if self._broke is None:
            return 2 * self._held or self._first
        if self._broke - self._held <= self._finest * self._broke:
            return None
        rate = (self._held + self._broke) / 2
        return None if rate < self._lowest else rate

    def tell(self, rate_per_s: float, *, held: bool) -> None:
        """What came of a try."""
        self._tries_left -= 1
        if held:
            self._held = rate_per_s
        else:
            self._broke = rate_per_s
