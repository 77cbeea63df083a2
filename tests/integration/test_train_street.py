"""The training script as a developer runs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    script = ROOT / "scripts" / "train_street.py"
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.mark.torch
@pytest.mark.slow
def test_a_quick_run_learns_and_writes_a_model_with_its_record(tmp_path):
    pytest.importorskip("torch")
    out = tmp_path / "out"
    done = run("--quick", "--model", "street-n", "--out", str(out), "--cache", str(tmp_path),
               "--threads", "1")  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads((out / "street-n.training.json").read_text())
    losses = [epoch["loss"] for epoch in record["history"]]
    assert losses[-1] < losses[0]
    assert record["val"]["greatest_difference"] < 1e-4
    assert (out / "street-n.onnx").stat().st_size == record["file_bytes"]
    assert sorted(path.name for path in out.iterdir()) == [
        "street-n.onnx", "street-n.training.json",
    ]  # fmt: skip
    assert "rendering train scenes: 60 of 60" in done.stdout
    assert "epoch 2 of 2" in done.stdout


@pytest.mark.torch
@pytest.mark.slow
def test_a_quick_run_refuses_to_replace_the_shipped_models():
    pytest.importorskip("torch")
    done = run("--quick")
    assert done.returncode == 2
    assert "--quick needs --out DIR" in done.stderr
