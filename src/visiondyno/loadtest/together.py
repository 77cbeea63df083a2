"""The rounds of one target together."""

from collections.abc import Sequence

from visiondyno.loadtest.redaction import public_url
from visiondyno.loadtest.targets import PreparedTarget
from visiondyno.measurements.measure import Interval, Measure, Measures
from visiondyno.measurements.percentiles import proportion_interval
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
    if len(rounds) > 1:
        each = [one["error_fraction"] for one in rounds]
        merged["error_fraction"] = _counted(merged["error_fraction"], each)
    return {name: _inside(measure) for name, measure in merged.items()}


def errors_together(rounds: Sequence[Measure]) -> tuple[float, Interval]:
    """The error fraction of the requests of all rounds, counted together, and Wilson's interval.

    Args:
        rounds: measures with a value.
    """
    sent = sum(one.n or 0 for one in rounds)
    failed = sum(round((one.value or 0) * (one.n or 0)) for one in rounds)
    return failed / sent, proportion_interval(failed, sent)


def hull(one: Interval | None, other: Interval) -> Interval:
    """The narrowest interval that holds both; unbounded where one of them is."""
    (low, high), (other_low, other_high) = one or other, other
    return (
        None if low is None or other_low is None else min(low, other_low),
        None if high is None or other_high is None else max(high, other_high),
    )


def _counted(merged: Measure, each: Sequence[Measure]) -> Measure:
    """No narrower than so many requests allow: rounds without an error are all alike.

    Student's t of equal values is an interval of no width, whatever few requests they are of.
    """
    if merged.value is None:
        return merged
    return merged.model_copy(
        update={
            "interval": hull(merged.interval, errors_together(each)[1]),
            "method": f"{merged.method}, and no less than Wilson's of all requests",
        }
    )


def _inside(measure: Measure) -> Measure:
    """Its interval cut off where no value can be: Student's t knows nothing of 0 and 1."""
    if measure.interval is None:
        return measure
    low, high = measure.interval
    low = None if low is None else max(0.0, low)
    if measure.unit == "fraction" and high is not None:
        high = min(1.0, high)
    return measure.model_copy(update={"interval": (low, high)})
