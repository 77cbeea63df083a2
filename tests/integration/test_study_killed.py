"""A study whose process is killed in mid-run, and gone on with."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import study_process
from visiondyno.errors import Conflict
from visiondyno.tuning.journal import NAME, Journal
from visiondyno.tuning.trial import TrialRecord, trial_seed

TRIALS, AT_ONCE = 40, 4


@contextmanager
def process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    arguments = [study_process.__file__, str(folder), str(TRIALS), str(AT_ONCE)]
    with subprocess.Popen(
        [sys.executable, *arguments], stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as started:
        try:
            yield started
        finally:
            if started.poll() is None:
                os.killpg(started.pid, signal.SIGKILL)


def ended_lines(folder: Path) -> int:
    path = folder / NAME
    return path.read_text().count('"state":"completed"') if path.exists() else 0


def read(folder: Path) -> dict[int, TrialRecord]:
    """The trials as the journal tells of them last."""
    journal, _, kept = Journal.go_on(folder)
    journal.close()
    return {record.number: record for record in map(TrialRecord.from_json, kept)}


def test_killed_again_and_again_it_loses_no_trial_and_runs_none_that_had_ended_twice(
    tmp_path: Path,
) -> None:
    ended: dict[int, TrialRecord] = {}
    asked: dict[int, TrialRecord] = {}
    runs_of_ended: dict[int, int] = {}
    for kills in range(3):
        with process(tmp_path) as started:
            if kills < 2:
                while ended_lines(tmp_path) < len(ended) + 5:
                    assert started.poll() is None, started.stderr and started.stderr.read()
                    time.sleep(0.005)
                started.send_signal(signal.SIGSTOP)  # so that it doesn't end while others try
                with pytest.raises(Conflict, match="Another process"):
                    Journal.go_on(tmp_path)
                with process(tmp_path) as second:
                    _, said = second.communicate(timeout=60)
                    assert second.returncode == 1
                    assert said.startswith("conflict: Another process")
                started.kill()
            _, said = started.communicate(timeout=120)
            assert started.returncode == (-signal.SIGKILL if kills < 2 else 0), said
        now = read(tmp_path)
        assert {n: now[n] for n in ended} == ended
        assert {n: (now[n].params, now[n].seed) for n in asked} == {
            n: (record.params, record.seed) for n, record in asked.items()
        }
        runs = [int(line) for line in (tmp_path / "runs").read_text().split()]
        assert {n: runs.count(n) for n in runs_of_ended} == runs_of_ended
        ended = {n: record for n, record in now.items() if record.state.has_ended}
        runs_of_ended = {n: runs.count(n) for n in ended}
        asked = now
    assert sorted(ended) == list(range(TRIALS))
    for number, record in ended.items():
        assert record.seed == trial_seed(study_process.SEED, number)
        assert record.values == (study_process.value_of(record),)
        assert record.reports.keys() == {1, 2, 3}
    assert len({record.params["x"] for record in ended.values()}) == TRIALS
