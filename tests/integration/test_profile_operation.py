"""`profile` of real models by ONNX Runtime and OpenVINO, and the command around it."""

import json
import math
import time

import cv2
import numpy as np
import onnx
import pytest

from onnx_builder import build_model
from tiny_models import detector_card, write_detector
from visiondyno.cli import main
from visiondyno.errors import ModelError, SpecError, Unavailable
from visiondyno.operations.context import OperationContext
from visiondyno.probes import peaks
from visiondyno.report.profile_result import Profile
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.model_cards import METADATA_KEY
from visiondyno.runtimes.registry import load_model
from visiondyno.worker import run

FEW = {"operation": "profile", "runs": 5, "warm_up_runs": 1, "threads": 1}


@pytest.fixture(autouse=True)
def _small_peaks(monkeypatch):
    """What the machine can do is another test's; a cache's worth of copying takes its time."""
    monkeypatch.setattr(peaks, "SIDE", 128)
    monkeypatch.setattr(peaks, "_TIMES_CACHE", 0)


@pytest.fixture(scope="module")
def yolox(shared_testdata):
    return shared_testdata / "models/yolox_nano_416.onnx"


def _profile(model, **given):
    output = run({**FEW, "model": str(model), **given}, OperationContext())
    assert output["status"] == "success"
    return Profile.model_validate(output["profile"])


@pytest.fixture(scope="module")
def by_onnxruntime(yolox):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peaks, "SIDE", 128)
        return _profile(yolox)


def test_operators_add_up_to_the_run_that_they_are_of(by_onnxruntime):
    times = by_onnxruntime.times_ms
    assert times.operators == pytest.approx(sum(row.ms for row in by_onnxruntime.operators))
    # Whatever else this machine does meanwhile: inside each profiled run, and most of it.
    assert 0.5 * times.profiled < times.operators < 1.5 * times.profiled
    assert times.inference > 0


def test_each_profiled_run_holds_its_operators(yolox):
    with load_model(str(yolox), LoadOptions(intra_op_threads=1, profile=True)) as model:
        prepared = model.preprocess([_noise(model)])
        walls = []
        for _ in range(4):
            began = time.perf_counter()
            model.infer(prepared)
            walls.append(time.perf_counter() - began)
        found = model.operator_times()
    totals = [
        sum(one.seconds for one in found if one.run == run_number)
        for run_number in range(len(walls))
    ]
    assert all(total <= wall for total, wall in zip(totals, walls, strict=True))
    # The system may take the processor away between two operators of some.
    assert max(total / wall for total, wall in zip(totals, walls, strict=True)) > 0.5


def test_operations_are_those_of_its_authors(by_onnxruntime):
    # YOLOX's table says 1.08 GFLOPs at 416: two for each multiply-add, and batch norms, which are
    # folded into the convolutions here.
    assert by_onnxruntime.multiply_add_gflop == pytest.approx(1.08, rel=0.05)
    assert by_onnxruntime.uncounted_share == 0
    assert by_onnxruntime.gflop > by_onnxruntime.multiply_add_gflop


def test_fused_and_reordered_nodes_are_named_as_executed(by_onnxruntime):
    kinds = {row.kind for row in by_onnxruntime.kinds}
    assert {"Conv", "MaxPool", "Concat"} <= kinds
    assert all(row.inputs and row.outputs for row in by_onnxruntime.operators)
    first = next(row for row in by_onnxruntime.operators if row.kind == "Conv")
    assert first.limit in ("compute", "memory")
    assert first.limit_share > 0


def test_openvino_tells_of_its_own_graph(yolox):
    pytest.importorskip("openvino")
    profile = _profile(f"openvino:{yolox}")
    assert "openvino" in profile.peaks.compute_method
    assert profile.multiply_add_gflop == pytest.approx(1.08, rel=0.05)
    assert 0 < profile.times_ms.operators < 1.5 * profile.times_ms.profiled
    assert "Convolution" in {row.kind for row in profile.kinds}


def _noise(model):
    size = model.description.card.input
    return np.random.default_rng(0).integers(0, 256, (size.height, size.width, 3), dtype=np.uint8)


@pytest.fixture
def detector(tmp_path):
    return write_detector(tmp_path / "detector.onnx", [[4, 4, 20, 20, 0.9, 0]])


def test_images_of_a_data_set_are_run_and_repeated(detector):
    profile = _profile(detector, data="street:demo", batch_size=3)
    assert profile.data == "the first 3 images of street:demo"
    assert profile.batch_size == 3
    assert profile.operators


def test_a_fixed_batch_is_run_in_pieces(detector):
    profile = _profile(detector, batch_size=2)
    assert {row.calls for row in profile.operators} <= {1, 2}
    assert all(math.isfinite(row.ms) for row in profile.operators)
    assert any("a batch of 2 is run in 2 pieces." in note for note in profile.notes)


def test_a_larger_fixed_batch_is_filled_up(tmp_path):
    path = build_model(
        tmp_path / "four.onnx",
        np.zeros((1, 1, 6), np.float32),
        batch=4,
        metadata={METADATA_KEY: detector_card().model_dump_json(by_alias=True)},
    )
    notes = " ".join(_profile(path, batch_size=1).notes)
    assert "takes 4 images at once: a batch of 1 is run in 1 piece, filled up with 3 empty" in notes


def test_images_without_labels_are_run_too(detector, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), np.zeros((40, 30, 3), np.uint8))
    (folder / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    profile = _profile(detector, data=str(folder), batch_size=2)
    assert profile.data == f"the first image of {folder}, 1 bad image left out, repeated"


def test_what_has_no_profiler_says_so():
    with pytest.raises(Unavailable, match=r"fake:detection can't be profiled.*dyno export"):
        run({**FEW, "model": "fake:detection"}, OperationContext())


def test_a_model_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ModelError, match="no model file"):
        run({**FEW, "model": str(tmp_path / "none.onnx")}, OperationContext())


@pytest.mark.parametrize("given", [{"runs": 1}, {"batch_size": 0}, {"device": "tpu"}])
def test_bad_options_are_refused(given):
    with pytest.raises(SpecError):
        run({**FEW, "model": "m.onnx", **given}, OperationContext())


def _dyno(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["profile", *map(str, arguments)])
    return ended.value.code


def test_the_command_writes_page_and_record(detector, tmp_path, capsys):
    out = tmp_path / "new" / "folder"
    assert _dyno(detector, "--runs", 5, "--warm-up", 1, "--threads", 1, "--out", out) == 0
    told = capsys.readouterr().out
    assert "The operators' times add up to" in told
    assert str(out / "profile.html") in told.replace("\n", "")
    record = Profile.model_validate(json.loads((out / "profile.json").read_text()))
    assert record.threads == 1
    assert "detector.onnx" in (out / "profile.html").read_text()


def test_names_in_brackets_and_colons_are_shown_as_they_are(detector, tmp_path, capsys):
    model = onnx.load(detector)
    model.graph.node[-1].name = "head[/bold]:x:"
    path = tmp_path / "net[v2].onnx"
    onnx.save(model, path)
    out = tmp_path / "out"
    assert _dyno(path, "--runs", 5, "--warm-up", 1, "--threads", 1, "--out", out) == 0
    told = capsys.readouterr().out
    assert "net[v2].onnx" in told
    assert "head[/bold]:x:" in told.replace("│", "").replace("\n", "") or "head[" in told


def test_the_command_prints_json_alone(detector, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert _dyno(detector, "--runs", 5, "--warm-up", 1, "--json") == 0
    assert Profile.model_validate_json(capsys.readouterr().out).runs == 5
    assert not (tmp_path / "dyno-profile").exists()


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_run(detector, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert _dyno(detector, "--out", tmp_path / "file" / "below") == 2
    assert "give another --out" in capsys.readouterr().err


def test_profiles_of_many_runs_say_how_many_were_profiled(detector):
    profile = _profile(detector, runs=203)
    assert "200 of the 203 runs were repeated with the profiler." in profile.notes


def test_a_model_in_half_precision_is_not_held_to_peaks_of_another(tmp_path):
    card = detector_card()
    halves = card.model_copy(update={"input": card.input.model_copy(update={"dtype": "float16"})})
    base = np.zeros((1, 1, 6), np.float32)
    path = build_model(
        tmp_path / "half.onnx",
        base,
        dtype="float16",
        metadata={METADATA_KEY: halves.model_dump_json(by_alias=True)},
    )
    profile = _profile(path)
    assert profile.precision == "fp16"
    assert any("computes in fp16" in note for note in profile.notes)
    assert all(row.limit is None for row in profile.operators)
