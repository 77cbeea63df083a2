"""The training script as a developer runs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODELS = ["depth-n-b32.onnx", "depth-n-b8.onnx", "depth-n.onnx"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "train_depth.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.mark.torch
@pytest.mark.slow
def test_a_quick_run_learns_and_writes_models_with_their_record(tmp_path):
    pytest.importorskip("torch")
    out = tmp_path / "out"
    done = run("--quick", "--out", str(out), "--cache", str(tmp_path), "--threads", "1")
    assert done.returncode == 0, done.stderr
    record = json.loads((out / "depth-n.training.json").read_text())
    losses = [epoch["loss"] for epoch in record["history"]]
    assert losses[-1] < losses[0]
    assert record["val"]["greatest_difference"] < 1e-4
    assert {name: (out / name).stat().st_size for name in MODELS} == {
        name: found["bytes"] for name, found in record["files"].items()
    }
    assert sorted(path.name for path in out.iterdir()) == [*MODELS, "depth-n.training.json"]
    assert "rendering train scenes: 40 of 40" in done.stdout
    assert "epoch 2 of 2" in done.stdout


@pytest.mark.torch
@pytest.mark.slow
def test_a_quick_run_refuses_to_replace_the_shipped_model():
    pytest.importorskip("torch")
    done = run("--quick")
    assert done.returncode == 2
    assert "--quick needs --out DIR" in done.stderr
