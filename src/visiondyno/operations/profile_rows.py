"""Executions of operators as the rows of a profile: times, what they did, and their limits."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import mean

from visiondyno.measurements.operator_costs import Cost, cost_of
from visiondyno.measurements.operators import OperatorRun, OperatorTensor
from visiondyno.measurements.roofline import Attained, Roofline, attained
from visiondyno.report.profile_result import KindRow, OperatorRow


def operator_rows(
    operators: Sequence[OperatorRun], runs: int, roofline: Roofline | None
) -> tuple[OperatorRow, ...]:
    """A row for each operator, in the order of their first execution.

    Args:
        operators: of `runs` counted runs.
        runs: how many.
        roofline: of the machine, in the model's precision; None where that wasn't measured.
    """
    seconds: dict[str, list[float]] = defaultdict(lambda: [0.0] * runs)
    first: dict[str, list[OperatorRun]] = defaultdict(list)
    for one in operators:
        seconds[one.name][one.run] += one.seconds
        if not first[one.name] or first[one.name][0].run == one.run:
            first[one.name].append(one)
    kept = middle_half([sum(found[run] for found in seconds.values()) for run in range(runs)])
    times = {name: mean(found[run] for run in kept) for name, found in seconds.items()}
    total_s = sum(times.values()) or 1.0
    return tuple(
        _row(first[name], took_s, took_s / total_s, roofline) for name, took_s in times.items()
    )


def middle_half(totals: Sequence[float]) -> list[int]:
    """Which runs are neither among the fastest quarter nor among the slowest.

    Means over them add up to the mean of their totals, as medians of single operators don't: what
    interrupts a run hits another operator each time.
    """
    order = sorted(range(len(totals)), key=lambda run: totals[run])
    return order[len(order) // 4 : len(order) - len(order) // 4]


def kind_rows(rows: Sequence[OperatorRow]) -> tuple[KindRow, ...]:
    """The types of operators, that which takes longest first."""
    groups: dict[str, list[OperatorRow]] = defaultdict(list)
    for row in rows:
        groups[row.kind].append(row)
    found = [_kind(kind, members) for kind, members in groups.items()]
    return tuple(sorted(found, key=lambda row: -row.ms))


def _kind(kind: str, rows: Sequence[OperatorRow]) -> KindRow:
    counted = [row for row in rows if row.gflop is not None]
    counted_ms = sum(row.ms for row in counted)
    gflop = sum(row.gflop or 0.0 for row in counted) if counted else None
    return KindRow(
        kind=kind,
        count=len(rows),
        ms=sum(row.ms for row in rows),
        share=sum(row.share for row in rows),
        gflop=gflop,
        not_counted=len(rows) - len(counted),
        gflop_per_s=None if gflop is None or not counted_ms else 1e3 * gflop / counted_ms,
    )


def _row(
    calls: Sequence[OperatorRun], took_s: float, share: float, roofline: Roofline | None
) -> OperatorRow:
    costs = [cost_of(one) for one in calls]
    cost = Cost(
        _total([one.flop for one in costs]),
        _total([one.bytes for one in costs]),
        costs[0].is_multiply_add,
    )
    reached: Attained = attained(cost.flop, cost.bytes, took_s, roofline)
    one = calls[0]
    return OperatorRow(
        name=one.name,
        kind=one.kind,
        path=one.path,
        kernel=one.kernel,
        calls=len(calls),
        ms=1e3 * took_s,
        share=share,
        inputs=_words(one.inputs),
        outputs=_words(one.outputs),
        gflop=_scaled(cost.flop, 1e-9),
        is_multiply_add=cost.is_multiply_add,
        megabytes=_scaled(cost.bytes, 1e-6),
        intensity=reached.intensity,
        gflop_per_s=_scaled(reached.flop_per_s, 1e-9),
        gigabytes_per_s=_scaled(reached.bytes_per_s, 1e-9),
        limit=reached.limit,
        limit_share=reached.share,
    )


def _total(found: Sequence[int | None]) -> int | None:
    """None where one is unknown: a part isn't the whole."""
    return None if None in found else sum(one or 0 for one in found)


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _words(tensors: Sequence[OperatorTensor]) -> str:
    return ", ".join(f"{'×'.join(map(str, one.shape)) or '1'} {one.dtype}" for one in tensors)
