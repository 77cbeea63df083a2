"""The highest rate that keeps p99 under a limit, with no request failing."""

from collections.abc import Awaitable, Callable

from visiondyno.loadtest.bottleneck import generator_facts
from visiondyno.loadtest.recording import Outcome, Recording
from visiondyno.measurements.early_stopping import early_stopping_estimate, minimum_queries
from visiondyno.measurements.rate_search import RateBisection
from visiondyno.report.load_test import RateSearch, RateTry
from visiondyno.specs.load_test import ConstantLoad, PoissonLoad

FINEST = 0.05
"""A search ends within 5 %: closer rates differ less than the same rate does from try to try."""

_PERCENTILE = 0.99
GENERATOR = "the generator was the limit: "

_ROOM = 1.15
"""A Poisson schedule of 662 requests on average holds fewer in half of all tries; with 15 % more
it does in fewer than 1 of 10,000 (761 ± 27.6)."""

Steady = ConstantLoad | PoissonLoad
RunAt = Callable[[Steady], Awaitable[Recording | None]]


def load_at(load: Steady, rate_per_s: float, limit_ms: float) -> Steady:
    """That load at a rate, long enough for LoadGen's bound on p99 and for a queue to show.

    At `f` times its capacity a target falls behind by `(f - 1) * duration`. Only if that is over
    the limit from `f = 1 + FINEST` on does a rate that can't be held for long not hold here.
    """
    needed = minimum_queries(_PERCENTILE) * (_ROOM if load.kind == "poisson" else 1.01)
    duration_s = max(load.duration_s, needed / rate_per_s, limit_ms / 1000 / FINEST)
    return load.model_copy(update={"rate_per_s": rate_per_s, "duration_s": duration_s})


async def find_rate(
    load: Steady,
    limit_ms: float,
    run_at: RunAt,
    *,
    processes: int,
    connections: int | None,
    on_try: Callable[[RateTry], None] = lambda _: None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> RateSearch:
    """Search by doubling and bisection; each try is recorded.

    A rate holds where no request failed, LoadGen's early-stopping bound on p99 (at least 662
    requests) is within the limit, and the generator wasn't what held it up. The search begins at
    the load's own rate.

    Args:
        load: kind, first rate and least duration of each try.
        limit_ms: of p99, from the scheduled moment.
        run_at: puts a target under a load; None where it was stopped before anything was sent.
        processes: of the generator.
        connections: its limit; None: none.
        on_try: told of each try at once.
        is_stopped: a try that was cut short by the user isn't recorded, and ends the search.
    """
    search = RateBisection(first_per_s=load.rate_per_s, finest=FINEST)
    tries: list[RateTry] = []
    while (rate := search.next_rate()) is not None and not is_stopped():
        recording = await run_at(load_at(load, rate, limit_ms))
        if recording is None or is_stopped():
            break
        done = judge_try(rate, recording, limit_ms, processes=processes, connections=connections)
        tries.append(done)
        on_try(done)
        search.tell(rate, held=done.held)
    return RateSearch(limit_ms=limit_ms, best_rate_per_s=search.best_per_s, tries=tuple(tries))


def judge_try(
    rate_per_s: float,
    recording: Recording,
    limit_ms: float,
    *,
    processes: int,
    connections: int | None,
) -> RateTry:
    """Whether a rate held, and why not."""
    good = recording.having(Outcome.GOOD)
    failed = len(recording) - int(good.sum())
    bound = early_stopping_estimate(recording.latency_ms[good], _PERCENTILE)
    facts = generator_facts(recording, is_open=True, processes=processes, connections=connections)
    why_not = None
    if failed:
        requests = "1 request" if failed == 1 else f"{failed:,} requests"
        why_not = f"{requests} of {len(recording):,} had no good answer"
    elif bound.value is None:
        why_not = bound.reason
    elif bound.value > limit_ms:
        why_not = f"p99 is up to {bound.value:.4g} ms, over the limit of {limit_ms:g} ms"
    elif facts.was_bottleneck:
        why_not = f"{GENERATOR}{facts.why}"
    return RateTry(
        rate_per_s=rate_per_s,
        p99_ms=bound.value,
        error_fraction=failed / len(recording),
        held=why_not is None,
        why_not=why_not,
    )


def search_notes(search: RateSearch) -> list[str]:
    """What a reader must know of how a search ended."""
    best = search.best_rate_per_s
    if best is None:
        return ["No rate held; the round here is the last one tried"]
    above = [one for one in search.tries if one.rate_per_s > best]
    if not above:
        return ["Every rate that was tried held, so the target holds this one or a higher one"]
    nearest = min(above, key=lambda one: one.rate_per_s)
    if (nearest.why_not or "").startswith(GENERATOR):
        return ["The generator ended the search, so the target may hold a higher rate"]
    return []
