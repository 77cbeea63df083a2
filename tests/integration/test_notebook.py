"""`%%dyno_train` in a real shell of IPython."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("IPython")

from IPython.core.interactiveshell import InteractiveShell

from visiondyno.client import notebook
from visiondyno.client.model_state import ModelState
from visiondyno.client.training_config import parse_config
from visiondyno.client.training_report import TrainingWatch
from visiondyno.job import JobEvent, JobState

pytestmark = pytest.mark.torch

CONFIG = """\
model_config: {type: sequential, layers: [{type: linear, in_features: 2, out_features: 2}]}
training_data: {features: [[0, 1], [1, 0], [0.2, 0.9], [1, 0.1]], labels: [0, 1, 0, 1]}
validation_data: {features: [[0, 1], [1, 0]], labels: [0, 1]}
epochs: 2
"""


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    made = InteractiveShell.instance()
    assert made.run_cell("%load_ext visiondyno").success
    yield made
    made.history_manager.end_session()
    InteractiveShell.clear_instance()


def run(shell: InteractiveShell, line: str = "", cell: str = CONFIG) -> Any:
    return shell.run_cell(f"%%dyno_train {line}\n{cell}")


def test_a_cell_trains_and_leaves_state_and_history(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(shell).success
    state, history = shell.user_ns["trained"]
    assert isinstance(state, ModelState)
    assert [record["epoch"] for record in history] == [1, 2]
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in said if line.startswith("epoch")] == [
        "epoch 1/2",
        "epoch 2/2",
    ]
    assert f"val loss {history[1]['val_metrics']['loss']:.4f}" in said[-2]
    assert said[-1].endswith(": done")

    assert run(shell, "--into again --on inline").success
    assert shell.user_ns["again"] == (state, history)


def test_mistakes_are_one_line_and_leave_the_names_alone(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.user_ns["trained"] = "mine"
    for line, cell, said in (
        ("", CONFIG.replace("epochs", "epoch"), "The cell: there is no field 'epoch'; did you"),
        ("", CONFIG.replace("linear", "liner"), "layer 0 (liner)"),
        ("", "[", "The cell: isn't valid YAML"),
        ("--on mars", CONFIG, "'mars' isn't a place to run jobs"),
        ("--in x", CONFIG, "unrecognized arguments"),
        ("--into 3x", CONFIG, "'3x' isn't a name that Python takes"),
        ("--into 'x", CONFIG, "The magic's options can't be read (No closing quotation)"),
        ("--log csv", CONFIG, "There is no logger 'csv'"),
    ):
        assert not run(shell, line, cell).success
        told = capsys.readouterr()
        assert said in told.err
        assert "Traceback" not in told.out + told.err
    assert shell.user_ns["trained"] == "mine"


def test_an_interrupt_says_how_to_go_on(
    shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(self: notebook.LiveEpochs, record: dict[str, Any]) -> None:
        raise KeyboardInterrupt  # as Ctrl-C does, in this thread

    monkeypatch.setattr(notebook.LiveEpochs, "on_epoch_end", interrupted)
    assert not run(shell, cell=CONFIG.replace("epochs: 2", "epochs: 5000")).success
    assert "Interrupted after 1 epoch. Run the cell again" in capsys.readouterr().err
    assert "trained" not in shell.user_ns


def test_notes_of_a_training_are_printed(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mlflow")
    with pytest.warns(match="MLflow didn't record"):
        assert run(shell, "--log mlflow:gopher://nowhere").success
    assert "Note: MLflow didn't record this training in full" in capsys.readouterr().out


def test_a_notebook_sees_curves_and_a_table() -> None:
    config = parse_config(CONFIG, "<cell>", Path.cwd())
    watch = TrainingWatch(config)
    live = notebook.LiveEpochs(watch)
    assert "<svg" not in live._repr_html_()
    for epoch in (1, 2):
        metrics = {"loss": 1.0 / epoch, "accuracy": 0.5}
        watch.on_epoch_end({"epoch": epoch, "train_metrics": metrics, "val_metrics": metrics})
    live.on_event(JobEvent(job_id="j", number=1, state=JobState.IN_PROGRESS))
    progress = {"stage": "training", "epoch": 3, "done": 1000, "total": 2000}
    live.on_event(JobEvent(job_id="j", number=2, state=JobState.IN_PROGRESS, progress=progress))
    page = live._repr_html_()
    assert "training 1,000/2,000" in page
    assert page.count("<svg") == 2  # loss and accuracy
    assert page.count("<tr>") == 3
    assert "<script" not in page
