"""`--fail-if 'p99>200ms'`: conditions on a load test's measures, for a build that must stop."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from visiondyno.errors import RegressionFound, SpecError
from visiondyno.report.format import MIB, number
from visiondyno.report.load_test import LoadTestResult, TargetResult
from visiondyno.report.load_test_measures import LOAD_MEASURES, measure_value

SHORT = {
    "p50": "latency_p50_ms",
    "p90": "latency_p90_ms",
    "p95": "latency_p95_ms",
    "p99": "latency_p99_ms",
    "p99.9": "latency_p999_ms",
    "max": "latency_max_ms",
    "mean": "latency_mean_ms",
    "errors": "error_fraction",
    "throughput": "throughput_requests_per_s",
    "cpu": "cpu_cores_mean",
    "memory": "peak_memory_bytes",
    "cost": "cost_usd_per_1000_requests",
}
"""What may be written for a measure's name."""
MAY_BE_NAMED = (*SHORT, "cold-start")

_UNITS: dict[str, dict[str, float]] = {
    "ms": {"": 1, "us": 1e-3, "µs": 1e-3, "ms": 1, "s": 1e3},
    "fraction": {"": 1, "%": 0.01},
    "requests/s": {"": 1, "/s": 1},
    "cores": {"": 1},
    "bytes": {"": 1, "KiB": 1024, "MiB": MIB, "GiB": 1024 * MIB, "MB": 1e6, "GB": 1e9},
    "USD/1000 requests": {"": 1},
}
_CONDITION = re.compile(
    r"\s*(?P<name>[A-Za-z_][\w.-]*)\s*(?P<op><=|>=|<|>)\s*"
    r"(?P<number>\d+\.?\d*|\.\d+)\s*(?P<unit>[A-Za-zµ%/]*)\s*"
)


@dataclass(frozen=True, slots=True)
class LoadCondition:
    """`measure OP threshold` fails a target.

    Attributes:
        text: as it was written.
        measure: a name in `LOAD_MEASURES`, or `cold-start`: the slowest one.
        operator: one of < <= > >=.
        threshold: in the measure's own unit.
    """

    text: str
    measure: str
    operator: str
    threshold: float

    def holds(self, value: float) -> bool:
        """Whether `value` fails the target."""
        match self.operator:
            case "<":
                return value < self.threshold
            case "<=":
                return value <= self.threshold
            case ">":
                return value > self.threshold
            case _:
                return value >= self.threshold


def parse_load_conditions(expressions: Sequence[str]) -> tuple[LoadCondition, ...]:
    """Conditions of `--fail-if` texts; each may hold several, separated by commas.

    Raises:
        SpecError: not of the form `MEASURE OP NUMBER[UNIT]`, or no such measure or unit.
    """
    texts = [text for expression in expressions for text in expression.split(",")]
    return tuple(_parse(text) for text in texts)


def raise_if_failed(result: LoadTestResult, conditions: Sequence[LoadCondition]) -> None:
    """Judge every target by every condition.

    A measure that has no value fails its condition: nobody can say that it was kept.

    Raises:
        RegressionFound: one holds; names target, condition and value.
    """
    failures = [
        failure
        for target in result.targets
        for condition in conditions
        if (failure := _failure(target, condition)) is not None
    ]
    if failures:
        raise RegressionFound(f"--fail-if: {'; '.join(failures)}.")


def _parse(text: str) -> LoadCondition:
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise SpecError(
            f"--fail-if '{text.strip()}' isn't of the form MEASURE OP NUMBER[UNIT], such as "
            "'p99>200ms' or 'errors>1%'; OP is one of < <= > >=."
        )
    name = match["name"]
    measure = SHORT.get(name, name)
    if measure not in LOAD_MEASURES and measure != "cold-start":
        near = get_close_matches(name, [*MAY_BE_NAMED, *LOAD_MEASURES], n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(MAY_BE_NAMED)}."
        raise SpecError(f"--fail-if names '{name}', which is no measure of a load test; {hint}")
    unit = "ms" if measure == "cold-start" else LOAD_MEASURES[measure].unit
    factors = _UNITS.get(unit, {"": 1})
    if match["unit"] not in factors:
        known = ", ".join(one for one in factors if one) or "none"
        raise SpecError(
            f"--fail-if '{text.strip()}': {name} isn't given in '{match['unit']}'; units: {known}."
        )
    threshold = float(match["number"]) * factors[match["unit"]]
    return LoadCondition(text.strip(), measure, match["op"], threshold)


def _failure(target: TargetResult, condition: LoadCondition) -> str | None:
    if condition.measure == "cold-start":
        totals = [one.total_ms for one in target.cold_starts]
        if not totals:
            return f"{target.name} has no cold start to judge '{condition.text}' by"
        worst = max(totals, key=lambda total: total if condition.operator[0] == ">" else -total)
        shown = f"{number(worst)} ms"
        return f"{target.name}: {condition.text} ({shown})" if condition.holds(worst) else None
    every = {**target.measures, **target.resources_measures}
    measure = every.get(condition.measure)
    if condition.measure == "cost_usd_per_1000_requests":
        measure = target.cost_usd_per_1000_requests
    if measure is None or measure.value is None:
        reason = (measure.reason if measure is not None else None) or "it wasn't measured"
        return f"{target.name}: '{condition.text}' can't be judged ({reason})"
    if condition.holds(measure.value):
        return f"{target.name}: {condition.text} ({measure_value(measure)})"
    return None
