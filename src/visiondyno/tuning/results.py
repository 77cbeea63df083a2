"""What a study leaves in its folder for people and programs: its results and its page."""

import datetime
import json
import math
import platform
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from visiondyno import __version__
from visiondyno.report.tuning import study_html
from visiondyno.tuning.objectives import Objective
from visiondyno.tuning.study import StudyResult
from visiondyno.tuning.trial import Failure, Json, State, TrialRecord
from visiondyno.whole_file import write_whole

SCHEMA = "visiondyno.study_results/1"
JSON, YAML, PAGE = "results.json", "results.yaml", "study.html"
_ENVIRONMENT = ("device", "threads", "torch", "environment")


def write_results(result: StudyResult, folder: Path) -> Json:
    """Write `results.json`, `results.yaml` and `study.html`, each whole or not at all.

    Args:
        result: of the study, with its test where there was one.
        folder: of the study.

    Returns:
        What `results.json` holds.

    Raises:
        StorageFull: a file can't be written.
    """
    results = study_results(result)
    texts = {
        JSON: json.dumps(results, indent=1, allow_nan=False) + "\n",
        YAML: _HEADER + _as_yaml(results),
        PAGE: study_html(results),
    }
    for name, text in texts.items():
        write_whole(folder / name, text.encode(), "The study's record")
    return results


def study_results(result: StudyResult) -> Json:
    """Everything there is to tell of a study, as plain JSON; see docs/tuning-results.md.

    Numbers that aren't finite are the texts `NaN`, `Infinity` and `-Infinity`.
    """
    names = [objective.name for objective in result.objectives]
    found: Json = {
        "schema": SCHEMA,
        "best": _best(result, names),
        "front": [_of_front(record, names) for record in result.best] if len(names) > 1 else [],
        "test": result.test,
        "objectives": [asdict(objective) for objective in result.objectives],
        "counts": _counts(result),
        "stopped": result.stopped,
        "failures": _failures(result.trials),
        "lanes": [asdict(lane) for lane in result.lanes],
        "importances": result.importances,
        "searched": result.searched,
        "cost": _cost(result),
        "time": _time(result),
        "callbacks": [asdict(reading) for reading in result.callbacks],
        "environments": _environments(result.trials),
        "versions": {
            "visiondyno": __version__,
            "optuna": version("optuna"),
            "python": platform.python_version(),
        },
        "notes": list(result.notes),
        "spec": result.spec.model_dump(mode="json", exclude_defaults=True),
        "trials": [_trial(record, names) for record in result.trials],
    }
    plain: Json = _plain(found)
    return plain


# ---- parts


def _best(result: StudyResult, names: Sequence[str]) -> Json | None:
    """Of one objective the best trial; of several the best of each by itself, of no one trial."""
    if not result.best:
        return None
    if len(names) == 1:
        (record,) = result.best
        return {"value": record.values[0], **_of_front(record, names)}
    return {
        "values": {
            objective.name: _best_value(objective, [one.values[index] for one in result.best])
            for index, objective in enumerate(result.objectives)
        }
    }


def _best_value(objective: Objective, values: Sequence[float]) -> float:
    return min(values) if objective.direction == "minimize" else max(values)


def _of_front(record: TrialRecord, names: Sequence[str]) -> Json:
    return {
        "values": dict(zip(names, record.values, strict=True)),
        "params": dict(record.params),
        "trial": record.number,
        "seed": record.seed,
    }


def _counts(result: StudyResult) -> Json:
    states = Counter(record.state for record in result.trials)
    return {
        "trials": len(result.trials),
        **{state.value: states[state] for state in State},
        "attempts": sum(record.attempts for record in result.trials),
        "failed_attempts": sum(len(record.failures) for record in result.trials),
        "of_earlier_runs": result.taken_up,
    }


def _failures(trials: Sequence[TrialRecord]) -> Json:
    """Failed trials by the cause of the last attempt, and all failed attempts by theirs."""
    last = [
        (record.number, record.failures[-1])
        for record in trials
        if record.state is State.FAILED and record.failures
    ]
    every = [(record.number, failure) for record in trials for failure in record.failures]
    return {"trials": _by_cause(last), "attempts": _by_cause(every)}


def _by_cause(failures: Iterable[tuple[int, Failure]]) -> list[Json]:
    """The most frequent cause first."""
    groups: dict[str, list[tuple[int, Failure]]] = defaultdict(list)
    for number, failure in failures:
        groups[failure.cause].append((number, failure))
    return [
        {
            "cause": cause,
            "code": group[0][1].code,
            "message": group[0][1].message,
            "count": len(group),
            "trials": sorted({number for number, _ in group}),
            "lanes": dict(Counter(failure.where for _, failure in group)),
        }
        for cause, group in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]


def _cost(result: StudyResult) -> Json | None:
    """USD, at least and at most: of each trial's last job, of the study's workers, and of the test.

    Trials that ran on one worker at once are counted once in the study's account, and jobs that
    were lost count there too: so it isn't the sum of the trials'.
    """
    trials = _usd(record.cost for record in result.trials)
    study = None if result.cost is None else _usd([result.cost])
    test = None if result.test is None else result.test["usd"]
    paid = [bounds for bounds in (study or trials, test) if bounds is not None]
    if not paid:
        return None
    return {
        "kind": "estimated",
        "trials_usd": trials,
        "study_usd": study,
        "test_usd": test,
        "total_usd": [math.fsum(bounds[side] for bounds in paid) for side in (0, 1)],
        "study": result.cost,
    }


def _usd(costs: Iterable[Json | None]) -> list[float] | None:
    known = [cost for cost in costs if cost is not None]
    if not known:
        return None
    return [math.fsum(cost[name] for cost in known) for name in ("usd_at_least", "usd_at_most")]


def _time(result: StudyResult) -> Json:
    began = datetime.datetime.fromtimestamp(result.began_at, datetime.UTC)
    test = result.test or {}
    return {
        "began_at": result.began_at,
        "began": began.isoformat(timespec="seconds"),
        "seconds": result.seconds,
        "trials_s": math.fsum(record.duration_s or 0.0 for record in result.trials),
        "test_s": test.get("seconds"),
    }


def _environments(trials: Sequence[TrialRecord]) -> list[Json]:
    """What workers said of themselves, each once, with the trials that it is true of."""
    groups: dict[str, tuple[Json, list[int]]] = {}
    for record in trials:
        said = {name: record.measured[name] for name in _ENVIRONMENT if name in record.measured}
        if said:
            key = json.dumps(said, sort_keys=True, default=str)
            groups.setdefault(key, (said, []))[1].append(record.number)
    return [{**said, "trials": numbers} for said, numbers in groups.values()]


def _trial(record: TrialRecord, names: Sequence[str]) -> Json:
    measured = {name: value for name, value in record.measured.items() if name not in _ENVIRONMENT}
    return {
        "number": record.number,
        "state": record.state.value,
        "values": dict(zip(names, record.values, strict=False)),
        "params": dict(record.params),
        "seed": record.seed,
        "duration_s": record.duration_s,
        "asked_at": record.asked_at,
        "started_at": record.started_at,
        "ended_at": record.ended_at,
        "cost": record.cost,
        "lane": record.lane,
        "worker": record.worker_id,
        "job": record.job_id,
        "delay_ms": record.delay_ms,
        "execution_ms": record.execution_ms,
        "attempts": record.attempts,
        "failures": [{**asdict(failure), "cause": failure.cause} for failure in record.failures],
        "reports": {
            str(step): dict(zip(names, values, strict=False))
            for step, values in sorted(record.reports.items())
        },
        "measured": measured,
    }


# ---- texts


def _plain(value: Any) -> Any:
    """The value as JSON has it: texts, finite numbers, lists and objects with texts as keys."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or type(value) in (bool, int, float):
        return value
    return str(value)  # enumerations too


_HEADER = "# What a study found: the same as results.json. 'spec' repeats it.\n"


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]  # C if there
    """Quotes texts that other readers of YAML take for numbers, and never refers back."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's name for it
        return True


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _as_yaml(results: Json) -> str:
    text: str = yaml.dump(results, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text
