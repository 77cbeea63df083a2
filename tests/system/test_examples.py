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
