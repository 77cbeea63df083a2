"""A study's progress as lines of JSON, one a change.

Every line is an object with `"schema": "visiondyno.progress/1"` and:

| key | meaning |
| --- | --- |
| `sequence` | 1, 2, 3 … without gaps in one run of the study |
| `at`, `elapsed_s` | seconds since the epoch; since this run began |
| `change` | `trial` (its state changed), `epoch` (it ended one), `told` (anything else that its job said), `study` (it is over) |
| `trial` | for `trial`: `number`, `state`, `params`, `seed`, `values` by objective, `lane`, `attempts`, `duration_s`, `cost`, `failure` (`code`, `message`, `where`, `cause`); for `epoch` and `told` its number alone |
| `said` | for `epoch` and `told`: what the job said |
| `trials` | `total`, `queued`, `running`, `completed`, `pruned`, `failed` |
| `best` | `values` by objective, `trial`, `params`: of one objective the best; of several the best of each by itself, without trial and params; null before any |
| `front` | numbers of the trials that no other one dominates |
| `estimated_time_remaining_s`, `estimated_time_interval_s` | null while not known |
| `requests` | `submissions`, `retries`, `redeliveries`, `submissions_per_minute` |
| `lanes` | of each: `name`, `capacity`, `width`, `running`, `completed`, `failures` by code, `failures_in_a_row`, `breaker` (`state`, `failures`, `reason`, `tried_again_in_s`, or null), `closed` (why, or null) |
| `failures` | failed trials by cause |
| `cost_usd` | `[at least, at most]`, estimated; null where nothing is paid, or it isn't known |
| `nonfinite_trials` | numbers of trials in which a loss or gradient wasn't finite |
| `is_over`, `stopped` | whether the study has ended; why before its last trial, or null |

Numbers that aren't finite are the texts `"NaN"`, `"Infinity"` and `"-Infinity"`, so that every line
is JSON to every reader.
"""  # noqa: E501 - a table

import json
import math
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Self

from visiondyno.errors import StorageFull
from visiondyno.tuning.objectives import Objective
from visiondyno.tuning.progress import AggregatedProgress, Change
from visiondyno.tuning.trial import Json, TrialRecord

SCHEMA = "visiondyno.progress/1"
_HEAD = f'{{"schema":"{SCHEMA}"'.encode()
_BLOCK = 1 << 16


class JsonLines:
    """Writes each progress as a line; a subscriber of a `ProgressBoard`.

    A line goes out in one piece, and at once: who reads along sees whole lines only.

    Args:
        target: a file to append to, or an open stream, which is left open.
        objectives: of the study.

    Raises:
        StorageFull: the file can't be opened.
    """

    def __init__(self, target: Path | IO[str], objectives: Sequence[Objective]) -> None:
        self._names = [objective.name for objective in objectives]
        self._lock = threading.Lock()
        self._own_file: IO[bytes] | None = None
        self._name = str(getattr(target, "name", "the stream"))
        if isinstance(target, Path):
            self._name = str(target)
            try:
                self._own_file = _opened(target)
            except OSError as error:
                raise self._unwritable(error) from error
        else:
            self._stream = target

    def __call__(self, progress: AggregatedProgress) -> None:
        """Write one line.

        Raises:
            StorageFull: it can't be written.
        """
        line = as_line(progress, self._names)
        with self._lock:
            try:
                self._write(line)
            except OSError as error:
                raise self._unwritable(error) from error

    def close(self) -> None:
        """Close the file, if it is its own."""
        if self._own_file is not None:
            self._own_file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, line: str) -> None:
        if self._own_file is None:
            self._stream.write(line)
            self._stream.flush()
            return
        # Unbuffered: a write that was cut short is finished here, before anything else is written.
        rest = line.encode()
        while rest:
            rest = rest[self._own_file.write(rest) :]

    def _unwritable(self, error: OSError) -> StorageFull:
        return StorageFull(
            f"The progress can't be written to {self._name} ({error.strerror}); choose a file on a "
            "disk that has room."
        )


def as_line(progress: AggregatedProgress, names: Sequence[str]) -> str:
    """One line, with its end.

    Args:
        progress: what it tells.
        names: of the objectives.
    """
    found = _finite(as_json(progress, names))
    return json.dumps(found, allow_nan=False, separators=(",", ":"), default=str) + "\n"


def as_json(progress: AggregatedProgress, names: Sequence[str]) -> Json:
    """The same as an object; see the module's own text. Numbers may not be finite."""
    usd = (progress.usd_at_least, progress.usd_at_most)
    return {
        "schema": SCHEMA,
        "sequence": progress.sequence,
        "at": progress.at,
        "elapsed_s": progress.elapsed_s,
        **_change(progress.change, names),
        "trials": {
            "total": progress.total_trials,
            "queued": progress.queued_trials,
            "running": progress.running_trials,
            "completed": progress.completed_trials,
            "pruned": progress.pruned_trials,
            "failed": progress.failed_trials,
        },
        "best": _best(progress, names),
        "front": [record.number for record in progress.front],
        "estimated_time_remaining_s": progress.estimated_time_remaining,
        "estimated_time_interval_s": progress.estimated_time_interval,
        "requests": asdict(progress.requests),
        "lanes": [asdict(lane) for lane in progress.lanes],
        "failures": dict(progress.failures),
        "cost_usd": None if usd[0] is None else usd,
        "nonfinite_trials": progress.nonfinite_trials,
        "is_over": progress.is_over,
        "stopped": progress.stopped,
    }


def _change(change: Change | None, names: Sequence[str]) -> Json:
    if change is None:
        return {"change": None}
    found: Json = {"change": change.kind}
    if change.record is not None:
        found["trial"] = _trial(change.record, names)
    elif change.trial is not None:
        found["trial"] = change.trial
    if change.said is not None:
        found["said"] = change.said
    return found


def _trial(record: TrialRecord, names: Sequence[str]) -> Json:
    last = record.failures[-1] if record.failures else None
    return {
        "number": record.number,
        "state": record.state,
        "params": dict(record.params),
        "seed": record.seed,
        "values": dict(zip(names, record.values, strict=False)),
        "lane": record.lane,
        "attempts": record.attempts,
        "duration_s": record.duration_s,
        "cost": record.cost,
        "failure": None if last is None else {**asdict(last), "cause": last.cause},
    }


def _best(progress: AggregatedProgress, names: Sequence[str]) -> Json | None:
    if not progress.current_best_values:
        return None
    return {
        "values": dict(zip(names, progress.current_best_values, strict=True)),
        "trial": progress.best_trial,
        "params": progress.current_best_params,
    }


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(name): _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value


def _opened(path: Path) -> IO[bytes]:
    """The file to append to, without what a kill tore off its last line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file():
        _mend(path)
    return path.open("ab", buffering=0)


def _mend(path: Path) -> None:
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        tail = b""
        at = size
        while at and b"\n" not in tail:
            at = max(0, at - _BLOCK)
            file.seek(at)
            tail = file.read(size - at)
        torn = tail.rpartition(b"\n")[2]
        if not torn:
            return
        if torn.startswith(_HEAD) or _HEAD.startswith(torn):
            file.truncate(size - len(torn))
        else:  # somebody else's last line: it stays, and ours begin on the next
            file.seek(size)
            file.write(b"\n")
