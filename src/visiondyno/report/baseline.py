"""A comparison against an earlier one: `--baseline report.json --fail-if "map_50_95<-0.01"`.

A condition is `MEASURE OP NUMBER[%]` on the change, new minus baseline; with `%` on the change
relative to the baseline. It fails a model where it holds.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from visiondyno.errors import RegressionFound, SpecError
from visiondyno.measurements.measure import MEASURES, Interval
from visiondyno.measurements.percentiles import difference_interval
from visiondyno.report.comparison import Comparison, ModelReport
from visiondyno.report.differences import excludes_zero
from visiondyno.report.format import interval_text, number, signed_text, unit_label
from visiondyno.report.origins import ON_ANY_MACHINE

_CONDITION = re.compile(
    r"^\s*(?P<measure>[A-Za-z_][A-Za-z0-9_]*)\s*(?P<op><=|>=|<|>)\s*"
    r"(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(?P<percent>%?)\s*$"
)


@dataclass(frozen=True, slots=True)
class Condition:
    """One `--fail-if`: `change OP threshold` fails a model.

    `threshold` is in the measure's unit, or in percent of the baseline where `relative`.
    """

    measure: str
    operator: str
    threshold: float
    relative: bool

    def holds(self, change: float) -> bool:
        """Whether `change` (in the unit of `threshold`) fails the model."""
        match self.operator:
            case "<":
                return change < self.threshold
            case "<=":
                return change <= self.threshold
            case ">":
                return change > self.threshold
            case _:
                return change >= self.threshold

    def __str__(self) -> str:
        sign = "%" if self.relative else ""
        return f"{self.measure}{self.operator}{self.threshold:g}{sign}"


@dataclass(frozen=True, slots=True)
class Change:
    """How one model's measure moved from the baseline, judged by one condition.

    Attributes:
        value: new minus baseline, in the measure's unit.
        relative_percent: the same over the baseline; None where the baseline is 0.
        interval: 95 % of `value` (MOVER; the two runs share no resamples), None where unknown.
        within_interval: True where the interval holds 0: the change could be chance.
        failed: the condition holds.
    """

    model: str
    condition: Condition
    value: float
    relative_percent: float | None
    interval: Interval | None
    within_interval: bool
    failed: bool

    def sentence(self) -> str:
        """The change for people."""
        name = self.condition.measure
        unit = unit_label(name)
        parts = [f"{self.model}: {name} changed by {signed_text(name, self.value)}"]
        if unit:
            parts.append(f" {unit}")
        if self.relative_percent is not None:
            sign = "+" if self.relative_percent > 0 else ""
            parts.append(f" ({sign}{number(self.relative_percent)} %)")
        if self.interval is None:
            parts.append("; its interval is unknown")
        else:
            meaning = "could be chance" if self.within_interval else "not chance alone"
            parts.append(f", 95 % interval {interval_text(name, self.interval)}: {meaning}")
        return "".join(parts)


@dataclass(frozen=True, slots=True)
class BaselineCheck:
    """What `check_baseline` found.

    Attributes:
        changes: one for each model and condition.
        lost: references the baseline measured and this comparison couldn't, with the reason.
        warnings: what makes the two comparisons less alike, in sentences.
    """

    changes: tuple[Change, ...]
    lost: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]

    def raise_if_regressed(self) -> None:
        """Raise where a condition held or a model was lost.

        Raises:
            RegressionFound: lists every failing model and measure.
        """
        failures = [
            f"{change.sentence()} [fails {change.condition}]"
            for change in self.changes
            if change.failed
        ]
        failures += [f"{model}: no longer measured ({reason})" for model, reason in self.lost]
        if failures:
            count = f"{len(failures)} regression{'s' if len(failures) > 1 else ''}"
            raise RegressionFound(f"{count} against the baseline: " + "; ".join(failures) + ".")


def parse_conditions(expressions: Sequence[str]) -> tuple[Condition, ...]:
    """Conditions from `--fail-if` texts; each may hold several, separated by commas.

    Raises:
        SpecError: not of the form `MEASURE OP NUMBER[%]`, or no such measure.
    """
    texts = [text for expression in expressions for text in expression.split(",")]
    if not texts:
        raise SpecError('--fail-if needs a condition, such as "map_50_95<-0.01".')
    return tuple(_parse_condition(text) for text in texts)


def check_baseline(
    comparison: Comparison, baseline: Comparison, conditions: Sequence[Condition]
) -> BaselineCheck:
    """Judge `comparison` against an earlier one of the same data (and machine, for times).

    Raises:
        SpecError: the two were made on different data or classes; a condition on a time, memory
            or energy spans two machines or settings; no model is in both; or a measure that a
            condition names wasn't measured.
    """
    _require_same_data(comparison, baseline)
    warnings = _machine_warnings(comparison, baseline, conditions)
    new = {model.reference: model for model in comparison.models}
    old = {model.reference: model for model in baseline.models}
    out = {left.reference: left.reason for left in comparison.left_out}
    both = [reference for reference in new if reference in old]
    lost = tuple((reference, out[reference]) for reference in old if reference in out)
    if not both and not lost:
        raise SpecError(
            f"The baseline has none of these models: it has {', '.join(old)}; this comparison "
            f"has {', '.join(new)}. Compare the same model references."
        )
    warnings += [f"{ref} isn't in the baseline: not judged." for ref in new if ref not in old]
    warnings += [
        f"{ref} of the baseline took no part in this comparison: not judged."
        for ref in old
        if ref not in new and ref not in out
    ]
    changes = tuple(
        _change(new[reference], old[reference], condition)
        for reference in both
        for condition in conditions
    )
    return BaselineCheck(changes, lost, tuple(warnings))


def _parse_condition(text: str) -> Condition:
    match = _CONDITION.match(text)
    if match is None:
        raise SpecError(
            f"--fail-if '{text.strip()}' isn't of the form MEASURE OP NUMBER[%], such as "
            '"map_50_95<-0.01" or "latency_p90_ms>10%"; OP is one of < <= > >=.'
        )
    measure = match["measure"]
    if measure not in MEASURES:
        near = get_close_matches(measure, MEASURES, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(MEASURES)}."
        raise SpecError(f"--fail-if names '{measure}', which is no measure; {hint}")
    return Condition(measure, match["op"], float(match["number"]), bool(match["percent"]))


def _require_same_data(new: Comparison, old: Comparison) -> None:
    if new.dataset.digest != old.dataset.digest:
        raise SpecError(
            f"The baseline was measured on other data ({old.dataset.reference}, "
            f"{old.dataset.digest[:19]}…) than this comparison ({new.dataset.reference}, "
            f"{new.dataset.digest[:19]}…): make a new baseline on this data."
        )
    if set(new.dataset.classes) != set(old.dataset.classes) or (
        new.dataset.images != old.dataset.images
    ):
        raise SpecError(
            f"The baseline scored {len(old.dataset.classes)} classes on {old.dataset.images} "
            f"images, this comparison {len(new.dataset.classes)} on {new.dataset.images}: use "
            "the same --classes and --max-images, or make a new baseline."
        )


def _machine_warnings(
    new: Comparison, old: Comparison, conditions: Sequence[Condition]
) -> list[str]:
    apart = []
    if new.environment.machine_id != old.environment.machine_id:
        apart.append(
            f"machine ({old.environment.cpu_model}, then {new.environment.cpu_model} "
            f"or other limits)"
        )
    if new.spec.device != old.spec.device:
        apart.append(f"device ({old.spec.device}, then {new.spec.device})")
    if new.spec.threads != old.spec.threads:
        apart.append(
            f"threads ({old.spec.threads or 'default'}, then {new.spec.threads or 'default'})"
        )
    bound = sorted({c.measure for c in conditions if c.measure not in ON_ANY_MACHINE})
    if apart and bound:
        raise SpecError(
            f"{', '.join(bound)} can't be judged against a baseline of another "
            f"{' and '.join(apart)}: make a new baseline here, or judge accuracy alone."
        )
    warnings = [f"The baseline comes from another {' and '.join(apart)}."] if apart else []
    changed = [
        f"{name} {version} → {new.environment.packages[name]}"
        for name, version in old.environment.packages.items()
        if name in new.environment.packages and new.environment.packages[name] != version
    ]
    if changed:
        warnings.append(f"Packages changed since the baseline: {', '.join(changed)}.")
    for name, comparison in (("baseline", old), ("new comparison", new)):
        if bound and not comparison.verdict.quiet:
            warnings.append(f"The machine was not quiet during the {name}.")
    return warnings


def _change(new: ModelReport, old: ModelReport, condition: Condition) -> Change:
    value, interval = _value(new, condition, "this comparison")
    base, base_interval = _value(old, condition, "the baseline")
    change = value - base
    relative = None if base == 0 else 100 * change / abs(base)
    if condition.relative and relative is None:
        raise SpecError(
            f"--fail-if {condition}: {condition.measure} of {old.reference} is 0 in the baseline, "
            "so no percentage exists; give an absolute threshold."
        )
    judged = relative if condition.relative and relative is not None else change
    bounds = None
    if interval is not None and base_interval is not None:
        bounds = difference_interval(value, interval, base, base_interval)
    return Change(
        model=new.reference,
        condition=condition,
        value=change,
        relative_percent=relative,
        interval=bounds,
        within_interval=bounds is not None and not excludes_zero(bounds),
        failed=condition.holds(judged),
    )


def _value(model: ModelReport, condition: Condition, where: str) -> tuple[float, Interval | None]:
    measure = model.measures.get(condition.measure)
    if measure is None or measure.value is None or not math.isfinite(measure.value):
        reason = f" ({measure.reason})" if measure is not None and measure.reason else ""
        raise SpecError(
            f"--fail-if {condition}: {condition.measure} of {model.reference} was not measured in "
            f"{where}{reason}, so it can't be judged; leave this condition out."
        )
    return measure.value, measure.interval
