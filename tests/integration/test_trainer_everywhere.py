"""One script gives the same numbers wherever it trains: inline, local, Redis, a server, RunPod."""

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_server import dyno_up, url_of

from training_endpoint import TrainingEndpoint, training_endpoint
from training_places import CNN, HYPER, MLP, blobs_of_points
from visiondyno.client.client import Client
from visiondyno.client.runpod_names import GPUTrainingOrchestrator, RunPodGPUClient
from visiondyno.client.trainer import Trainer
from visiondyno.errors import SpecError, Unauthorized

torch = pytest.importorskip("torch")
optuna = pytest.importorskip("optuna")
optuna.logging.set_verbosity(optuna.logging.ERROR)
pytestmark = pytest.mark.torch

TRAIN, HELD_OUT = blobs_of_points(), blobs_of_points(45, seed=1)
THREADS = 1


def own_module() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))


def numbers_of(trainer: Trainer) -> dict[str, Any]:
    """What a user's script does with a trainer, and what it sees."""
    found: dict[str, Any] = {}
    metrics, state = trainer.train_epoch(MLP, TRAIN, HYPER, threads=THREADS)
    found["single epoch"] = metrics, state.sha256
    metrics, state = trainer.train_epoch(MLP, TRAIN, HYPER, model_state=state, threads=THREADS)
    found["next epoch"] = metrics, state.sha256
    states = {}
    for name, config in (("mlp", MLP), ("cnn", CNN), ("own", own_module())):
        state, history = trainer.train_model(
            config, TRAIN, HELD_OUT, HYPER, epochs=2, threads=THREADS
        )
        states[name] = state
        held_out = trainer.evaluate(config, state, HELD_OUT, HYPER, threads=THREADS)
        assert held_out == history[-1]["val_metrics"]
        outputs = trainer.predict(config, state, HELD_OUT[0], threads=THREADS)["outputs"]
        found[name] = history, state.sha256, outputs

    def objective(trial: Any) -> float:
        hyper = HYPER | {"learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-1)}
        result = trainer.hyperparameter_trial(
            CNN, TRAIN, HELD_OUT, hyper, epochs=2, trial=trial, threads=THREADS
        )
        return float(result["final_val_metrics"]["loss"])

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(objective, n_trials=2)
    found["trials"] = [(trial.params, trial.value) for trial in study.trials]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        trainer.export(CNN, states["cnn"], path, input_shape=(6,), threads=THREADS)
        found["export"] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VISIONDYNO_HOME", str(tmp_path_factory.mktemp("inline")))
        with Client("inline") as client:
            return numbers_of(Trainer(client))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("RUNPOD_ENDPOINT_ID", "RUNPOD_API_KEY", "VISIONDYNO_REDIS_URL", "REDIS_HOST"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.slow
def test_local_workers_give_the_same_numbers(home: Path, expected: dict[str, Any]) -> None:
    with Client("local", workers=1) as client:
        assert numbers_of(Trainer(client)) == expected
        assert [worker.jobs_done > 0 for worker in client.workers()] == [True]


@pytest.mark.slow
def test_workers_on_redis_give_the_same_numbers(
    home: Path, expected: dict[str, Any], redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISIONDYNO_REDIS_URL", redis_url)
    with Client("redis", workers=1) as client:
        assert numbers_of(Trainer(client)) == expected


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with dyno_up(tmp_path_factory.mktemp("server"), "--workers", "1-1") as (process, said):
        yield url_of(said)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


@pytest.mark.slow
def test_a_server_gives_the_same_numbers(home: Path, expected: dict[str, Any], server: str) -> None:
    with Client(server) as client:
        assert numbers_of(Trainer(client)) == expected


@pytest.mark.slow
def test_runpods_job_api_gives_the_same_numbers_under_its_names(
    home: Path, expected: dict[str, Any], server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISIONDYNO_BLOBS_URL", f"{server}/blobs")
    with RunPodGPUClient(endpoint_url=f"{server}/v2/default") as client:
        metrics, state = client.train_epoch(
            model_config=MLP, training_data=TRAIN, hyperparameters=HYPER, threads=THREADS
        )
        assert (metrics, state.sha256) == expected["single epoch"]
        assert client.evaluate(MLP, state, HELD_OUT, threads=THREADS)["samples_processed"] == 45
        health = client.health_check()
        assert health["executor"] == "runpod"
        assert sum(health["workers"].values()) == 1
        assert numbers_of(GPUTrainingOrchestrator(client)) == expected


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingEndpoint]:
    with training_endpoint(tmp_path_factory.mktemp("endpoint")) as endpoint:
        yield endpoint


@pytest.mark.slow
def test_a_runpod_endpoint_gives_the_same_numbers(
    home: Path, expected: dict[str, Any], endpoint: TrainingEndpoint
) -> None:
    (home / ".env").write_text("".join(f"{name}={v}\n" for name, v in endpoint.environ.items()))
    with RunPodGPUClient() as client:
        assert numbers_of(GPUTrainingOrchestrator(client)) == expected
        assert client.health_check()["jobs"]["FAILED"] == 0
    with RunPodGPUClient(api_key="of somebody else") as stranger, pytest.raises(Unauthorized):
        stranger.health_check()


CELL = """\
model_config: {type: sequential, layers: [{type: linear, in_features: 2, out_features: 2}]}
training_data: {features: [[0, 1], [1, 0], [0.2, 0.9], [1, 0.1]], labels: [0, 1, 0, 1]}
epochs: 2
threads: 1
"""


@pytest.mark.slow
def test_a_notebooks_cell_gives_the_same_numbers_on_runpod(
    home: Path,
    endpoint: TrainingEndpoint,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shells = pytest.importorskip("IPython.core.interactiveshell")
    for name, value in endpoint.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("IPYTHONDIR", str(home / "ipython"))
    shell = shells.InteractiveShell.instance()
    try:
        assert shell.run_cell("%load_ext visiondyno").success
        assert shell.run_cell(f"%%dyno_train --into here\n{CELL}").success
        options = "--on runpod --gpu A4000 --max-cost 1 --into there"
        assert shell.run_cell(f"%%dyno_train {options}\n{CELL}").success
        assert shell.user_ns["there"] == shell.user_ns["here"]
        assert "epoch 2/2" in capsys.readouterr().out
    finally:
        shell.history_manager.end_session()
        shells.InteractiveShell.clear_instance()


def test_runpods_endpoint_is_named_by_argument_or_environment(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SpecError, match="RUNPOD_ENDPOINT_ID and RUNPOD_API_KEY"):
        RunPodGPUClient()
    (home / ".env").write_text("RUNPOD_ENDPOINT_ID=abc123\nRUNPOD_API_KEY=secret-key\n")
    by_file = RunPodGPUClient()
    monkeypatch.setenv("RUNPOD_ENDPOINT_ID", "def456")
    by_environment = RunPodGPUClient(api_key="other")
    by_id = RunPodGPUClient("ghi789")
    by_url = RunPodGPUClient("https://gpu-box/v2/default")
    for client, url, key in (
        (by_file, "https://api.runpod.ai/v2/abc123", None),  # None: the settings'
        (by_environment, "https://api.runpod.ai/v2/def456", "other"),
        (by_id, "https://api.runpod.ai/v2/ghi789", None),
        (by_url, "https://gpu-box/v2/default", None),
    ):
        assert client.place.endpoint == url
        assert client.place.api_key == key
    with pytest.raises(SpecError, match="is no RunPod endpoint"):
        RunPodGPUClient("https://api.runpod.ai/")
