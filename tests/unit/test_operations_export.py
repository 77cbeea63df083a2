"""`export`: files that answer what their source does, and say how closely."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from training_cases import linear, nn, torch

from onnx_builder import build_model
from visiondyno import worker
from visiondyno.errors import DatasetError, MissingExtra, ModelError, SpecError
from visiondyno.operations import onnx_files
from visiondyno.operations.context import OperationContext
from visiondyno.operations.onnx_files import differences, serialized, to_half
from visiondyno.operations.worker_files import WorkerFiles
from visiondyno.runtimes.references import shipped_models
from visiondyno.training.onnx_export import export_onnx

pytestmark = pytest.mark.torch

CNN = {
    "type": "sequential",
    "layers": [
        {"type": "conv2d", "in_channels": 3, "out_channels": 4, "kernel_size": 3},
        {"type": "batch_norm2d", "num_features": 4},
        {"type": "relu"},
        {"type": "dropout", "p": 0.5},
        {"type": "adaptive_avg_pool2d", "output_size": 2},
        {"type": "flatten"},
        {"type": "linear", "in_features": 16, "out_features": 3},
    ],
}
ATTENTION = {
    "type": "sequential",
    "layers": [
        {"type": "embedding", "num_embeddings": 6, "embedding_dim": 8},
        {"type": "transformer_encoder_layer", "d_model": 8, "nhead": 2, "dim_feedforward": 16,
         "activation": "gelu", "batch_first": True},
        {"type": "gru", "input_size": 8, "hidden_size": 3, "batch_first": True},
    ],
}  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("VISIONDYNO_BLOBS_URL", raising=False)
    return tmp_path


def export(**payload: Any) -> dict[str, Any]:
    told: list[dict[str, Any]] = []
    answer = worker.run({"operation": "export"} | payload, OperationContext(told.append))
    assert "checking the file" in {one["stage"] for one in told}
    return answer


def module_export(config: Any, shape: list[int], **more: Any) -> dict[str, Any]:
    return export(model_config=config, input_shape=shape, threads=1, **more)


def file_of(answer: dict[str, Any]) -> bytes:
    data = WorkerFiles.of_this_worker().read(answer["model"], "The exported model")
    assert len(data) == answer["size_bytes"]
    return data


def answers(data: bytes, features: Any) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": features})[0]


def test_an_exported_file_answers_what_its_module_predicts(
    capfd: pytest.CaptureFixture[str],
) -> None:
    answer = module_export(CNN, [3, 8, 8], hyperparameters={"seed": 4})
    assert capfd.readouterr() == ("", "")
    data = file_of(answer)
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    assert {
        "operation": "export", "status": "success", "format": "onnx", "precision": "fp32",
        "checked_samples": 8, "input_name": "input", "output_name": "output", "device": "cpu",
    }.items() <= answer.items()  # fmt: skip
    assert answer["opset"] == model.opset_import[0].version
    assert answer["max_abs_difference"] < 1e-6 < answer["max_abs_output"]
    features = np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype(np.float32)
    predicted = worker.run(
        {"operation": "predict", "model_config": CNN, "features": features.tolist(),
         "hyperparameters": {"seed": 4}},
        OperationContext(),
    )  # fmt: skip
    np.testing.assert_allclose(answers(data, features), predicted["outputs"], atol=1e-6)
    source = str(Path(torch.__file__).parent).encode()
    assert source not in data, "the file says nothing of the machine that made it"
    assert b".py" not in data


def test_half_precision_keeps_float32_outside_and_says_how_far_it_is() -> None:
    answer = module_export(CNN, [3, 8, 8], precision="fp16", opset=18)
    model = onnx.load_from_string(file_of(answer))
    assert answer["opset"] == model.opset_import[0].version == 18
    kinds = {
        value.type.tensor_type.elem_type for value in [*model.graph.input, *model.graph.output]
    }
    assert kinds == {onnx.TensorProto.FLOAT}
    weights = {tensor.data_type for tensor in model.graph.initializer}
    assert onnx.TensorProto.FLOAT16 in weights
    assert onnx.TensorProto.FLOAT not in weights
    assert 0 < answer["mean_abs_difference"] <= answer["max_abs_difference"] < 1e-2


def test_whole_numbers_attention_and_recurrence_are_exported() -> None:
    samples = {"features": [[0, 1, 2, 3, 4], [5, 5, 0, 1, 2]], "labels": [0, 1]}
    for more in ({}, {"check_data": samples}):
        answer = module_export(ATTENTION, [5], precision="fp16", **more)
        assert answer["max_abs_difference"] < 1e-2
        assert answer["checked_samples"] == 8


def test_the_check_takes_the_data_given_in_several_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[Any] = []
    real = onnx_files.answers_to_features

    def seen(data: bytes, features: Any, batches: Any, *rest: Any) -> Any:
        sizes.append(list(batches))
        return real(data, features, batches, *rest)

    monkeypatch.setattr("visiondyno.operations.export_module.answers_to_features", seen)
    config = linear(2, 2).model_dump()
    samples = {"features": [[float(i), 1.0] for i in range(300)], "labels": [0] * 300}
    answer = module_export(config, [2], check_data=samples, hyperparameters={"batch_size": 100})
    assert sizes == [[1, 2, 5, 100, 100, 48]]
    assert answer["checked_samples"] == 256
    with pytest.raises(DatasetError, match=r"shape \(2,\), and 'input_shape' is \(3,\)"):
        module_export(config, [3], check_data=samples)


def test_an_exported_program_trains_as_its_source_does() -> None:
    exported = module_export(CNN, [3, 8, 8], format="exported")
    assert {"input_name", "opset"} & exported.keys() == set()
    noise = np.random.default_rng(1).standard_normal((12, 3, 8, 8)).round(3)
    epoch = {
        "operation": "train_epoch",
        "training_data": {"features": noise.tolist(), "labels": [0, 1, 2] * 4},
        "hyperparameters": {"batch_size": 4, "seed": 2},
        "threads": 1,
    }
    source = worker.run(epoch | {"model_config": CNN}, OperationContext())
    first = worker.run(
        {"operation": "train_epoch", "model_config": CNN, "threads": 1,
         "training_data": epoch["training_data"], "hyperparameters": {"seed": 9}},
        OperationContext(),
    )  # fmt: skip
    program = {"type": "exported", "program": exported["model"]}
    again = worker.run(epoch | {"model_config": program}, OperationContext())
    # It has the weights of seed 0, and the source those of its own.
    assert again["metrics"] != source["metrics"]
    state = {key: first[key] for key in ("model_state", "model_state_format")}
    pair = [
        worker.run(epoch | {"model_config": config} | state, OperationContext())
        for config in (CNN, program)
    ]
    assert pair[0]["metrics"] == pair[1]["metrics"]
    assert pair[0]["model_state_sha256"] == pair[1]["model_state_sha256"]
    onnx_file = module_export(program, [3, 8, 8])
    assert onnx_file["max_abs_difference"] < 1e-6


class Eigenvalues(nn.Module):
    def forward(self, x: Any) -> Any:
        return torch.linalg.eigvals(x).real


class Asking(nn.Module):
    def forward(self, x: Any) -> Any:
        return x * 2 if x.sum() > 0 else x


class Answering(nn.Module):
    def forward(self, x: Any) -> Any:
        return {"several": x}


def program_of(module: Any, *shape: int) -> dict[str, str]:
    import base64

    buffer = io.BytesIO()
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(module, (torch.randn(2, *shape),), dynamic_shapes=(batch,))
    torch.export.save(program, buffer)
    return {"type": "exported", "program": base64.b64encode(buffer.getvalue()).decode()}


def test_an_operator_that_onnx_lacks_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    config = program_of(Eigenvalues(), 3, 3)
    capfd.readouterr()
    with pytest.raises(ModelError) as caught:
        module_export(config, [3, 3])
    assert "operator 'aten.linalg_eig' has no counterpart in ONNX" in caught.value.message
    assert "\n" not in caught.value.message
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Asking(), "what it does depends on the numbers that it sees"),
        (Answering(), "the model answers dict"),
    ],
)
def test_why_a_module_cant_be_exported_is_one_sentence(
    module: Any, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        export_onnx(module, torch.randn(2, 3))
    assert "\n" not in caught.value.message
    assert module.training
    assert capfd.readouterr() == ("", "")


def test_export_without_onnxscript_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtra, match=r"'visiondyno\[torch\]'"):
        export_onnx(nn.Linear(2, 2), torch.randn(2, 2))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"input_shape": [4]}, "can't take a batch of shape"),
        ({"format": "exported", "precision": "fp16"}, "are for 'format': 'onnx'"),
        ({"format": "exported", "opset": 20}, "are for 'format': 'onnx'"),
        ({"opset": 17}, "'opset'"),
        ({"format": "tflite"}, "'format'"),
        ({"input_shape": [0]}, "'input_shape.0'"),
    ],
)
def test_a_wrong_export_is_named(more: dict[str, Any], words: str) -> None:
    payload = {"operation": "export", "model_config": linear(2, 2).model_dump(), "input_shape": [2]}
    with pytest.raises((SpecError, ModelError), match=words):
        worker.run(payload | more, OperationContext())


# ---- the check itself


def test_a_file_that_answers_otherwise_is_refused() -> None:
    one = np.array([[1.0, 2.0]], np.float32)
    assert differences([one], [one + np.float32(0.5)], "fp16") == {
        "max_abs_difference": 0.5, "mean_abs_difference": 0.5, "max_abs_output": 2.0,
    }  # fmt: skip
    with pytest.raises(ModelError, match=r"differ by up to 0\.5"):
        differences([one], [one + np.float32(0.5)], "fp32")
    with pytest.raises(ModelError, match=r"answers shapes \[\(2,\)\]"):
        differences([one], [one[0]], "fp32")
    with pytest.raises(ModelError, match="exported file in fp16 answers NaN or infinity"):
        differences([one], [one * np.float32("inf")], "fp16")
    with pytest.raises(ModelError, match="source answers NaN"):
        differences([one * np.float32("nan")], [one], "fp32")


def test_a_number_beyond_half_precision_isnt_silently_lost() -> None:
    config = {"type": "sequential", "layers": [
        {"type": "linear", "in_features": 2, "out_features": 2},
        {"type": "threshold", "threshold": 1e6, "value": 3e5},
    ]}  # fmt: skip
    # fp16 ends at 65504: the file says the nearest there is, and the difference says so.
    answer = module_export(config, [2], precision="fp16")
    assert answer["max_abs_difference"] > 200_000
    assert answer["max_abs_output"] == pytest.approx(300_000)


def test_a_file_that_onnx_runtime_cant_run_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    features = np.zeros((3, 2), np.float32)
    with pytest.raises(ModelError, match=r"ONNX Runtime \d.+ can't run the file"):
        onnx_files.answers_to_features(b"no model", features, [1, 2], OperationContext(), 1)
    # A crash in native code is the child's alone.
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    real = onnx_files.run_in_child

    def dying(_: str, payload: dict[str, Any], **more: Any) -> Any:
        return real("sandbox_entries:die", payload | {"signal": "SIGSEGV"}, **more)

    monkeypatch.setattr(onnx_files, "run_in_child", dying)
    with pytest.raises(ModelError, match=r"ONNX Runtime dies of the exported file \(.*SIGSEGV"):
        onnx_files.answers_to_features(b"", features, [3], OperationContext(), None)


def test_a_graph_that_cant_be_halved_or_written_is_told() -> None:
    with pytest.raises(ModelError, match="can't be converted to fp16"):
        to_half("no model")

    class Huge:
        def ByteSize(self) -> int:  # noqa: N802 (protobuf's name)
            return 3 * 10**9

    with pytest.raises(ModelError, match=r"3\.0 GB"):
        serialized(Huge())


# ---- model references


def classifier(folder: Path, **more: Any) -> Path:
    base = np.array([[0.1, 0.7, 0.2]], np.float32)
    path = build_model(folder / "three.onnx", base, slope=base, batch=None, final="Softmax", **more)
    card = """
schema: visiondyno.model/1
task: classification
head: classification
classes: [a, b, c]
input: {height: 32, width: 32, resize: stretch}
"""
    path.with_suffix("").with_suffix(".model.yaml").write_text(card)
    return path


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_onnx_model_is_exported_with_its_card(tmp_path: Path, precision: str) -> None:
    answer = export(model=str(classifier(tmp_path)), precision=precision)
    elsewhere = tmp_path / "elsewhere.onnx"
    elsewhere.write_bytes(file_of(answer))
    assert answer["checked_samples"] == 8
    assert answer["input_name"] == "images"
    assert (answer["max_abs_difference"] == 0) is (precision == "fp32")
    pixels = io.BytesIO()
    from PIL import Image

    Image.new("RGB", (32, 32), (9, 9, 9)).save(pixels, "png")
    blob = WorkerFiles.of_this_worker().publish(pixels.getvalue())
    predicted = worker.run(
        {"operation": "predict", "model": str(elsewhere), "images": [blob], "confidence": 0},
        OperationContext(),
    )
    assert predicted["predictions"][0]["names"] == ["b", "c", "a"]


def test_a_shipped_detector_is_halved() -> None:
    if "street-n" not in shipped_models():
        pytest.skip("this checkout has no shipped detector")
    answer = export(model="visiondyno:street-n", precision="fp16")
    model = onnx.load_from_string(file_of(answer))
    assert json.loads({p.key: p.value for p in model.metadata_props}["visiondyno.model"])["classes"]
    assert answer["mean_abs_difference"] < 0.1
    assert answer["max_abs_output"] > 1


@pytest.mark.parametrize(
    ("model", "kind", "words"),
    [
        ("fake:detection", SpecError, "fake:detection can't be exported"),
        ("ultralytics:no-such", ModelError, "no-such"),
        ("no/such.onnx", ModelError, "no model file no/such.onnx"),
    ],
)
def test_other_references_arent_exported(model: str, kind: Any, words: str) -> None:
    with pytest.raises(kind, match=words):
        export(model=model)


def test_a_model_that_isnt_in_fp32_isnt_exported(tmp_path: Path) -> None:
    path = classifier(tmp_path, dtype="float16")
    card = path.with_suffix("").with_suffix(".model.yaml")
    card.write_text(card.read_text().replace("stretch}", "stretch, dtype: float16}"))
    with pytest.raises(ModelError, match="computes in fp16; only models in fp32"):
        export(model=str(path))
