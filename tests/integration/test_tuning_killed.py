"""A study whose process is killed or interrupted goes on; no trial is lost or repeated."""

import json
import os
import secrets
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from counted_operations import FOLDER_VARIABLE
from emulated_endpoint import until
from faulty_endpoint import MARK_VARIABLE, TESTS, processes_of
from visiondyno.tuning.trial import State, TrialRecord

pytest.importorskip("optuna")
pytestmark = pytest.mark.slow

TRIALS = 24


class Tuning:
    """One study in a folder, run by a process again and again."""

    def __init__(self, folder: Path) -> None:
        self.out = folder / "out"
        self.runs = folder / "runs"
        self.runs.mkdir()
        self.mark = secrets.token_hex(8)
        self._environ = {
            **os.environ,
            "PYTHONPATH": str(TESTS),
            "VISIONDYNO_HOME": str(folder / "home"),
            FOLDER_VARIABLE: str(self.runs),
            MARK_VARIABLE: self.mark,
        }

    def begin(self, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(TESTS / "tuned_process.py"), str(self.out), str(TRIALS)]
        return subprocess.Popen(
            [*command, *options],
            env=self._environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def begin_until(self, completed: int, running: int, *options: str) -> subprocess.Popen[str]:
        """Begun, and come so far."""
        process = self.begin(*options)
        assert process.stdout is not None
        for line in process.stdout:
            told = line.split()
            if told[0].isdecimal() and int(told[0]) >= completed and int(told[1]) >= running:
                return process
        raise AssertionError(process.communicate()[1])

    def until_gone(self) -> None:
        """Wait until no worker of it is left."""
        until(lambda: not processes_of(self.mark))

    def records(self) -> dict[int, TrialRecord]:
        """As the journal has them, whole lines only."""
        lines = (self.out / "study.jsonl").read_bytes().split(b"\n")[:-1]
        told = [json.loads(line) for line in lines]
        found = [TrialRecord.from_json(one["trial"]) for one in told if "trial" in one]
        return {record.number: record for record in found}

    def ran(self) -> Counter[str]:
        """How often each trial's job was begun on a worker."""
        return Counter(json.loads(note.read_text())["name"] for note in self.runs.iterdir())


@pytest.fixture
def tuning(tmp_path: Path) -> Any:
    made = Tuning(tmp_path)
    yield made
    for pid in processes_of(made.mark):
        os.kill(pid, signal.SIGKILL)


def ended(records: dict[int, TrialRecord]) -> dict[int, TrialRecord]:
    return {number: record for number, record in records.items() if record.state.has_ended}


def is_whole_after(tuning: Tuning, before: dict[int, TrialRecord], ran: Counter[str]) -> None:
    """The study has ended with the trials that it had, and nothing that had ended ran again."""
    after = tuning.records()
    assert sorted(after) == list(range(TRIALS))
    assert {record.state for record in after.values()} == {State.COMPLETED}
    now = tuning.ran()
    for number, record in before.items():
        assert after[number].seed == record.seed
        assert record.params.items() <= after[number].params.items(), "what it had asked for"
    for number, record in ended(before).items():
        assert after[number] == record
        assert now[f"trial {number}"] == ran[f"trial {number}"], "it isn't run again"


def test_killed_again_and_again_a_study_loses_no_trial_and_repeats_none(tuning: Tuning) -> None:
    before: dict[int, TrialRecord] = {}
    ran_before = Counter[str]()
    for completed, running, options in ((0, 2, ()), (3, 1, ("--resume",)), (5, 2, ("--resume",))):
        process = tuning.begin_until(completed, running, *options)
        process.kill()
        process.communicate()
        tuning.until_gone()
        records = tuning.records()
        assert len(ended(records)) >= completed
        ran = tuning.ran()
        for number, record in ended(before).items():
            assert records[number] == record
            assert ran[f"trial {number}"] == ran_before[f"trial {number}"]
        before, ran_before = records, ran
    assert len(ended(before)) < TRIALS, "it was killed in its midst"
    process = tuning.begin("--resume")
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert out.splitlines()[-1] == f"ended {TRIALS} {len(ended(before))}"
    is_whole_after(tuning, before, ran_before)
    tuning.until_gone()


def test_an_interrupt_stops_what_runs_and_leaves_a_whole_journal(tuning: Tuning) -> None:
    process = tuning.begin_until(2, 2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT, "which a shell calls 130"
    assert "KeyboardInterrupt" in errors
    tuning.until_gone()
    before, ran = tuning.records(), tuning.ran()
    states = Counter(record.state for record in before.values())
    assert set(states) <= {State.COMPLETED, State.QUEUED}, "nothing is said to run"
    assert states[State.QUEUED] >= 1
    process = tuning.begin("--resume")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    is_whole_after(tuning, before, ran)
