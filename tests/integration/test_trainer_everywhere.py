"""One script gives the same numbers wherever it trains: inline, local, Redis, a server, RunPod."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_server import dyno_up, url_of

from training_places import CNN, HYPER, MLP, blobs_of_points
from visiondyno.client.client import Client
from visiondyno.client.runpod_names import GPUTrainingOrchestrator, RunPodGPUClient
from visiondyno.client.trainer import Trainer
from visiondyno.errors import SpecError

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
    for name, config in (("mlp", MLP), ("cnn", CNN), ("own", own_module())):
        state, history = trainer.train_model(
            config, TRAIN, HELD_OUT, HYPER, epochs=2, threads=THREADS
        )
        held_out = trainer.evaluate(config, state, HELD_OUT, HYPER, threads=THREADS)
        assert held_out == history[-1]["val_metrics"]
        found[name] = history, state.sha256

    def objective(trial: Any) -> float:
        hyper = HYPER | {"learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-1)}
        result = trainer.hyperparameter_trial(
            CNN, TRAIN, HELD_OUT, hyper, epochs=2, trial=trial, threads=THREADS
        )
        return float(result["final_val_metrics"]["loss"])

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(objective, n_trials=2)
    found["trials"] = [(trial.params, trial.value) for trial in study.trials]
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


def test_runpods_endpoint_is_named_by_argument_or_environment(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SpecError, match="RUNPOD_ENDPOINT_ID and RUNPOD_API_KEY"):
        RunPodGPUClient()
    (home / ".env").write_text("RUNPOD_ENDPOINT_ID=abc123\nRUNPOD_API_KEY=secret-key\n")
    by_file = RunPodGPUClient()._client
    monkeypatch.setenv("RUNPOD_ENDPOINT_ID", "def456")
    by_environment = RunPodGPUClient(api_key="other")._client
    for client, endpoint, key in (
        (by_file, "abc123", "secret-key"),
        (by_environment, "def456", "other"),
    ):
        assert client._where == f"https://api.runpod.ai/v2/{endpoint}"
        assert client._api_key == key
