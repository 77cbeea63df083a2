"""What goes wrong around a training, and late in it: told in a sentence, or borne."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from operation_cases import EPOCH as MLP_EPOCH
from operation_cases import HYPER, data, done
from training_cases import CLASSES, class_samples, linear, session, torch

from visiondyno.errors import OperationFailed, SpecError
from visiondyno.operations.checkpoints import KIND, Checkpoints
from visiondyno.operations.state_exchange import answer_state
from visiondyno.operations.worker_cache import WorkerCache
from visiondyno.operations.worker_files import WorkerFiles
from visiondyno.specs.training import EarlyStopping
from visiondyno.specs.training_operations import StateReply
from visiondyno.training import fit as fit_module
from visiondyno.training.fit import fit
from visiondyno.training.losses import loss_classes, why_not_a_loss
from visiondyno.training.modules import build_module
from visiondyno.training.optimizers import optimizer_classes

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A worker's home of this test's own."""
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def sequence(*layers: dict[str, Any]) -> dict[str, Any]:
    return {"type": "sequential", "layers": list(layers)}


def dense(inputs: int, outputs: int) -> dict[str, Any]:
    return {"type": "linear", "in_features": inputs, "out_features": outputs}


LINEAR = sequence(dense(4, CLASSES))
EPOCH = MLP_EPOCH | {"model_config": LINEAR}
TRAIN = EPOCH | {"operation": "train", "epochs": 3}


def refused(job: dict[str, Any], kind: type[Exception], *words: str) -> None:
    with pytest.raises(kind) as caught:
        done(job)
    for word in words:
        assert word in str(caught.value)


def test_a_cache_that_breaks_at_the_end_costs_no_training(home: Path) -> None:
    def break_it(progress: dict[str, Any]) -> None:
        if progress["stage"] == "sending the state":
            shutil.rmtree(home / "cache" / "partial")
            (home / "cache" / "partial").write_text("in the way")

    answer = done(TRAIN, break_it)
    assert (answer["status"], answer["epochs_run"]) == ("success", 3)
    assert "can't be used" in answer["model_state_not_kept"]


def test_a_checkpoint_that_cannot_be_looked_for_costs_no_training(home: Path) -> None:
    WorkerFiles.of_this_worker()
    (home / "cache" / "entries" / KIND).write_text("in the way")
    answer = done(TRAIN)
    assert answer["status"] == "success"
    assert any("checkpoint" in note for note in answer["notes"])


def test_a_long_history_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    watched = fit_module._watched

    def counted(record: Any, part: str, name: str) -> float:
        looked.append(record["epoch"])
        return watched(record, part, name)

    monkeypatch.setattr(fit_module, "_watched", counted)
    stopping = EarlyStopping(monitor="train_loss", patience=100)
    fit(session(), class_samples(), None, 12, stopping)
    assert looked == list(range(1, 13))


def test_a_warm_worker_compiles_the_tenth_model_as_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Torch counts compilations of `Sequential.forward` over all models, and stops at eight."""
    graphs = []

    def backend(graph: Any, _inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    compiled = []
    for width in range(5, 16):
        before = len(graphs)
        job = {
            "operation": "evaluate",
            "model_config": sequence(dense(4, width), dense(width, CLASSES)),
            "validation_data": data(8),
            "hyperparameters": {"compile": True},
        }
        done(job)
        compiled.append(len(graphs) - before)
    assert compiled == [1] * 11


def test_one_cycle_by_epoch_ends_with_the_last_epoch() -> None:
    def trained(**arguments: Any) -> Any:
        scheduling = {"scheduler": "one_cycle", "scheduler_step": "epoch"}
        hyper = HYPER | scheduling | {"scheduler_arguments": {"max_lr": 0.1} | arguments}
        return done(TRAIN | {"hyperparameters": hyper})["history"]

    assert trained() == trained(total_steps=3)


def test_a_watching_scheduler_steps_after_epochs_only() -> None:
    hyper = HYPER | {"scheduler": "reduce_lr_on_plateau", "scheduler_step": "batch"}
    refused(TRAIN | {"hyperparameters": hyper}, SpecError, "scheduler_step", "'epoch'")


@pytest.mark.parametrize("operation", ["train_epoch", "evaluate"])
def test_a_batch_without_a_label_that_counts_is_called_so(operation: str) -> None:
    hyper = {"batch_size": 8, "shuffle": False}
    samples = data(16)
    samples["labels"][:8] = [-100] * 8
    which = "training_data" if operation == "train_epoch" else "validation_data"
    job = {"operation": operation, "model_config": LINEAR, which: samples, "hyperparameters": hyper}
    refused(job, OperationFailed, "batch 1 of 2", "each label is -100", "'batch_size'")
    job["hyperparameters"] = hyper | {"loss_arguments": {"reduction": "sum"}}
    assert done(job)["metrics"]["loss"] > 0


@pytest.mark.parametrize(
    ("loss", "arguments", "labels"),
    [
        ("cross_entropy", {"weight": [1, 2]}, 1),
        ("nll", {"weight": [1, 2, 3, 4]}, 1),
        ("bce_with_logits", {"pos_weight": [1, 2]}, [0, 1, 1]),
    ],
)
def test_arguments_of_a_loss_that_do_not_fit_the_model_are_found_before_training(
    loss: str, arguments: dict[str, Any], labels: Any
) -> None:
    samples = {"features": data()["features"], "labels": [labels] * 40}
    hyper = {"loss_function": loss, "loss_arguments": arguments}
    job = EPOCH | {"training_data": samples, "hyperparameters": hyper}
    refused(job, SpecError, f"'hyperparameters.loss_arguments' of {loss}", "(3,)")


def test_a_last_step_that_ruins_the_weights_is_a_failure() -> None:
    job = EPOCH | {
        "training_data": {"features": [[1e9, 1e9, 1e9, 1e9]], "labels": [0]},
        "hyperparameters": {"optimizer": "sgd", "learning_rate": 1e38},
    }
    # Which class the fresh weights take it for decides whether there is a step at all.
    job["training_data"]["labels"] = [
        int(np.argmin(done(_predicting(job["training_data"]["features"]))["outputs"][0]))
    ]
    refused(job, OperationFailed, "epoch 1, batch 1 of 1", "weight", "'learning_rate'")


def _predicting(features: Any) -> dict[str, Any]:
    return {"operation": "predict", "model_config": LINEAR, "features": features}


def test_a_metric_for_more_classes_is_refused_before_training() -> None:
    seen: list[dict[str, Any]] = []
    job = TRAIN | {"early_stopping": {"monitor": "train_top5_accuracy"}}
    with pytest.raises(SpecError, match=r"'train_top5_accuracy' with .* and 3 outputs; take one"):
        done(job, seen.append)
    assert not [progress for progress in seen if progress["stage"] == "epoch"]


def test_sparse_gradients_are_not_clipped_by_value() -> None:
    layer = {"type": "embedding", "num_embeddings": 4, "embedding_dim": 3, "sparse": True}
    hyper = {"optimizer": "sparse_adam", "gradient_clip_value": 0.1}
    samples = {"features": [0, 1, 2, 3], "labels": [0, 1, 2, 0]}
    job = EPOCH | {"model_config": sequence(layer), "training_data": samples}
    refused(job | {"hyperparameters": hyper}, SpecError, "gradient_clip_value", "clip_norm")
    assert done(job | {"hyperparameters": {"optimizer": "sgd", "gradient_clip_norm": 0.1}})


def test_a_checkpoint_without_memory_for_it_costs_no_training(tmp_path: Path) -> None:
    def full(**_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    checkpoints = Checkpoints(WorkerCache(tmp_path / "cache", 10**9), "ab" * 32)
    training = session()
    training.state = full  # type: ignore[method-assign]
    for _ in range(2):
        checkpoints.after_epoch(training)
    assert checkpoints.notes == ["A checkpoint couldn't be kept: the memory is full"]


def test_one_logit_has_no_probabilities_over_classes() -> None:
    job = _predicting(data(2)["features"]) | {"model_config": sequence(dense(4, 1))}
    assert np.shape(done(job)["outputs"]) == (2, 1)
    refused(job | {"probabilities": True}, SpecError, "'probabilities'", "exp(-output)")


@pytest.mark.parametrize(
    ("name", "before", "after", "changed"),
    [
        ("adam", {}, {"optimizer_arguments": {"amsgrad": True}}, "optimizer_arguments.amsgrad"),
        ("rmsprop", {}, {"momentum": 0.9}, "momentum"),
        ("rmsprop", {"optimizer_arguments": {"centered": False}},
         {"optimizer_arguments": {"centered": True}}, "optimizer_arguments.centered"),
        ("lbfgs", {}, {"optimizer_arguments": {"history_size": 101}},
         "optimizer_arguments.history_size"),
    ],
)  # fmt: skip
def test_a_kept_optimizer_takes_other_numbers_and_no_switches(
    name: str, before: dict[str, Any], after: dict[str, Any], changed: str
) -> None:
    assert name in optimizer_classes()
    hyper = {"optimizer": name, "batch_size": 16}
    answer = done(EPOCH | {"hyperparameters": hyper | before})
    names = ("model_state", "model_state_format", "optimizer_state")
    job = EPOCH | {name: answer[name] for name in names}
    refused(
        job | {"hyperparameters": hyper | after},
        SpecError,
        f"'hyperparameters.{changed}' changed",
        "'optimizer_state'",
    )
    assert done(job | {"hyperparameters": hyper | before | {"learning_rate": 1e-3}})["epoch"] == 2


def test_an_optimizer_state_without_its_weights_is_refused() -> None:
    name = done(EPOCH)["optimizer_state"]
    refused(EPOCH | {"optimizer_state": name}, SpecError, "'optimizer_state'", "'model_state'")


def test_a_state_beside_a_long_history_goes_as_a_blob() -> None:
    files = WorkerFiles.of_this_worker()
    module = build_module(linear(4, CLASSES))
    for beside_bytes, is_blob in ((0, False), (9_000_000, False), (9_400_000, True)):
        answer = answer_state(module, StateReply(), None, files, beside_bytes=beside_bytes)
        assert answer["model_state"].startswith("sha256:") is is_blob


def test_a_cache_leaves_room_on_its_disk(tmp_path: Path) -> None:
    """Of a disk of 10,000 bytes, 500 stay free; others than the cache hold 9,000 of them."""
    folder = tmp_path / "cache"
    ticks = iter(range(100))

    def disk(_: Path) -> tuple[int, int, int]:
        held = sum(path.stat().st_size for path in folder.glob("entries/*/*"))
        return 10_000, 9_000 + held, 1_000 - held

    cache = WorkerCache(folder, 10**9, now_ns=lambda: next(ticks), disk=disk)
    for name in "abcde":
        cache.put("states", name, bytes(200))
    assert sorted(path.name for path in (folder / "entries" / "states").iterdir()) == ["d", "e"]
    cache.put("states", "large", bytes(900))  # the newest stays, whatever room it takes
    assert [path.name for path in (folder / "entries" / "states").iterdir()] == ["large"]


def test_every_loss_that_can_be_used_scores_a_module() -> None:
    features, used = data(4)["features"], []
    for name, kind in loss_classes().items():
        labels: list[Any] = [[0.25, 0.5, 0.25]] * 4
        if kind.__name__ in ("CrossEntropyLoss", "NLLLoss", "MultiMarginLoss"):
            labels = [0, 1, 2, 1]
        elif kind.__name__ in ("SoftMarginLoss", "HingeEmbeddingLoss"):
            labels = [[1, -1, 1]] * 4
        elif kind.__name__ == "MultiLabelMarginLoss":
            labels = [[0, 2, -1]] * 4
        layers = (dense(4, CLASSES), {"type": "softmax", "dim": 1})
        job = {
            "operation": "evaluate",
            "model_config": sequence(*layers),
            "validation_data": {"features": features, "labels": labels},
            "hyperparameters": {"loss_function": name},
        }
        if why_not_a_loss(kind) is None:
            assert np.isfinite(done(job)["metrics"]["loss"])
            used.append(name)
    assert len(used) >= 14
