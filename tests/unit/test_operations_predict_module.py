"""`predict` of a torch module: its outputs, exactly, and what stands in the way of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_cases import MLP, linear, model_config, nn, torch

from visiondyno import worker
from visiondyno.errors import (
    DatasetError,
    ModelError,
    OperationFailed,
    SpecError,
    TooLarge,
    VisionDynoError,
)
from visiondyno.operations import predict_module
from visiondyno.operations.context import OperationContext
from visiondyno.operations.worker_files import WorkerFiles
from visiondyno.training.modules import build_module

pytestmark = pytest.mark.torch

NOISE = np.random.default_rng(3).standard_normal((7, 4)).astype(np.float32)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("VISIONDYNO_BLOBS_URL", raising=False)
    return tmp_path


def predict(config: Any = MLP, features: Any = None, **more: Any) -> dict[str, Any]:
    payload = {"operation": "predict", "model_config": config, "threads": 1}
    features = NOISE.tolist() if features is None else features
    answer: dict[str, Any] = worker.run(payload | {"features": features} | more, OperationContext())
    return answer


def test_predictions_are_the_modules_own_bit_by_bit() -> None:
    module = build_module(model_config(MLP), seed=5).eval()
    hyper = {"seed": 5, "batch_size": 3}
    answer = predict(hyperparameters=hyper)
    with torch.no_grad():
        batches = [module(batch) for batch in torch.from_numpy(NOISE).split(3)]
    expected = torch.cat(batches)
    assert answer["shape"] == [7, 3]
    assert torch.equal(torch.tensor(answer["outputs"]), expected)
    assert answer["status"] == "success"
    assert answer["device"] == "cpu"
    likely = predict(hyperparameters=hyper, probabilities=True)
    np.testing.assert_allclose(likely["outputs"], expected.softmax(1), rtol=1e-6)


def test_features_may_come_with_labels_from_a_data_set_or_without() -> None:
    alone = predict()
    labelled = predict(features={"features": NOISE.tolist(), "labels": [0] * 7})
    assert labelled == alone
    images = {
        "type": "sequential",
        "layers": [{"type": "flatten"}, {"type": "linear", "in_features": 1024, "out_features": 2}],
    }
    answer = predict(images, "digits:val:5")
    assert answer["shape"] == [5, 2]
    assert answer["outputs"] == predict(images, {"data": "digits:val:5"})["outputs"]


def test_a_regression_answers_one_number_a_sample() -> None:
    flat = {"type": "sequential", "layers": [
        {"type": "linear", "in_features": 4, "out_features": 1},
        {"type": "flatten", "start_dim": 0},
    ]}  # fmt: skip
    answer = predict(flat)
    assert answer["shape"] == [7]
    assert isinstance(answer["outputs"][0], float)
    with pytest.raises(SpecError, match="one number a sample"):
        predict(flat, probabilities=True)


LOOK_UP = {
    "type": "sequential",
    "layers": [{"type": "embedding", "num_embeddings": 3, "embedding_dim": 2}],
}


@pytest.mark.parametrize(
    ("config", "features", "kind", "words"),
    [
        (MLP, [[1.0, 2.0]], SpecError, r"layer 0 \(linear\) expects 4 values"),
        (MLP, [[1.0, 2.0, 3.0, 4.0], [1.0]], SpecError, r"'features\[1\]' must hold 4"),
        (MLP, [], SpecError, "holds no sample"),
        (MLP, [[1.0, 2.0, 3.0, 1e300]], DatasetError, r"'features\.features\[0\]\[3\]' is inf"),
        (LOOK_UP, [[0], [3]], DatasetError, r"'features\.features\[1\]\[0\]' is 3"),
        (MLP, "no-such-data", VisionDynoError, "no-such-data"),
        (MLP, f"sha256:{'0' * 64}", VisionDynoError, "isn't among this worker's blobs"),
    ],
)
def test_what_cant_be_predicted_is_named(config: Any, features: Any, kind: Any, words: str) -> None:
    with pytest.raises(kind, match=words):
        predict(config, features)


def test_a_state_of_another_model_is_refused() -> None:
    epoch = {
        "operation": "train_epoch", "model_config": linear(2, 2).model_dump(),
        "training_data": {"features": [[1.0, 2.0]], "labels": [0]},
    }  # fmt: skip
    trained = worker.run(epoch, OperationContext())
    state = {key: trained[key] for key in ("model_state", "model_state_format")}
    assert predict(linear(2, 2).model_dump(), [[1.0, 2.0]], **state)["shape"] == [1, 2]
    with pytest.raises(ModelError, match="of another model"):
        predict(MLP, **state)


def test_outputs_that_no_answer_carries_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict_module, "MAX_OUTPUT_BYTES", 300)
    with pytest.raises(TooLarge, match=r"first \d of 7 samples .+; predict fewer samples"):
        predict(hyperparameters={"batch_size": 2})


def test_an_output_that_isnt_a_number_is_named() -> None:
    powers = {"type": "sequential", "layers": [
        {"type": "linear", "in_features": 1, "out_features": 1},
        {"type": "lp_pool1d", "norm_type": 60, "kernel_size": 1},
    ]}  # fmt: skip
    with pytest.raises(OperationFailed, match="NaN or infinity for sample 1 of 'features'"):
        predict(powers, [[[0.0]], [[1e30]]], hyperparameters={"batch_size": 1})


def test_an_operator_that_stops_at_one_batch_names_it() -> None:
    import base64
    import io

    class LooksUp(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(3, 2)

        def forward(self, indices: Any) -> Any:
            return self.table(indices)

    buffer = io.BytesIO()
    shapes = ({0: torch.export.Dim("batch")},)
    example = (torch.zeros((2, 1), dtype=torch.int64),)
    torch.export.save(torch.export.export(LooksUp(), example, dynamic_shapes=shapes), buffer)
    program = base64.b64encode(buffer.getvalue()).decode()
    config = {"type": "exported", "program": program}
    hyper = {"batch_size": 2}
    assert predict(config, [[0], [1], [2]], hyperparameters=hyper)["shape"] == [3, 1, 2]
    with pytest.raises(OperationFailed, match="In prediction, batch 2 of 2: IndexError"):
        predict(config, [[0], [1], [9]], hyperparameters=hyper)


CARD = """
schema: visiondyno.model/1
task: classification
head: classification
classes: ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
activation: softmax
input:
  {height: 32, width: 32, resize: stretch, channels: rgb,
   mean: [0.4, 0.4, 0.4], std: [0.3, 0.3, 0.3]}
"""
DIGITS: dict[str, Any] = {"channels": 3, "mean": [0.4] * 3, "std": [0.3] * 3}


def test_a_trained_module_scores_the_same_as_an_onnx_file(tmp_path: Path) -> None:
    """Its card says what the training's data said: normalisation, channels, size; and softmax."""
    config = {"type": "sequential", "layers": [
        {"type": "conv2d", "in_channels": 3, "out_channels": 8, "kernel_size": 5, "stride": 2},
        {"type": "relu"}, {"type": "conv2d", "in_channels": 8, "out_channels": 16,
        "kernel_size": 3, "stride": 2}, {"type": "relu"}, {"type": "flatten"},
        {"type": "linear", "in_features": 576, "out_features": 10},
    ]}  # fmt: skip
    val = DIGITS | {"data": "digits:val:200"}
    hyper = {"learning_rate": 0.003, "seed": 1}
    trained = worker.run(
        {"operation": "train", "model_config": config, "epochs": 2, "threads": 1,
         "training_data": DIGITS | {"data": "digits:train:1000"}, "hyperparameters": hyper},
        OperationContext(),
    )  # fmt: skip
    own = {
        "model_config": config,
        "threads": 1,
        "model_state": trained["model_state"],
        "model_state_format": trained["model_state_format"],
    }
    metrics = worker.run(
        {"operation": "evaluate", "validation_data": val} | own, OperationContext()
    )["metrics"]
    exported = worker.run(
        {"operation": "export", "input_shape": [3, 32, 32], "check_data": val} | own,
        OperationContext(),
    )
    (tmp_path / "digits.onnx").write_bytes(
        WorkerFiles.of_this_worker().read(exported["model"], "The exported model")
    )
    (tmp_path / "digits.model.yaml").write_text(CARD)
    scored = worker.run(
        {"operation": "evaluate", "model": str(tmp_path / "digits.onnx"), "data": "digits:val:200"},
        OperationContext(),
    )
    assert metrics["accuracy"] > 0.3, "it has learnt something, so that a swapped channel shows"
    assert scored["metrics"]["top1"]["value"] == pytest.approx(metrics["accuracy"], abs=0.0101)
