"""`dyno tune` as its users run it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("optuna")

from visiondyno.cli import main
from visiondyno.tuning.run_record import StudyRun, known_studies

pytestmark = pytest.mark.torch

ON_SHARED = "training/mnist"
SPACE = """\
parameters:
  learning_rate: {low: 1e-4, high: 1e-1, log: true}
  batch_size: [16, 32]
job:
  model_config:
    type: sequential
    layers:
      - {type: flatten}
      - {type: linear, in_features: 1024, out_features: 10}
  hyperparameters: {learning_rate: "${learning_rate}", batch_size: "${batch_size}"}
"""
SMALL = ("--set", "training_data=digits:train:64", "--set", "validation_data=digits:val:32")
TESTED = (*SMALL, "--set", "test_data=digits:demo:32")
FAST = ("--space", "space.yaml", "--on", "inline", "--epochs", "1", "--set", "channels=1")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder; what a study and its workers keep stays below it."""
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.yaml").write_text(SPACE, encoding="utf-8")
    return tmp_path


def tune(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["tune", *arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def results(out: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(out, "results.json").read_text(encoding="utf-8"))
    return found


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_study_leaves_results_progress_a_page_and_the_best_weights(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    assert tune(*TESTED, *FAST, "--trials", "3", "--pruner", "none", "--out", "out") == 0
    said = capsys.readouterr()
    found = results("out")
    best = found["best"]
    assert f"val_accuracy {best['value']:.4g}"[:20] in said.out
    assert f"(trial {best['trial']})" in said.out
    assert "on 32 samples that no trial has seen" in said.out
    assert "3 trials: 3 completed" in said.out
    assert "1 worker busy for" in said.out
    assert said.err.count("completed") == 3
    kept = {path.name for path in Path("out").iterdir()}
    assert {"study.jsonl", "progress.jsonl", "run.json", "results.json", "results.yaml"} <= kept
    assert {"study.html", "best.safetensors"} <= kept
    lines = lines_of(Path("out", "progress.jsonl").read_text(encoding="utf-8"))
    assert [line["sequence"] for line in lines] == list(range(1, len(lines) + 1))
    assert lines[-1]["is_over"]
    run = StudyRun.read(Path("out"))
    assert run is not None
    assert run.ended_at is not None
    (study,) = known_studies(folder / "home")
    assert (study.folder, study.is_running) == (folder / "out", False)


def test_json_is_what_the_file_holds_and_progress_comes_as_lines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert tune(*SMALL, *FAST, "--trials", "1", "--json", "--no-test", "--out", "a") == 0
    assert json.loads(capsys.readouterr().out) == results("a")
    progress = ("--progress", "json", "--no-test")
    assert tune(*SMALL, *FAST, "--trials", "1", *progress, "--out", "b") == 0
    said = capsys.readouterr()
    lines = lines_of(said.out)
    assert lines == lines_of(Path("b", "progress.jsonl").read_text(encoding="utf-8"))
    assert "Best" in said.err


def test_a_live_view_is_drawn_where_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    shown = ("--progress", "live", "--no-test")
    assert tune(*SMALL, *FAST, "--trials", "1", *shown, "--out", "out") == 0
    drawn = capsys.readouterr().err
    assert "\x1b[" in drawn
    assert "1/1" in drawn


def test_resume_takes_everything_else_from_the_study(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--seed", "5", "--objective", "val_loss", "--sampler", "random", "--no-test")
    assert tune(*SMALL, *FAST, *asked, "--trials", "2", "--out", "out") == 0
    first = results("out")
    assert tune("--resume", "--out", "out", "--trials", "4", "--no-test") == 0
    assert "4 trials" in capsys.readouterr().out
    second = results("out")
    assert second["trials"][:2] == first["trials"]
    assert len(second["trials"]) == 4
    run = StudyRun.read(Path("out"))
    assert run is not None
    assert (run.where, run.workers, run.objectives) == ("inline", 1, ("val_loss:minimize",))


def test_a_limit_of_time_is_no_failure_but_a_study_without_a_trial_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    hopeless = ("--timeout", "0.001s", "--out", "out", "--no-test")
    assert tune(*SMALL, *FAST, "--trials", "2", *hopeless) == 1
    said = capsys.readouterr().out
    assert "none: no trial completed" in said
    assert "time limit" in said
    assert tune("--resume", "--timeout", "10m", "--out", "out", "--no-test") == 0


def test_failures_of_the_same_cause_stop_the_study_with_that_cause(
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = ("--objective", "val_r2", "--no-test")  # of regressions, not of classifiers
    assert tune(*SMALL, *FAST, *other, "--out", "out") == 1
    said = capsys.readouterr().out
    assert "3 trials in a row failed by the same cause" in said
    assert "val_r2" in said
    assert results("out")["best"] is None


def _wrong(name: str, *arguments: str, told: str) -> Any:
    return pytest.param(arguments, told, id=name)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        _wrong("nothing", told="Which data?"),
        _wrong("unknown-data", "--data", "no-such-data", told="no-such-data"),
        _wrong("unknown-sampler", "--data", "digits", "--sampler", "guess", told="TPESampler"),
        _wrong("unknown-pruner", "--data", "digits", "--pruner", "guess", told="asha"),
        _wrong("no-direction", "--data", "digits", "--objective", "beauty", told="beauty:minimize"),
        _wrong("twice", "--data", "digits", "--objective", "val_loss,val_loss", told="twice"),
        _wrong("no-objective", "--data", "digits", "--objective", ",", told="val_accuracy"),
        _wrong(
            "not-of-trainings", "--data", "digits", "--objective", "accuracy",
            told="Did you mean 'val_accuracy'?",
        ),
        _wrong("no-workers", "--data", "digits", "--workers", "0", told="from 1 to"),
        _wrong(
            "inline", "--data", "digits", "--on", "inline", "--workers", "4", told="one trial at"
        ),
        _wrong("no-place", "--data", "digits", "--on", "moon", told="moon"),
        _wrong("no-endpoint", "--data", "digits", "--on", "runpod", told="--endpoint"),
        _wrong(
            "same-endpoint", "--data", "digits", "--on", "runpod", "--endpoint", "a1b2,a1b2",
            told="twice",
        ),
        _wrong("max-cost-here", "--data", "digits", "--max-cost", "2", told="--max-cost"),
        _wrong("fallback-here", "--data", "digits", "--fallback", "inline", told="--fallback"),
        _wrong("no-trials", "--data", "digits", "--trials", "0", told="trials"),
        _wrong("no-epochs", "--data", "digits", "--epochs", "0", told="epochs"),
        _wrong("no-space", "--data", "digits", "--space", "none.yaml", told="none.yaml"),
        _wrong("torn-space", "--data", "digits", "--space", "torn.yaml", told="at line 3"),
        _wrong("odd-space", "--data", "digits", "--space", "odd.yaml", told="did you mean"),
        _wrong(
            "two-spaces", "--data", "digits", "--space", "space.yaml", "--mode", "simple",
            told="leave one out",
        ),
        _wrong("no-equals", "--data", "digits", "--set", "epochs", told="FIELD=VALUE"),
        _wrong("no-field", "--data", "digits", "--set", "epoch=3", told="epoch"),
        _wrong(
            "no-fields-below", "--data", "digits", "--epochs", "3", "--set", "epochs.a=3",
            told="holds no fields",
        ),
        _wrong("no-time", "--data", "digits", "--timeout", "soon", told="30m"),
        _wrong("no-time-at-all", "--data", "digits", "--trial-timeout", "0s", told="longer"),
        _wrong("used-folder", "--data", "digits", "--out", "used", told="notes.txt"),
        _wrong("a-file", "--data", "digits", "--out", "space.yaml", told="space.yaml"),
        _wrong("nothing-to-resume", "--resume", told="holds no study"),
        _wrong(
            "two-jsons", "--data", "digits", "--json", "--progress", "json", told="standard output"
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_told_in_a_sentence_and_leaves_nothing(
    arguments: tuple[str, ...], told: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "used").mkdir()
    (folder / "used" / "notes.txt").write_text("mine")
    (folder / "torn.yaml").write_text("parameters:\n  width: {low: 8, high\n")
    (folder / "odd.yaml").write_text("parameters:\n  learningrate: {low: 0.1, high: 0.2}\n")
    assert tune(*arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    message = said.err[said.err.index("Error: ") :]
    assert told in message
    assert "Traceback" not in message
    assert "defect" not in message
    assert not (folder / "dyno-tuning").exists()
    assert [path.name for path in (folder / "used").iterdir()] == ["notes.txt"]


def test_a_test_that_is_stopped_leaves_the_results_and_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("visiondyno.tuning.tested._tested", interrupted)
        assert tune(*TESTED, *FAST, "--trials", "1", "--out", "out") == 130
    assert results("out")["test"] is None
    assert "dyno tune --resume --out out" in capsys.readouterr().err
    assert tune("--resume", "--out", "out") == 0
    assert results("out")["test"]["trials"][0]["samples"] == 32


def test_a_second_study_in_the_same_folder_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert tune(*SMALL, *FAST, "--trials", "1", "--no-test") == 0
    before = Path("dyno-tuning", "study.jsonl").read_bytes()
    assert tune(*SMALL, *FAST, "--trials", "1", "--no-test") == 2
    assert "--resume" in capsys.readouterr().err
    assert Path("dyno-tuning", "study.jsonl").read_bytes() == before
    assert tune("--resume", "--seed", "3") == 2
    assert "begun with seed" in capsys.readouterr().err


def test_a_study_that_was_torn_before_it_began_is_begun() -> None:
    Path("dyno-tuning").mkdir()
    Path("dyno-tuning", "study.jsonl").write_text('{"kind":"study"')
    assert tune(*SMALL, *FAST, "--trials", "1", "--no-test") == 0


def test_without_optuna_it_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert tune("--data", "digits") == 2
    assert "visiondyno[tune]" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["int", "term"]
)
def test_an_interrupt_keeps_what_is_known_and_says_how_to_go_on(
    number: int, code: int, folder: Path
) -> None:
    many = ("--trials", "500", "--epochs", "3", "--no-test", "--out", "out")
    arguments = ["tune", *SMALL, "--space", "space.yaml", "--set", "channels=1", *many]
    call = [sys.executable, "-c", f"from visiondyno.cli import main; main({arguments!r})"]
    lines = folder / "out" / "progress.jsonl"
    with subprocess.Popen(call, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as it:
        try:
            while not (lines.is_file() and '"state":"completed"' in lines.read_text()):
                assert it.poll() is None, it.communicate()
                time.sleep(0.05)
            os.kill(it.pid, number)
            _, said = it.communicate(timeout=60)
        finally:
            it.kill()
    assert it.returncode == code
    assert "dyno tune --resume --out out" in said
    assert "Traceback" not in said
    found = results("out")
    ended = [one for one in found["trials"] if one["state"] not in ("queued", "running")]
    assert ended
    assert f"{len(ended)} of 500 trials" in said
    run = StudyRun.read(Path("out"))
    assert run is not None
    assert run.stopped == "It was interrupted."
    assert tune("--resume", "--out", "out", "--trials", str(len(ended) + 1), "--no-test") == 0
    again = results("out")
    assert again["trials"][: len(ended)] or again
    done = {one["number"]: one for one in again["trials"]}
    assert all(done[one["number"]] == one for one in ended)


@pytest.mark.slow
def test_real_digits_are_learned_as_well_by_one_worker_as_by_four(shared_testdata: Path) -> None:
    data = ("--data", str(shared_testdata / ON_SHARED), "--epochs", "3")
    # A space in which trials are short, and none is a bad one: the test is of the study.
    Path("short.yaml").write_text(
        "parameters:\n"
        "  width: {low: 12, high: 20}\n"
        "  learning_rate: {low: 4e-3, high: 2e-2, log: true}\n"
        "  batch_size: [64]\n"
        "  blocks: [2]\n"
    )
    accuracies = []
    for workers in (1, 4):
        out = f"study{workers}"
        asked = ("--space", "short.yaml", "--workers", str(workers), "--trials", "3", "--out", out)
        assert tune(*data, *asked) == 0
        (tested,) = results(out)["test"]["trials"]
        assert tested["is_same"]
        accuracies.append(tested["metrics"]["accuracy"])
    assert min(accuracies) >= 0.97
    assert abs(accuracies[0] - accuracies[1]) < 0.02
