"""Loading on a GPU where there is none: everything but the provider itself is real."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from contracts.runtime_contract import assert_same, some_images
from visiondyno.errors import ModelError, Unavailable
from visiondyno.runtimes import onnx as onnx_runtime
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.onnx_binding import BoundSession
from visiondyno.runtimes.onnx_gpu import CPU, CUDA, TENSORRT
from visiondyno.runtimes.references import resolve_reference
from visiondyno.runtimes.registry import load_model

GPU = LoadOptions(device="cuda")
SHIPPED = "visiondyno:street-n"
REAL = onnxruntime.InferenceSession


def shipped_file() -> Path:
    path = resolve_reference(SHIPPED).path
    assert path is not None
    return path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """A session of the processor that says it has the providers asked for; how it was asked."""
    calls: list[Any] = []

    def session(path: str, options: Any, providers: Any, enable_fallback: int) -> Any:
        calls.append((providers, enable_fallback))
        made = REAL(path, options, providers=[CPU])
        made.get_providers = lambda: [*(name for name, _ in providers), CPU]  # type: ignore[method-assign]
        return made

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    return calls


def on_the_processor(session: Any, device: str, number: int, *, captures: bool) -> BoundSession:
    assert (device, number) == ("cuda", 0)
    return BoundSession(session, "cpu", captures=captures)


@pytest.mark.parametrize(
    ("prefix", "names", "precision"),
    [
        ("", [CUDA], "fp32"),
        ("cuda-graph:", [CUDA], "fp32"),
        ("tensorrt:", [TENSORRT, CUDA], "fp32"),
        ("tensorrt-fp16:", [TENSORRT, CUDA], "mixed"),
    ],
)
def test_a_model_runs_on_bound_memory_and_says_how(
    prefix: str,
    names: list[str],
    precision: str,
    asked: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    placed = Counter({(names[0], "Conv"): 20, (CPU, "Shape"): 1})
    monkeypatch.setattr(onnx_runtime, "BoundSession", on_the_processor)
    monkeypatch.setattr(onnx_runtime, "placement", lambda _: placed)
    images = some_images(3)
    with load_model(f"{prefix}{shipped_file()}", GPU) as model, load_model(SHIPPED) as plain:
        said = model.description
        assert (said.device, said.provider, said.precision) == ("cuda", names[0], precision)
        assert f"1 of 21 operators run by {CPU} instead of {names[0]}: Shape." in said.notes
        for _ in range(3):
            for left, right in zip(model.predict(images), plain.predict(images), strict=True):
                assert_same(left, right)
    providers, fallback = asked[0]
    assert [name for name, _ in providers] == names
    assert fallback == 0


@pytest.mark.usefixtures("asked")
def test_a_session_that_runs_all_on_the_processor_is_an_error() -> None:
    with pytest.raises(ModelError, match=f"can be run by {CUDA}"):
        load_model(SHIPPED, GPU)


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("CUDA failure 100: no CUDA-capable device is detected", Unavailable, "can't be used here"),
        ("cannot use the graph capture feature: CUDAExecutionProvider", ModelError, "can't load"),
    ],
)
@pytest.mark.usefixtures("asked")
def test_what_the_driver_refuses_is_apart_from_what_the_model_cannot(
    text: str, error: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: Any, **__: Any) -> Any:
        raise RuntimeError(text)

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuses)
    with pytest.raises(error, match=said):
        load_model(f"cuda-graph:{shipped_file()}", GPU)


def test_a_name_is_no_file_for_a_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    with pytest.raises(ModelError, match=r"give the path of an \.onnx file"):
        load_model("tensorrt:yolov8n", GPU)


def test_tensors_of_text_stay_unbound() -> None:
    class Text:
        type = "tensor(string)"

    class Session:
        def get_inputs(self) -> list[Text]:
            return [Text()]

        def get_outputs(self) -> list[Text]:
            return []

    plan = onnx_runtime.Execution(((CUDA, {}),), 0)
    assert onnx_runtime._bound(Session(), plan) is None


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int8", "uint16", "int32", "int64", "float16", "float32", "float64"]
)
def test_every_type_of_number_can_be_bound(dtype: str) -> None:
    from onnx import helper

    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Concat", ["x", "x"], ["y"], axis=0)],
        "twice",
        [info("x", kind, ["n"])],
        [info("y", kind, ["m"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    session = REAL(model.SerializeToString(), providers=[CPU])
    values = np.arange(4).astype(dtype)
    for captures in (False, True):
        bound = BoundSession(session, "cpu", captures=captures)
        for _ in range(3):
            (found,) = bound.run(["y"], {"x": values})
            assert found.dtype == values.dtype
            np.testing.assert_array_equal(found, np.concatenate([values, values]))
