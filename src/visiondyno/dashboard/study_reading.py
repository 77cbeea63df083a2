"""What a study's lines of progress say up to now, read as they are appended.

See `tuning.json_lines` for the lines.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from visiondyno.errors import SpecError
from visiondyno.tuning.json_lines import SCHEMA
from visiondyno.tuning.objectives import Objective, parse_objectives
from visiondyno.tuning.running import RunningTrial

PROGRESS = "progress.jsonl"
_TAIL_BYTES = 1 << 18
_PIECE_BYTES = 1 << 22
_ENDED = frozenset({"completed", "pruned", "failed"})

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class EndedTrial:
    """A trial that has ended.

    Attributes:
        number: of the trial.
        state: `completed`, `pruned` or `failed`.
        values: of the objectives, by name; empty unless completed.
        params: that it tried.
        lane: where it ran last.
        attempts: how often it was given to a lane.
        duration_s: of its last attempt.
        at: when it ended, seconds since the epoch.
        trouble: why it failed, in a sentence; None where it didn't.
    """

    number: int
    state: str
    values: Mapping[str, float]
    params: Mapping[str, Any]
    lane: str | None
    attempts: int
    duration_s: float | None
    at: float
    trouble: str | None


@dataclass(slots=True)
class StudyStanding:
    """How a study stands.

    Attributes:
        last: the last line: counts, best, lanes, and so on.
        running: trials that run, by number.
        ended: trials that have, by number.
    """

    last: Json | None = None
    running: dict[int, RunningTrial] = field(default_factory=dict)
    ended: dict[int, EndedTrial] = field(default_factory=dict)


class StudyReader:
    """Reads a study's lines once each. For one thread at a time.

    Args:
        folder: of the study.
        objectives: names with directions, as its `run.json` has them.
    """

    def __init__(self, folder: Path, objectives: tuple[str, ...]) -> None:
        self._path = folder / PROGRESS
        self._objectives = _parsed(objectives)
        self._inode: int | None = None
        self._offset = 0
        self.standing = StudyStanding()

    def read(self) -> StudyStanding:
        """Take what was appended since; a file that isn't there says nothing."""
        try:
            with self._path.open("rb") as file:
                about = os.fstat(file.fileno())
                if about.st_ino != self._inode or about.st_size < self._offset:
                    self._inode, self._offset = about.st_ino, 0
                    self.standing = StudyStanding()
                file.seek(self._offset)
                while self._take(file.read(_PIECE_BYTES)):
                    file.seek(self._offset)
        except OSError:
            return self.standing
        return self.standing

    def _take(self, piece: bytes) -> bool:
        """Take whole lines; whether there may be more."""
        whole = piece.rpartition(b"\n")[0]
        if not whole:
            return False
        self._offset += len(whole) + 1
        for line in whole.split(b"\n"):
            found = line_of(line)
            if found is not None:
                _take_line(self.standing, found, self._objectives)
        return len(piece) == _PIECE_BYTES


def last_line(folder: Path) -> Json | None:
    """The last line alone; None where there is none."""
    try:
        with (folder / PROGRESS).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read().split(b"\n")
    except OSError:
        return None
    return next((found for found in map(line_of, reversed(lines)) if found is not None), None)


def line_of(text: bytes) -> Json | None:
    """One line; None where it is torn, or isn't one."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        return None
    return found


def _take_line(standing: StudyStanding, line: Json, objectives: tuple[Objective, ...]) -> None:
    if line["sequence"] == 1:  # another run: what ran in the one before doesn't any more
        standing.running.clear()
    standing.last = line
    trial, at = line.get("trial"), line["at"]
    if isinstance(trial, dict):
        _take_trial(standing, trial, at)
    elif isinstance(trial, int) and trial in standing.running and "said" in line:
        standing.running[trial] = standing.running[trial].after(line["said"], at, objectives)
    if line["is_over"]:
        standing.running.clear()


def _take_trial(standing: StudyStanding, trial: Json, at: float) -> None:
    number, state = trial["number"], trial["state"]
    known = standing.running.pop(number, None)
    if state == "running":
        if known is not None and known.attempt == trial["attempts"]:
            standing.running[number] = replace(known, params=trial["params"])
            return
        standing.running[number] = RunningTrial(
            number, trial["params"], trial["lane"], trial["attempts"], at
        )
    elif state in _ENDED:
        failure = trial["failure"] if state == "failed" else None
        standing.ended[number] = EndedTrial(
            number,
            state,
            {name: float(value) for name, value in trial["values"].items()},
            trial["params"],
            trial["lane"],
            trial["attempts"],
            trial["duration_s"],
            at,
            None if failure is None else f"{failure['message']} ({failure['code']})",
        )


def _parsed(texts: tuple[str, ...]) -> tuple[Objective, ...]:
    try:
        return parse_objectives(texts)
    except SpecError:  # a file that somebody changed
        return ()
