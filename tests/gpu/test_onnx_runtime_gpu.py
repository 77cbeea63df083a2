"""ONNX Runtime on a real GPU: bound memory, captured graphs, TensorRT, against the processor."""

from pathlib import Path

import numpy as np
import pytest

from contracts.runtime_contract import some_images
from visiondyno.predictions import Detections
from visiondyno.runtimes.base import LoadedModel, LoadOptions
from visiondyno.runtimes.references import resolve_reference
from visiondyno.runtimes.registry import load_model

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
OFFERED = onnxruntime.get_available_providers()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(CUDA not in OFFERED, reason="this ONNX Runtime has no CUDA provider"),
]
needs_tensorrt = pytest.mark.skipif(
    TENSORRT not in OFFERED, reason="this ONNX Runtime has no TensorRT provider"
)
GPU = LoadOptions(device="cuda")
SHIPPED = "visiondyno:street-n"


def model_file() -> Path:
    path = resolve_reference(SHIPPED).path
    assert path is not None
    return path


def largest_difference(model: LoadedModel, batches: tuple[int, ...]) -> float:
    """Of the outputs to those on the processor, over batches that come again."""
    found = 0.0
    with load_model(SHIPPED) as reference:
        for batch in batches:
            prepared = reference.preprocess(some_images(batch))
            for left, right in zip(model.infer(prepared), reference.infer(prepared), strict=True):
                found = max(found, float(np.abs(left - right).max()))
    return found


# Captured in the second inference of a shape, replayed in the third.
BATCHES = (1, 1, 1, 4, 4, 4, 2, 1, 4)


@pytest.mark.parametrize("prefix", ["", "cuda-graph:"])
def test_the_cuda_provider_answers_what_the_processor_answers(prefix: str) -> None:
    with load_model(f"{prefix}{model_file()}", GPU) as model:
        assert model.description.provider == CUDA
        assert largest_difference(model, BATCHES) < 0.05


@needs_tensorrt
@pytest.mark.parametrize(("prefix", "bound"), [("tensorrt:", 0.05), ("tensorrt-fp16:", 5.0)])
def test_tensorrt_answers_nearly_so_and_keeps_its_engine(
    prefix: str, bound: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with load_model(f"{prefix}{model_file()}", GPU) as model:
        assert model.description.provider == TENSORRT
        assert largest_difference(model, (1, 1)) < bound
    assert list(tmp_path.rglob("*.engine"))


def test_boxes_of_a_captured_graph_are_the_processors() -> None:
    images = some_images(3)
    with load_model(SHIPPED) as here, load_model(f"cuda-graph:{model_file()}", GPU) as there:
        for _ in range(3):
            for left, right in zip(here.predict(images), there.predict(images), strict=True):
                assert isinstance(left, Detections)
                assert isinstance(right, Detections)
                best = slice(0, 5)
                np.testing.assert_allclose(left.scores[best], right.scores[best], atol=1e-3)
