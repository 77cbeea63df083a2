"""A study's progress as lines of JSON."""

import io
import json
import math
from pathlib import Path

import pytest
from study_cases import ACCURACY, Clock, epoch_event, trial

from visiondyno.errors import StorageFull
from visiondyno.executors.breaker import BreakerReading, BreakerState
from visiondyno.tuning.json_lines import SCHEMA, JsonLines
from visiondyno.tuning.lanes import LaneReading
from visiondyno.tuning.objectives import parse_objectives
from visiondyno.tuning.progress import AggregatedProgress, ProgressBoard
from visiondyno.tuning.runner import Limits
from visiondyno.tuning.trial import Failure, State

LANE = LaneReading(
    "here", 4, 2, 1, 3, {"child_died": 1}, 1, BreakerReading(BreakerState.OPEN, 3, "503", 4.0), None
)


def told(target: "Path | io.StringIO", board: ProgressBoard | None = None) -> None:
    """One trial that completes, one that fails, and the end."""
    board = board or ProgressBoard(ACCURACY, Limits(3), 2, lanes=lambda: [LANE], now=Clock())
    with JsonLines(target, ACCURACY) as lines:
        board.subscribe(lines)
        board.on_trial(trial(0, State.RUNNING, attempts=1, started_at=1000.0))
        board.on_event(0, epoch_event(1, train_metrics={"loss": math.nan}))
        board.on_trial(
            trial(0, State.COMPLETED, started_at=1000.0, ended_at=1004.0, values=(0.5,), attempts=1)
        )
        board.on_trial(trial(1, State.FAILED, failures=(Failure("x", "At 3.", "here"),)))
        board.finish("Enough.")
        assert [reading.errors for reading in board.close()] == [0]


def strictly(line: str) -> dict[str, object]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    found = json.loads(line, parse_constant=refuse)
    assert isinstance(found, dict)
    return found


def test_every_change_is_a_line_of_strict_json(tmp_path: Path) -> None:
    path = tmp_path / "new" / "progress.jsonl"
    told(path)
    lines = [strictly(line) for line in path.read_text().splitlines()]
    assert [line["sequence"] for line in lines] == [1, 2, 3, 4, 5]
    assert [line["change"] for line in lines] == ["trial", "epoch", "trial", "trial", "study"]
    assert {line["schema"] for line in lines} == {SCHEMA}
    assert lines[1]["said"]["train_metrics"]["loss"] == "NaN"
    assert lines[1]["trial"] == 0
    done = lines[2]
    assert done["trial"]["values"] == {"val_accuracy": 0.5}
    assert done["trial"]["duration_s"] == 4.0
    assert done["best"] == {"values": {"val_accuracy": 0.5}, "trial": 0, "params": {"x": 0}}
    assert done["front"] == [0]
    assert done["lanes"][0]["breaker"]["state"] == "open"
    assert done["nonfinite_trials"] == [0]
    assert done["cost_usd"] is None
    assert lines[3]["trial"]["failure"]["cause"] == "x: At #"
    assert lines[3]["failures"] == {"x: At #": 1}
    assert lines[4]["trials"] == {
        "total": 3, "queued": 0, "running": 0, "completed": 1, "pruned": 0, "failed": 1,
    }  # fmt: skip
    assert (lines[4]["is_over"], lines[4]["stopped"]) == (True, "Enough.")


def test_a_stream_gets_whole_lines_and_stays_open() -> None:
    class Pieces(io.StringIO):
        flushed = 0

        def write(self, text: str) -> int:
            assert text.endswith("\n")
            strictly(text)
            return super().write(text)

        def flush(self) -> None:
            self.flushed += 1

    stream = Pieces()
    told(stream)
    assert stream.getvalue().count("\n") == 5
    assert stream.flushed >= 5
    assert not stream.closed


@pytest.mark.parametrize("kept", [3, 40, 400])
def test_what_a_kill_tore_off_is_cut_before_the_next_line(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "progress.jsonl"
    told(path)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:kept])
    told(path)
    assert path.read_bytes().startswith(whole)
    assert [strictly(line)["sequence"] for line in path.read_text().splitlines()] == [
        1, 2, 3, 4, 5, 1, 2, 3, 4, 5,
    ]  # fmt: skip


def test_somebody_elses_last_line_stays(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text("my notes")
    told(path)
    assert path.read_text().startswith('my notes\n{"schema"')
    (tmp_path / "empty").write_text("")
    told(tmp_path / "empty")
    assert (tmp_path / "empty").read_text().count("\n") == 5


def test_a_full_disk_is_told_and_counted(tmp_path: Path) -> None:
    board = ProgressBoard(ACCURACY, Limits(1), 1, now=Clock())
    caught: list[StorageFull] = []
    lines = JsonLines(Path("/dev/full"), ACCURACY)

    def write(progress: AggregatedProgress) -> None:
        try:
            lines(progress)
        except StorageFull as error:
            caught.append(error)

    board.subscribe(write)
    board.on_trial(trial(0))
    board.close()
    lines.close()
    assert "/dev/full" in caught[0].message
    with pytest.raises(StorageFull, match="can't be written"):
        JsonLines(tmp_path, ACCURACY)


def test_several_objectives_have_no_one_best(tmp_path: Path) -> None:
    two = parse_objectives(["val_accuracy", "latency_ms"])
    board = ProgressBoard(two, Limits(2), 1, now=Clock())
    with JsonLines(tmp_path / "lines", two) as lines:
        board.subscribe(lines)
        board.on_trial(trial(0, State.COMPLETED, values=(0.5, 3.0)))
        board.close()
    best = strictly((tmp_path / "lines").read_text())["best"]
    assert best == {
        "values": {"val_accuracy": 0.5, "latency_ms": 3.0}, "trial": None, "params": None,
    }  # fmt: skip
