"""`visiondyno.tune` leaves what `dyno tune` leaves."""

import json
from pathlib import Path

import pytest

import visiondyno

pytest.importorskip("torch")
pytestmark = pytest.mark.torch

SPACE = {"parameters": {"learning_rate": {"low": 0.001, "high": 0.1, "log": True}}}


def test_a_study_from_python_is_tested_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path / "home"))
    layers = [{"type": "flatten"}, {"type": "linear", "in_features": 1024, "out_features": 10}]
    space = {
        **SPACE,
        "job": {
            "model_config": {"type": "sequential", "layers": layers},
            "hyperparameters": {"learning_rate": "${learning_rate}"},
        },
    }
    out = tmp_path / "study"
    result = visiondyno.tune(
        space, data="digits:train:200", trials=3, epochs=1, on="inline", workers=1, out=out
    )
    assert [trial.state for trial in result.trials] == ["completed"] * 3
    assert result.test is not None
    (tested,) = result.test["trials"]
    assert tested["trial"] == result.best[0].number
    written = json.loads((out / "results.json").read_text())
    assert written["best"]["value"] == result.best[0].values[0]
    assert written["test"]["trials"][0]["trial"] == tested["trial"]
    assert {path.name for path in out.iterdir()} >= {
        "study.jsonl", "results.json", "results.yaml", "study.html", "best.safetensors"
    }  # fmt: skip
    more = visiondyno.tune(out=out, resume=True, trials=4, on="inline", workers=1, test=False)
    assert len(more.trials) == 4
    assert more.taken_up == 3
    assert more.test is None
