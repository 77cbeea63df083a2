"""`dyno train` as its users run it."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from visiondyno.cli import main
from visiondyno.cli.training_display import TrainingDisplay
from visiondyno.client import training_run
from visiondyno.client.model_state import ModelState
from visiondyno.client.training_config import read_config
from visiondyno.client.training_report import TrainingFolder
from visiondyno.job import JobEvent, JobState
from visiondyno.operations import train as train_operation

pytestmark = pytest.mark.torch

SAMPLES = "{features: [[0, 1], [1, 0], [0.2, 0.9], [1, 0.1]], labels: [0, 1, 0, 1]}"
CONFIG = f"""\
model_config:
  type: sequential
  layers:
    - {{type: linear, in_features: 2, out_features: 4}}
    - {{type: relu}}
    - {{type: linear, in_features: 4, out_features: 2}}
training_data: {SAMPLES}
validation_data: {SAMPLES}
hyperparameters: {{learning_rate: 5e-2, batch_size: 2}}
epochs: 3
threads: 1
"""
FILES = {"model.safetensors", "history.json", "history.csv", "training.html", "config.yaml"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder; what a worker keeps stays below it."""
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(CONFIG, encoding="utf-8")
    return tmp_path


def train(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["train", *arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def history(out: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(out, "history.json").read_text(encoding="utf-8"))
    return found


def test_a_training_leaves_weights_history_page_and_what_repeats_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train("c.yaml", "--out", "first") == 0
    said = capsys.readouterr()
    assert {path.name for path in Path("first").iterdir()} == FILES
    told = history("first")
    assert told["schema"] == "visiondyno.training/1"
    assert [record["epoch"] for record in told["history"]] == [1, 2, 3]
    assert told["best_epoch"] == 3  # the loss of so small a set only falls
    table = [line.split() for line in said.err.splitlines() if line.lstrip()[1:2] == "/"]
    assert [row[0] for row in table] == ["1/3", "2/3", "3/3"]
    losses = [record["train_metrics"]["loss"] for record in told["history"]]
    assert [float(row[1]) for row in table] == pytest.approx(losses, rel=1e-3)
    assert "Best epoch   3 of 3; val loss" in said.out
    rows = Path("first/history.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 4
    assert "val_loss" in rows[0]

    assert train("first/config.yaml", "--out", "again") == 0
    assert ModelState.load("again/model.safetensors") == ModelState.load("first/model.safetensors")
    assert read_config(Path("again/config.yaml")) == read_config(Path("first/config.yaml"))
    assert train("c.yaml", "--out", "first") == 0  # the same again may take the same folder


def test_options_override_the_file_and_the_result_is_json(
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ("--epochs", "9", "--lr", "0.5", "--optimizer", "sgd", "--batch-size", "4")
    more = ("--seed", "3", "--set", "early_stopping.patience=1", "--loss", "nll")
    stop = ("--set", "early_stopping.min_delta=1000")
    assert train("c.yaml", *options, *more, *stop, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["stopped_early"] is True
    assert told["epochs_run"] == 2
    used = read_config(Path(told["files"]["config"])).spec
    assert (used.epochs, used.seed_used) == (9, 3)
    assert used.hyperparameters.learning_rate == 0.5
    assert used.hyperparameters.optimizer == "sgd"
    assert used.hyperparameters.loss_function == "nll"
    assert "no longer got better" in Path(told["files"]["page"]).read_text(encoding="utf-8")


def test_weights_may_be_given_and_the_model_may_be_a_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    module = torch.nn.Sequential(torch.nn.Linear(2, 2))
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(module, (torch.zeros(2, 2),), dynamic_shapes=({0: batch},))
    torch.export.save(program, "net.pt2")
    ModelState.of(module).save("begin.safetensors")
    text = CONFIG.partition("training_data")
    Path("p.yaml").write_text(
        "model_config: {type: exported, program: net.pt2}\n" + "".join(text[1:]), encoding="utf-8"
    )
    still = ("--optimizer", "sgd", "--set", "hyperparameters.learning_rate=1e-30")
    assert train("p.yaml", "--state", "begin.safetensors", "--epochs", "1", *still) == 0
    trained = ModelState.load("dyno-training/model.safetensors")
    assert trained == ModelState.of(module)  # so small a step changes no float32
    used = read_config(Path("dyno-training/config.yaml")).fields
    assert used["model_config"]["program"] == str(Path("net.pt2").resolve())
    assert used["model_state"] == str(Path("begin.safetensors").resolve())
    assert "exported program on 4 inline samples" in capsys.readouterr().out

    monkeypatch.setattr(training_run, "_MAX_INLINE_BYTES", 10)  # so that it goes as a blob
    assert train("dyno-training/config.yaml", "--out", "again") == 0
    assert ModelState.load("again/model.safetensors") == trained


def test_an_architecture_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    data = ("--set", f"training_data={SAMPLES}")
    assert train("--model", "torchvision:resnet18", *data) == 2
    assert "the model can't take a batch of shape (4, 2)" in capsys.readouterr().err


@pytest.mark.slow
def test_worker_processes_come_to_the_same_weights() -> None:
    assert train("c.yaml", "--out", "here") == 0
    assert train("c.yaml", "--on", "local", "--out", "there") == 0
    assert ModelState.load("here/model.safetensors") == ModelState.load("there/model.safetensors")
    assert history("here")["history"] == history("there")["history"]


@contextmanager
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Within, a training doesn't end by itself: from its third epoch on it waits to be stopped."""
    real = train_operation._Training._on_epoch

    def on_epoch(self: Any, record: Any) -> None:
        real(self, record)
        while record["epoch"] >= 3:
            self._context.check()
            time.sleep(0.005)

    with monkeypatch.context() as holding:
        holding.setattr(train_operation._Training, "_on_epoch", on_epoch)
        yield holding


def test_an_interrupted_training_goes_on_by_the_same_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    long = ("c.yaml", "--epochs", "150", "--set", "hyperparameters.batch_size=1")
    assert train(*long, "--out", "undisturbed") == 0
    capsys.readouterr()

    with held(monkeypatch) as interrupting:
        told = TrainingDisplay.on_epoch_end

        def interrupted(self: TrainingDisplay, record: dict[str, Any]) -> None:
            told(self, record)
            if record["epoch"] == 2:
                raise KeyboardInterrupt  # as Ctrl-C does, in this thread

        interrupting.setattr(TrainingDisplay, "on_epoch_end", interrupted)
        assert train(*long, "--out", "out") == 130
    assert "Done: 2 epochs, written to out. The same command goes on" in capsys.readouterr().err
    assert {path.name for path in Path("out").iterdir()} == FILES - {"model.safetensors"}
    assert "It was interrupted." in Path("out/training.html").read_text(encoding="utf-8")

    assert train(*long, "--out", "out") == 0
    assert history("out")["resumed_from_epoch"] >= 1
    assert history("out")["history"] == history("undisturbed")["history"]
    assert ModelState.load("out/model.safetensors") == ModelState.load(
        "undisturbed/model.safetensors"
    )


def test_epochs_of_an_earlier_run_stay_in_the_history_if_it_is_interrupted_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted_at(epoch: int) -> None:
        def stop(self: TrainingDisplay, record: dict[str, Any]) -> None:
            if record["epoch"] >= epoch:
                raise KeyboardInterrupt

        monkeypatch.setattr(TrainingDisplay, "on_epoch_end", stop)

    long = ("c.yaml", "--epochs", "150", "--set", "hyperparameters.batch_size=1", "--out", "out")
    with held(monkeypatch):
        interrupted_at(1)
        assert train(*long) == 130
        resumed_after = len(history("out")["history"])
        interrupted_at(0)
        assert train(*long) == 130
    numbers = [record["epoch"] for record in history("out")["history"]]
    assert numbers[:resumed_after] == [1]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("none.yaml",), "none.yaml: can't be read as text"),
        (("broken.yaml",), "broken.yaml: isn't valid YAML"),
        (("c.yaml", "--set", "model_config.layers.1.type=rellu"), "layer 1 (rellu)"),
        (("c.yaml", "--set", "model_config.layers.2.in_features=5"), "layer 2 (linear)"),
        (("c.yaml", "--data", "no_such_folder"), "no data set 'no_such_folder'"),
        (("c.yaml", "--set", "training_data.labels=[0, 1, 0, 7]"), "training_data"),
        (("c.yaml", "--loss", "no_loss"), "hyperparameters.loss_function"),
        (("c.yaml", "--set", "hyperparameters.learningrate=1"), "did you mean 'learning_rate'?"),
        (("c.yaml", "--set", "epochs"), "--set takes FIELD=VALUE"),
        (("c.yaml", "--set", "epochs=["), "--set epochs: isn't valid YAML"),
        (("c.yaml", "--on", "mars"), "'mars' isn't a place to run jobs"),
        (("c.yaml", "--state", "none.safetensors"), "There is no file"),
        (("c.yaml", "--state", "c.yaml"), "c.yaml: The model state can't be read"),
        (("c.yaml", "--log", "csv:file"), "There is no logger 'csv:file'"),
        (("--model", "resnet18"), "'resnet18' names no architecture"),
        (("--model", "timm:resnet18"), "Which data?"),
        ((), "Which model?"),
        (
            ("c.yaml", "--set", "model_config={type: exported, program: none.pt2}"),
            "There is no file 'none.pt2'",
        ),
        (
            ("c.yaml", "--set", "model_config={type: exported, program: /}"),
            "The program / can't be read (Is a directory)",
        ),
    ],
    ids=range(19),
)
def test_bad_input_is_one_sentence(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("broken.yaml").write_text("model_config: [\n", encoding="utf-8")
    assert train(*arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert said in lines[-1]
    assert lines[-1].startswith("Error: ")
    assert not [line for line in lines if "Traceback" in line]
    assert not Path("dyno-training").exists()


def test_what_is_there_already_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("c.yaml") == 0
    before = Path("dyno-training/model.safetensors").read_bytes()
    assert train("c.yaml", "--seed", "5") == 2
    assert "holds the weights of another training" in capsys.readouterr().err
    assert Path("dyno-training/model.safetensors").read_bytes() == before
    assert train("c.yaml", "--out", ".") == 2
    assert "holds other files ('c.yaml')" in capsys.readouterr().err
    assert train("c.yaml", "--out", "c.yaml/inside") == 2
    assert "can't be made" in capsys.readouterr().err


def test_a_damaged_history_counts_as_none() -> None:
    assert train("c.yaml") == 0
    config = read_config(Path("c.yaml"))
    folder = TrainingFolder(Path("dyno-training"), config)
    assert len(folder.earlier_history()) == 3
    for text in ("{", "[]", '{"schema": "other"}'):
        Path("dyno-training/history.json").write_text(text, encoding="utf-8")
        assert folder.earlier_history() == []


def test_a_loss_that_is_not_finite_is_no_input_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("c.yaml", "--set", "hyperparameters.learning_rate=1e30", "--epochs", "99") == 1
    assert "the loss is" in capsys.readouterr().err.splitlines()[-1]


def test_a_time_limit_ends_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("c.yaml", "--epochs", "50000", "--time-limit", "5") == 1
    assert "ran past its executionTimeout" in capsys.readouterr().err
    assert history("dyno-training")["ended"]
    assert not Path("dyno-training/model.safetensors").exists()


def test_mlflow_is_told_and_its_absence_is_noted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = Path("runs").resolve().as_uri()
    assert train("c.yaml", "--log", f"mlflow:{uri}", "--out", "good") == 0
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("visiondyno")
    (run,) = client.search_runs([experiment.experiment_id])
    last = history("good")["history"][-1]
    assert run.data.metrics["val_loss"] == last["val_metrics"]["loss"]
    capsys.readouterr()

    assert train("c.yaml", "--log", "mlflow:gopher://nowhere", "--out", "bad") == 0
    said = capsys.readouterr()
    assert said.err.count("MLflow didn't record this training in full") == 1
    assert "Note: MLflow didn't record this training in full" in said.out
    assert ModelState.load("bad/model.safetensors") == ModelState.load("good/model.safetensors")


def test_the_display_shows_what_happens_within_an_epoch(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def event(**progress: Any) -> JobEvent:
        return JobEvent(job_id="j", number=1, state=JobState.IN_PROGRESS, progress=progress)

    with TrainingDisplay(9) as display:
        display.on_event(JobEvent(job_id="j", number=1, state=JobState.IN_PROGRESS))
        display.on_event(event(stage="reading the data", done=3))
        display.on_event(event(stage="resumed", epoch=4, epochs=9))
        display.on_event(event(stage="training", epoch=5, epochs=9, done=1, total=7))
        display.on_event(event(stage="training", epoch=5, epochs=9, done=2, total=7))
        display.on_event(event(log="the GPU's share of memory can't be kept"))
    assert capsys.readouterr().err.splitlines() == [
        "going on after epoch 4, from the checkpoint",
        "the GPU's share of memory can't be kept",
    ]
