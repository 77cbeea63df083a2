"""How far a round is, told while it runs."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """A round so far, over all generator processes.

    Attributes:
        elapsed_s: since the round's start.
        total: requests of the whole round; None: a closed loop by time doesn't know.
        begun: requests taken up.
        good: whole answers with an expected status and body.
        failed: requests that ended otherwise.
        latencies_ms: from the schedule, of the good answers since it was told last; some, if they
            are very many.
    """

    elapsed_s: float
    total: int | None
    begun: int
    good: int
    failed: int
    latencies_ms: tuple[float, ...]
