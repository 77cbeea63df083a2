"""The examples run as they stand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from visiondyno.report.yaml_spec import load_spec

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SMALL, LARGE = "visiondyno:street-n", "visiondyno:street-s"

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run with this environment's `dyno` first on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


def test_choose_a_model_names_one_of_them(tmp_path: Path) -> None:
    script = EXAMPLES / "choose_a_model.py"
    done = run(sys.executable, script, "street:demo:40", SMALL, LARGE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(": ")[0] for line in lines] == [SMALL, LARGE, "Choice"]
    assert lines[-1].removeprefix("Choice: ") in {SMALL, LARGE}


def test_choose_a_model_explains_bad_input(tmp_path: Path) -> None:
    script = EXAMPLES / "choose_a_model.py"
    done = run(sys.executable, script, "no_such_folder", SMALL, cwd=tmp_path)
    assert done.returncode == 2
    assert "no_such_folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_comparison_file_is_a_valid_spec() -> None:
    spec = load_spec(EXAMPLES / "comparison.yaml")
    assert spec.models == (SMALL, LARGE)
    assert spec.classes == ("car", "truck")


def test_the_gate_passes_the_same_model_and_stops_a_worse_one(tmp_path: Path) -> None:
    compare = ("dyno", "compare", SMALL, "--data", "street:demo:40", "--duration", "0.5")
    made = run(*compare, "--out", "baseline", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    baseline = tmp_path / "baseline" / "report.json"
    same = run(EXAMPLES / "gate.sh", baseline, SMALL, "street:demo:40", cwd=tmp_path)
    assert same.returncode == 0, same.stderr

    record = json.loads(baseline.read_text(encoding="utf-8"))
    record["models"][0]["measures"]["map_50_95"]["value"] += 0.05  # as if it had been better
    baseline.write_text(json.dumps(record), encoding="utf-8")
    worse = run(EXAMPLES / "gate.sh", baseline, SMALL, "street:demo:40", cwd=tmp_path)
    assert worse.returncode == 3
    assert "map_50_95" in worse.stderr


@pytest.mark.torch
def test_the_search_prints_its_best_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path / "home"))
    done = run(sys.executable, EXAMPLES / "optuna_objective.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    *trials, best = done.stdout.splitlines()
    assert [line.split(":")[0] for line in trials] == ["0", "1", "2", "3", "4", "5"]
    assert best.startswith("Best: trial ")
    wrong = run(sys.executable, EXAMPLES / "optuna_objective.py", "mars", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "'mars' isn't a place to run jobs" in wrong.stderr
    assert "Traceback" not in wrong.stderr


@pytest.mark.torch
def test_the_training_file_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path / "home"))
    done = run("dyno", "train", EXAMPLES / "train.yaml", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["history"][-1]["val_metrics"]["accuracy"] > 0.8
    assert Path(told["files"]["state"]).is_file()


@pytest.mark.torch
def test_the_notebook_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("IPython")
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = json.loads((EXAMPLES / "train_notebook.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    script = tmp_path / "cells.py"
    script.write_text(
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance()\n"
        f"for cell in {cells!r}:\n"
        "    shell.run_cell(cell).raise_error()\n",
        encoding="utf-8",
    )
    done = run(sys.executable, script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "epoch 3/3" in done.stdout
    assert "'accuracy'" in done.stdout
