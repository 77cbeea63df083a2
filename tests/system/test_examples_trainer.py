"""The examples that train run as they stand."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from visiondyno.client.model_state import ModelState

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

pytestmark = [pytest.mark.slow, pytest.mark.torch]


def run(script: str, *arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    pytest.importorskip("torch")
    return subprocess.run(
        [sys.executable, str(EXAMPLES / script), *arguments],
        cwd=cwd,
        # One thread: they would only wait for each other beside other tests.
        env={**os.environ, "VISIONDYNO_HOME": str(cwd / "home"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


def test_a_module_trained_elsewhere_answers_here(tmp_path: Path) -> None:
    done = run("train_remote.py", "local", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    *epochs, here = done.stdout.splitlines()
    assert [line.split(":")[0] for line in epochs] == [f"epoch {number}" for number in range(1, 6)]
    accuracy = epochs[-1].rpartition(" ")[2]
    assert here == f"right here: {accuracy} of 500 points"
    assert float(accuracy) > 0.95
    assert len(ModelState.load(tmp_path / "rings.safetensors")) == 6


def test_the_best_architecture_is_named_and_its_weights_kept(tmp_path: Path) -> None:
    done = run("architectures.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    *scores, best = done.stdout.splitlines()
    accuracies = {line.split(":")[0]: float(line.split()[2].rstrip(",")) for line in scores}
    assert set(accuracies) == {"mlp-32", "mlp-128", "cnn-8"}
    name = best.removeprefix("Best: ")
    assert accuracies[name] == max(accuracies.values()) > 0.8
    assert ModelState.load(tmp_path / f"{name}.safetensors")


@pytest.mark.parametrize("script", ["train_remote.py", "architectures.py"])
def test_a_wrong_place_is_one_sentence(tmp_path: Path, script: str) -> None:
    done = run(script, "nowhere", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("'nowhere' isn't a place to run jobs")
    assert len(done.stderr.splitlines()) == 1
