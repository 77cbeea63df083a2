"""What `dyno tune` says of a study at its end."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visiondyno.errors import Diverged
from visiondyno.report.format import number, plural
from visiondyno.tuning.runner import Limits
from visiondyno.tuning.study import StudyResult
from visiondyno.tuning.trial import State, TrialRecord

Lines = list[tuple[str, str]]

_SAME_CAUSE = Limits(1).same_cause
_MOST_FRONT = 5
_MOST_CAUSES = 4


def summary_lines(result: StudyResult, workers: int, out: Path) -> Lines:
    """The summary as pairs of a name and what it is.

    Args:
        result: of the study.
        workers: trials at once.
        out: its folder.
    """
    lines: Lines = [
        *_best(result),
        *_test(result),
        ("Trials", _counts(result)),
        ("Time", _time(result, workers)),
        ("Cost", _cost(result)),
        *_troubles(result),
    ]
    if result.stopped is not None:
        lines.append(("Stopped", result.stopped))
    lines += [("Page", str(out / "study.html")), ("Results", str(out / "results.json"))]
    return [(name, text) for name, text in lines if text]


def is_in_vain(result: StudyResult) -> bool:
    """Whether no trial completed, or the study was stopped by failures.

    A study that ended with its time or its money has done what it was asked.
    """
    if not any(trial.state is State.COMPLETED for trial in result.trials):
        return True
    if result.stopped is None:
        return False
    if result.lanes and all(lane.closed is not None for lane in result.lanes):
        return True
    told = [t for t in result.trials if t.state.has_ended and not _diverged(t)]
    last = sorted(told, key=_end)[-_SAME_CAUSE:]
    causes = {t.failures[-1].cause for t in last if t.state is State.FAILED and t.failures}
    return len(causes) == 1 and all(trial.state is State.FAILED for trial in last)


def efficiency(result: StudyResult, workers: int) -> float | None:
    """Which part of the workers' time trials ran: their durations over workers times time.

    The time is that from the first trial's beginning to the last one's end in this run; None where
    no trial ended in it.
    """
    here = [t for t in result.trials if t.started_at is not None and _end(t) >= result.began_at]
    spans = [(t.started_at, _end(t)) for t in here if t.started_at is not None]
    if not spans:
        return None
    whole_s = max(end for _, end in spans) - min(start for start, _ in spans)
    return sum(end - start for start, end in spans) / (workers * whole_s) if whole_s > 0 else None


def _best(result: StudyResult) -> Lines:
    if not result.best:
        return [("Best", "none: no trial completed")]
    if len(result.objectives) == 1:
        best = result.best[0]
        return [
            ("Best", f"{_values(result, best)} (trial {best.number})"),
            ("Parameters", _params(best.params)),
        ]
    lines = [("Front", f"{plural(len(result.best), 'trial')} that no other one dominates")]
    for trial in result.best[:_MOST_FRONT]:
        values = _values(result, trial)
        lines.append((f"  trial {trial.number}", f"{values}: {_params(trial.params)}"))
    if len(result.best) > _MOST_FRONT:
        lines.append(("", f"and {len(result.best) - _MOST_FRONT} more"))
    return lines


def _test(result: StudyResult) -> Lines:
    told = result.test
    if told is None:
        return []
    lines = [(_test_name(result, one), _tested(one)) for one in told["trials"]]
    lines += [
        ("Test", f"of trial {one['trial']} failed: {one['message']}") for one in told["failed"]
    ]
    if told["skipped"]:
        lines.append(("Test", told["skipped"]))
    return lines


def _test_name(result: StudyResult, tested: Mapping[str, Any]) -> str:
    return "Test" if len(result.objectives) == 1 else f"Test of {tested['trial']}"


def _tested(tested: Mapping[str, Any]) -> str:
    metrics = tested["metrics"]
    name = "accuracy" if "accuracy" in metrics else next(iter(metrics), None)
    if name is None:
        return "nothing was measured"
    text = f"{name} {number(metrics[name], 4)}"
    if name == "accuracy" and tested["accuracy_interval"] is not None:
        low, high = tested["accuracy_interval"]
        text += f" (95 %: {number(low, 4)} to {number(high, 4)})"
    if tested["samples"] is not None:
        text += f" on {tested['samples']:,} samples that no trial has seen"
    if not tested["is_same"]:
        text += "; trained once more it came out otherwise, see the page"
    return text


def _counts(result: StudyResult) -> str:
    states = Counter(trial.state for trial in result.trials)
    told = [f"{states[state]} {state}" for state in State if states[state]]
    text = f"{plural(len(result.trials), 'trial')}: {', '.join(told)}" if told else "none"
    return f"{text}; {result.taken_up} of them in earlier runs" if result.taken_up else text


def _time(result: StudyResult, workers: int) -> str:
    text = f"{number(result.seconds)} s"
    busy = efficiency(result, workers)
    if busy is None:
        return text
    return f"{text}; {plural(workers, 'worker')} busy for {min(busy, 1.0):.0%} of it"


def _cost(result: StudyResult) -> str:
    if result.cost is None:
        return ""
    least, most = result.cost["usd_at_least"], result.cost["usd_at_most"]
    return f"{least:.4f} to {most:.4f} USD, estimated"


def _troubles(result: StudyResult) -> Lines:
    """Trials that failed, by cause, and lanes that did."""
    failed = [t for t in result.trials if t.state is State.FAILED and t.failures]
    causes = Counter(trial.failures[-1].cause for trial in failed)
    messages = {trial.failures[-1].cause: trial.failures[-1].message for trial in failed}
    lines = [
        ("Failed", f"{plural(count, 'trial')}: {messages[cause]}")
        for cause, count in causes.most_common(_MOST_CAUSES)
    ]
    for lane in result.lanes:
        told = [f"{count} {code}" for code, count in lane.failures.items()]
        if lane.closed is not None:
            told.append(f"closed: {lane.closed}")
        if lane.quarantined:
            told.append(f"left out after failures: {', '.join(lane.quarantined)}")
        if told:
            lines.append(("Lane", f"{lane.name}: {'; '.join(told)}"))
    return lines


def _values(result: StudyResult, trial: TrialRecord) -> str:
    pairs = zip(result.objectives, trial.values, strict=True)
    return ", ".join(f"{one.name} {number(value, 4)}" for one, value in pairs)


def _params(params: Mapping[str, Any]) -> str:
    shown = ((name, number(v) if isinstance(v, float) else v) for name, v in params.items())
    return ", ".join(f"{name}={value}" for name, value in shown)


def _end(trial: TrialRecord) -> float:
    return trial.ended_at or 0.0


def _diverged(trial: TrialRecord) -> bool:
    return bool(trial.failures) and trial.failures[-1].code == Diverged.code
