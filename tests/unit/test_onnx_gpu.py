"""How sessions for a GPU are asked for and checked, as far as that goes without one."""

import os
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from onnx_builder import build_model
from visiondyno.errors import MissingExtra, ModelError, StorageFull, Unavailable
from visiondyno.runtimes import onnx_gpu
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.graph_facts import GraphFacts
from visiondyno.runtimes.model_files import digest_in_description, model_files, model_size_bytes
from visiondyno.runtimes.onnx_file import read_onnx
from visiondyno.runtimes.onnx_gpu import CPU, CUDA, TENSORRT, Engine, Execution, execution
from visiondyno.runtimes.references import resolve_reference
from visiondyno.runtimes.registry import load_model

GPU = LoadOptions(device="cuda:2")
ENGINES: tuple[Engine, ...] = ("cuda-graph", "tensorrt", "tensorrt-fp16")


def write(folder: Path, operator: str = "Identity", domain: str = "") -> Path:
    """A file whose one operator is `operator`."""
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(operator, ["images"], ["output"], name="only", domain=domain)],
        "one",
        [info("images", TensorProto.FLOAT, [1, 3, 32, 32])],
        [info("output", TensorProto.FLOAT, [1, 3, 32, 32])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    path = folder / f"{operator}.onnx"
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def facts(tmp_path: Path) -> GraphFacts:
    return read_onnx(write(tmp_path))


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An ONNX Runtime that says it has every provider."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "placeholder")
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE")


@pytest.mark.parametrize("engine", ENGINES)
def test_on_the_processor_the_prefix_is_refused(engine: Engine, tmp_path: Path) -> None:
    path = write(tmp_path)
    with pytest.raises(Unavailable, match=f"can't run '{engine}:'.*--device cuda"):
        load_model(f"{engine}:{path}")


@pytest.mark.parametrize("engine", ENGINES)
def test_without_the_provider_the_extra_is_named(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    with pytest.raises(MissingExtra, match=r"extra 'gpu'.*pip uninstall --yes onnxruntime &&"):
        load_model(f"{engine}:{write(tmp_path)}", GPU)


def test_tensorrt_is_claimed_only_where_it_is_offered(
    facts: GraphFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    with pytest.raises(Unavailable, match="TensorRT isn't in this ONNX Runtime"):
        execution(GPU, "tensorrt", facts)
    assert execution(GPU, "cuda-graph", facts).captures


@pytest.mark.usefixtures("offered")
def test_what_each_engine_asks_for(facts: GraphFacts) -> None:
    limited = LoadOptions(device="cuda:2", gpu_memory_limit_bytes=2_000_000_000)
    cuda = {"device_id": "2", "use_tf32": "0"}
    assert execution(LoadOptions(), "plain", facts) == Execution(((CPU, {}),))
    assert execution(GPU, "plain", facts) == Execution(((CUDA, cuda),), 2)
    graphs = execution(GPU, "cuda-graph", facts)
    assert graphs.providers == ((CUDA, cuda | {"enable_cuda_graph": "1"}),)
    plan = execution(limited, "tensorrt-fp16", facts)
    (name, settings), (second, second_settings) = plan.providers
    assert (name, second, plan.provider) == (TENSORRT, CUDA, TENSORRT)
    assert settings["trt_fp16_enable"] == settings["trt_engine_cache_enable"] == "1"
    assert settings["trt_max_workspace_size"] == second_settings["gpu_mem_limit"] == "2000000000"
    assert any("2.00 GB" in note for note in plan.notes)


@pytest.mark.usefixtures("offered")
def test_engines_of_different_models_and_precisions_lie_apart(
    facts: GraphFacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = read_onnx(write(tmp_path, "Relu"))
    folders = []
    for one in (facts, other):
        for engine in ("tensorrt", "tensorrt-fp16"):
            for _ in range(2):
                settings = execution(GPU, engine, one).providers[0][1]
            folders.append(Path(settings["trt_engine_cache_path"]))
    # What the user asked of NVIDIA's libraries is left, told, and kept apart as well.
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    rounded = execution(GPU, "tensorrt", facts)
    folders.append(Path(rounded.providers[0][1]["trt_engine_cache_path"]))
    assert len(set(folders)) == 5
    assert all(folder.is_dir() and tmp_path in folder.parents for folder in folders)
    assert any("may round" in note for note in rounded.notes)


@pytest.mark.usefixtures("offered")
def test_fp32_by_tensorrt_is_fp32_unless_the_user_says_otherwise(facts: GraphFacts) -> None:
    execution(GPU, "plain", facts)
    assert "NVIDIA_TF32_OVERRIDE" not in os.environ
    assert any("TensorFloat-32" in note for note in execution(GPU, "tensorrt", facts).notes)
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"


@pytest.mark.usefixtures("offered")
def test_a_cache_that_cannot_be_written_is_named(
    facts: GraphFacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(StorageFull, match="set XDG_CACHE_HOME"):
        execution(GPU, "tensorrt", facts)


@pytest.mark.usefixtures("offered")
def test_what_depends_on_the_data_is_not_captured(tmp_path: Path) -> None:
    facts = read_onnx(write(tmp_path, "NonZero"))
    with pytest.raises(ModelError, match="NonZero decides by the data"):
        execution(GPU, "cuda-graph", facts)


@pytest.mark.usefixtures("offered")
def test_a_file_with_an_engine_inside_is_run_by_tensorrt_alone(tmp_path: Path) -> None:
    facts = read_onnx(write(tmp_path, "EPContext", "com.microsoft"))
    plan = execution(GPU, "plain", facts)
    assert [name for name, _ in plan.providers] == [TENSORRT, CUDA]
    assert "trt_engine_cache_path" not in plan.providers[0][1]
    with pytest.raises(ModelError, match="compiled engine already"):
        execution(GPU, "tensorrt-fp16", facts)
    with pytest.raises(Unavailable, match="give --device cuda"):
        execution(LoadOptions(), "plain", facts)


def test_a_real_session_tells_where_its_operators_run(tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(onnx_gpu.RECORD_PLACEMENT, "1")
    session = onnxruntime.InferenceSession(str(write(tmp_path, "Relu")), options, providers=[CPU])
    found = onnx_gpu.placement(session)
    assert found == Counter({(CPU, "Relu"): 1})
    plan = Execution(((CUDA, {}),), 0)
    # Everything on the processor, though a GPU was asked for.
    with pytest.raises(ModelError, match="None of the model's 1 operators"):
        onnx_gpu.placement_notes(found, plan)
    with pytest.raises(Unavailable, match=f"couldn't start {CUDA}"):
        onnx_gpu.require_providers(session, plan, "cuda")
    assert onnx_gpu.placement(SimpleNamespace()) is None


def test_operators_elsewhere_are_told() -> None:
    plan = Execution(((TENSORRT, {}), (CUDA, {})), 0)
    found = Counter({(TENSORRT, "Conv"): 90, (CUDA, "TopK"): 2})
    found.update({(CPU, kind): 1 for kind in ("Shape", "Gather", "Cast", "Less", "Range", "Loop")})
    named = "Shape, Gather, Cast, Less, Range, …"
    assert onnx_gpu.placement_notes(found, plan) == (
        f"6 of 98 operators run by {CPU} instead of {TENSORRT}: {named}.",
        f"2 of 98 operators run by {CUDA} instead of {TENSORRT}: TopK.",
    )
    assert onnx_gpu.placement_notes(found, Execution(((CPU, {}),))) == ()
    assert "doesn't tell" in onnx_gpu.placement_notes(None, plan)[0]
    assert onnx_gpu.placement_notes(Counter(), plan) == ()


def test_looking_for_libraries_prints_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load libcudnn"))
    onnx_gpu.preload_libraries()
    monkeypatch.delattr(onnxruntime, "preload_dlls")
    onnx_gpu.preload_libraries()
    assert capsys.readouterr() == ("", "")


def test_prefixed_files_are_told_without_loading(tmp_path: Path) -> None:
    path = build_model(tmp_path / "m.onnx", np.zeros((1, 4), np.float32))
    plain = resolve_reference(str(path))
    for engine in ENGINES:
        prefixed = resolve_reference(f"{engine}:{path}")
        assert (prefixed.runtime, prefixed.path) == (engine, path)
        assert model_files(prefixed) == model_files(plain)
        assert model_size_bytes(prefixed) == model_size_bytes(plain)
        assert digest_in_description(prefixed) == digest_in_description(plain)
