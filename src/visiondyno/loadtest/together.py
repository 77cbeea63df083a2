"""The rounds of one target together."""

from collections.abc import Sequence

from visiondyno.loadtest.redaction import public_url
from visiondyno.loadtest.targets import PreparedTarget
from visiondyno.measurements.measure import Measure, Measures
from visiondyno.measurements.repeats import merge_repeats
from visiondyno.report.load_test import ColdStart, RateSearch, RoundResult, TargetResult


def target_result(
    prepared: PreparedTarget,
    rounds: Sequence[RoundResult],
    *,
    told: Measures,
    search: RateSearch | None,
    cold_starts: Sequence[ColdStart],
    notes: tuple[str, ...],
) -> TargetResult:
    """A target's rounds as one result; without rounds it has no measures.

    Args:
        prepared: the target.
        rounds: in order.
        told: what else was told by who watched it.
        search: of the target; None where none was asked for.
        cold_starts: of the target.
        notes: what a reader must know of it.
    """
    costs = [one.cost_usd_per_1000_requests for one in rounds]
    known = [{"cost": cost} for cost in costs if cost is not None]
    return TargetResult(
        name=prepared.name,
        url=public_url(prepared.url),
        rounds=tuple(rounds),
        measures=_together([one.measures for one in rounds]),
        resources_measures={**told, **_resources(rounds)},
        cost_usd_per_1000_requests=merge_repeats(known, "rounds")["cost"] if known else None,
        cold_starts=tuple(cold_starts),
        search=search,
        notes=notes,
    )


def _resources(rounds: Sequence[RoundResult]) -> Measures:
    watched = [
        {"cpu_cores_mean": found.cpu_cores_mean, "peak_memory_bytes": found.peak_memory_bytes}
        for one in rounds
        if (found := one.resources) is not None
    ]
    return merge_repeats(watched, "rounds") if watched else {}


def _together(rounds: Sequence[Measures]) -> Measures:
    if not rounds:
        return {}
    merged = merge_repeats(rounds, "rounds")
    return {name: _inside(measure) for name, measure in merged.items()}


def _inside(measure: Measure) -> Measure:
    """Its interval cut off where no value can be: Student's t knows nothing of 0 and 1."""
    if measure.interval is None:
        return measure
    low, high = measure.interval
    low = None if low is None else max(0.0, low)
    if measure.unit == "fraction" and high is not None:
        high = min(1.0, high)
    return measure.model_copy(update={"interval": (low, high)})
