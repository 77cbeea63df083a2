"""`quantize` and `dyno quantize`: real models and images, what is in files and what is told."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from onnx_builder import build_model
from visiondyno.cli import dyno, quantize
from visiondyno.datasets.registry import open_dataset
from visiondyno.errors import Cancelled, DatasetError, ModelError, SpecError
from visiondyno.operations.context import OperationContext
from visiondyno.operations.quantize import run
from visiondyno.operations.worker_files import WorkerFiles
from visiondyno.report.write import read_report
from visiondyno.runtimes.made_model import read_made
from visiondyno.runtimes.model_cards import METADATA_KEY
from visiondyno.runtimes.onnx_file import read_onnx
from visiondyno.runtimes.references import resolve_reference
from visiondyno.sandbox import run_in_child
from visiondyno.specs.model_changes import QuantizeInput
from visiondyno.specs.operations import parse

MODEL = "visiondyno:street-n"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Where this module's workers keep their blobs."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("home")
        patch.setenv("VISIONDYNO_HOME", str(folder))
        patch.chdir(folder)
        yield folder


def quantized(model=MODEL, context=None, **given):
    spec = parse(QuantizeInput, {"model": str(model), **given}, "wrong")
    return run(spec, context or OperationContext())


def loaded(output):
    data = WorkerFiles.of_this_worker().read(output["model"], "The model")
    return onnx.ModelProto.FromString(data)


def static(**given):
    calibration = {"calibration_data": "street:train", "calibration_images": 4}
    return quantized(**{**calibration, "calibration": "min_max", **given})


@pytest.fixture(scope="module")
def street(home):
    """street-n in static int8, checked on labelled scenes."""
    return static(data="street:demo", check_images=24, calibration_images=12,
                  calibration="percentile")  # fmt: skip


def test_static_int8_is_small_valid_and_carries_its_card(street):
    model = loaded(street)
    onnx.checker.check_model(model)
    assert street["size_bytes"] < 0.45 * street["source_size_bytes"]
    assert street["files"] == {"quantized.onnx": street["model"]}
    assert street["precision"] == "int8"
    assert METADATA_KEY in {prop.key for prop in model.metadata_props}
    types = {
        value.type.tensor_type.elem_type for value in [*model.graph.input, *model.graph.output]
    }
    assert types == {TensorProto.FLOAT}
    assert {one.domain for one in model.opset_import} == {""}


def test_the_loss_of_accuracy_is_small_and_measured(street):
    check = street["check"]
    assert check["images"] == 24
    found = check["metric_differences"]["map_50_95"]
    made, source = check["metrics"]["map_50_95"], check["source_metrics"]["map_50_95"]
    assert found["difference"] == pytest.approx(made - source)
    assert abs(found["difference"]) < 0.03
    low, high = found["interval"]
    assert low < found["difference"] < high
    assert street["max_abs_difference"] > 0


def test_all_convolutions_are_quantized_and_the_head_is_not(street):
    source = onnx.load(str(resolve_reference(MODEL).path))
    convolutions = sum(node.op_type == "Conv" for node in source.graph.node)
    assert street["quantized"]["Conv"] == convolutions
    kept = {(one["type"], one["reason"]) for one in street["kept_float"]}
    assert {("Sigmoid", "head"), ("Softplus", "head")} <= kept
    graph = loaded(street).graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    (sigmoid,) = [node for node in graph.node if node.op_type == "Sigmoid"]
    assert makers[sigmoid.input[0]] == "Concat"
    weights = {tensor.data_type for tensor in graph.initializer if len(tensor.dims) == 4}
    assert weights == {TensorProto.INT8}


def scales_of(output):
    graph = loaded(output).graph
    scales = {node.input[1] for node in graph.node if node.op_type == "DequantizeLinear"}
    return [int(np.prod(one.dims)) for one in graph.initializer if one.name in scales]


def test_entropy_chooses_ranges_of_its_own(street):
    output = static(calibration="entropy", calibration_images=2)
    assert output["calibration"] == {**street["calibration"], "method": "entropy", "images": 2}
    assert output["max_abs_difference"] < 0.2 * output["max_abs_output"]
    assert output["model"] != street["model"]


def test_types_and_scales_are_as_asked_for_and_told(street):
    output = static(activations="int8", weight_bits=7, per_channel=False, calibration_images=1)
    assert max(scales_of(street)) > 1
    assert max(scales_of(output)) == 1
    assert output["size_bytes"] < street["size_bytes"]
    assert output["calibration"]["activations"] == "int8"
    assert any("as was asked for" in note for note in output["notes"])
    graph = loaded(output).graph
    weights = [numpy_helper.to_array(t) for t in graph.initializer if len(t.dims) == 4]
    assert max(int(np.abs(weight.astype(int)).max()) for weight in weights) <= 64
    zeros = {node.input[2] for node in graph.node if node.op_type == "QuantizeLinear"}
    kinds = {tensor.data_type for tensor in graph.initializer if tensor.name in zeros}
    assert kinds == {TensorProto.INT8}


def test_images_that_both_calibrate_and_score_are_told(street, tmp_path):
    dataset = open_dataset("street:demo")
    folder = tmp_path / "ranges"
    folder.mkdir()
    for index in range(3):  # under other names
        shutil.copy(dataset.sample(index).path, folder / f"camera {index}.png")
    output = static(calibration_data=str(folder), data="street:demo", check_images=4)
    (warning,) = [note for note in output["notes"] if note.startswith("Warning")]
    assert not [note for note in street["notes"] if note.startswith("Warning")]
    assert warning.startswith("Warning: 3 of the 200 images of street:demo are among the 3")


def test_dynamic_int8_says_what_it_is_slow_at(home):
    output = quantized(method="dynamic_int8")
    assert output["quantized"] == {"Conv": 36}
    assert output["size_bytes"] < 0.45 * output["source_size_bytes"]
    assert any("slower than float32" in note for note in output["notes"])
    assert "calibration" not in output


def test_dynamic_int8_of_products_leaves_convolutions_alone(home, tmp_path):
    output = quantized(products(tmp_path / "products.onnx"), method="dynamic_int8")
    assert output["quantized"] == {"MatMul": 1}
    assert any("convolutions stay in floating point" in note for note in output["notes"])


def test_a_fixed_batch_and_an_old_opset_are_calibrated_too(home, tmp_path):
    path = products(tmp_path / "products.onnx", batch=3, opset=11)
    output = static(model=path, calibration_images=2)
    assert any(note.startswith("Opset 11 became 13") for note in output["notes"])
    assert output["quantized"]["MatMul"] == 1
    assert loaded(output).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 3


@pytest.mark.torch
def test_fp16_halves_the_file(home):
    output = quantized(method="fp16")
    assert output["precision"] == "fp16"
    assert output["size_bytes"] < 0.56 * output["source_size_bytes"]
    assert any("no faster" in note for note in output["notes"])


@pytest.mark.torch
def test_fp16_takes_weights_that_two_operators_share_which_stay_float(home, tmp_path):
    # As torch's exporter writes two upsamplings; the converter casts their scales twice.
    graph = helper.make_graph(
        [
            helper.make_node("Resize", ["images", "", "twice"], ["a"], mode="nearest"),
            helper.make_node("Resize", ["a", "", "twice"], ["b"], mode="nearest"),
            helper.make_node("GlobalAveragePool", ["b"], ["c"]),
            helper.make_node("Flatten", ["c"], ["d"]),
            helper.make_node("MatMul", ["d", "weights"], ["output"]),
        ],
        "upsampled",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", 5])],
        [
            numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "twice"),
            numpy_helper.from_array(np.ones((3, 5), np.float32), "weights"),
        ],
        value_info=[helper.make_tensor_value_info("twice", TensorProto.FLOAT, [4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, CARD)
    path = tmp_path / "upsampled.onnx"
    onnx.save(model, str(path))
    output = quantized(path, method="fp16")
    assert output["max_abs_difference"] < 0.01


def test_what_the_user_excludes_stays_float(home):
    name = "/detector/class_out/Conv"
    output = static(exclude=[name, "Add"], calibration_images=1)
    assert output["quantized"]["Conv"] == 35
    assert "Add" not in output["quantized"]
    assert {"type": "Conv", "count": 1, "reason": "excluded"} in output["kept_float"]


@pytest.mark.parametrize(
    ("given", "error", "sentence"),
    [
        ({"exclude": ["Konv"]}, SpecError, "did you mean Conv"),
        ({"exclude": ["Conv"]}, ModelError, "leave some of 'exclude' out"),
        ({"calibration_data": "nowhere"}, DatasetError, "nowhere"),
        ({"model": "fake:detection"}, SpecError, "can't be exported"),
        ({"calibration_data": None}, SpecError, "needs 'calibration_data'"),
        ({"method": "fp16"}, SpecError, "is not calibrated"),
        (
            {"method": "fp16", "calibration_data": None, "exclude": ["Add"]},
            SpecError,
            "has no 'exclude'",
        ),
        (
            {"method": "dynamic_int8", "calibration_data": None, "weight_bits": 7},
            SpecError,
            "has no 'weight_bits'",
        ),
    ],
)
def test_bad_input_is_one_sentence(home, given, error, sentence):
    with pytest.raises(error, match=sentence):
        static(**{"calibration_images": 1, **given})


def test_a_quantized_model_is_not_quantized_again(street, tmp_path):
    path = tmp_path / "again.onnx"
    path.write_bytes(loaded(street).SerializeToString())
    with pytest.raises(ModelError, match="is quantized already \\(int8\\); give the model in fp32"):
        static(model=path)


def test_a_model_without_weights_has_nothing_to_quantize(home, tmp_path):
    path = build_model(tmp_path / "plain.onnx", np.zeros((1, 5), np.float32), metadata=CARD)
    for given in ({"method": "dynamic_int8"}, {"calibration_data": "street:demo"}):
        with pytest.raises(ModelError, match="nothing that int8 makes smaller"):
            quantized(path, **given, **({} if "method" in given else {"calibration_images": 1}))


def in_child(folder, *nodes, opset=17, **given):
    """What the child answers of a graph that takes images of 8 × 8 pixels."""
    graph = helper.make_graph(
        list(nodes),
        "odd",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 3, 8, 8])],
    )
    imports = [helper.make_opsetid("", opset)]
    path = folder / "odd.onnx"
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), str(path))
    payload = {"folder": str(folder), "model": str(path), "method": "dynamic_int8",
               "per_channel": True, "exclude": [], "keep_head": True}  # fmt: skip
    return run_in_child("visiondyno.operations.quantize_child:quantize", {**payload, **given})


def test_products_without_constants_cannot_be_quantized(tmp_path):
    with pytest.raises(ModelError, match=r"\(it has MatMul\) could be quantized; take 'method'"):
        in_child(tmp_path, helper.make_node("MatMul", ["images", "images"], ["output"]))


def test_a_graph_that_cannot_be_prepared_is_one_sentence(tmp_path):
    odd = helper.make_node("Unheard", ["images"], ["output"])
    with pytest.raises(ModelError, match=r"can't be prepared for quantization \(.*Unheard"):
        in_child(tmp_path, odd, opset=11, method="static_int8")


def test_a_cancel_stops_the_child(home):
    stages = []

    class Stopped(OperationContext):
        def check(self):
            if "calibrating" in stages:
                raise Cancelled("The job was cancelled.")

    context = Stopped(on_progress=lambda told: stages.append(told["stage"]))
    with pytest.raises(Cancelled):
        quantized(context=context, calibration_data="street:train", calibration_images=50)
    assert "quantizing" not in stages


def test_the_command_writes_files_and_one_report(home, tmp_path):
    out = tmp_path / "made"
    result = CliRunner().invoke(
        dyno,
        ["quantize", MODEL, "--to", "static-int8", "--calibrate", "street:train",
         "--calibration-images", "2", "--calibration", "min_max", "--data", "street:demo",
         "--check-images", "4", "--max-images", "12", "--duration", "0.2", "--threads", "1",
         "--out", str(out)],
        catch_exceptions=False,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert read_onnx(out / "street-n-static-int8.onnx").precision == "int8"
    assert "int8: 36 Conv" in result.output
    assert "float (head)" in result.output
    assert "mAP 50–95 on 4 images of street:demo" in result.output
    comparison = read_report(out / "report")
    references = [model.reference for model in comparison.models]
    assert references == [MODEL, str(out / "street-n-static-int8.onnx")]
    assert comparison.spec.reference == MODEL
    assert "Against" in result.output
    assert (out / "report/report.html").is_file()


def test_the_command_answers_json_for_programs(home, tmp_path):
    result = CliRunner().invoke(
        dyno,
        ["quantize", MODEL, "--to", "dynamic-int8", "--json", "--out", str(tmp_path)],
        catch_exceptions=False,
    )
    found = json.loads(result.stdout)["dynamic-int8"]
    assert Path(found["path"]).stat().st_size == found["size_bytes"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "Which data are the results compared on"),
        (["--no-compare"], "give --calibrate"),
        (["--to", "int4"], "'int4' is none of static-int8"),
        (["--to", "fp16", "--no-compare", "--calibrate", "street"], "for static-int8 only"),
        (["--to", "bf16", "--data", "street:demo"], "fake:detection can't be exported"),
        (["--to", "fp16", "--no-compare", "--exclude", "Add"], "are of int8"),
    ],
)
def test_the_command_refuses_before_it_works(arguments, sentence):
    model = "fake:detection" if "bf16" in arguments else MODEL
    result = CliRunner().invoke(dyno, ["quantize", model, *arguments])
    told = f"{result.output} {getattr(result.exception, 'message', '')}"
    assert sentence in told


def test_a_form_that_cannot_be_made_leaves_the_others(home, tmp_path):
    path = build_model(tmp_path / "plain.onnx", np.zeros((1, 5), np.float32), metadata=CARD)
    result = CliRunner().invoke(
        dyno,
        ["quantize", str(path), "--to", "dynamic-int8,fp16", "--no-compare", "--out",
         str(tmp_path / "made")],
    )  # fmt: skip
    assert isinstance(result.exception, ModelError)
    assert "1 of the forms weren't made" in result.exception.message
    assert "dynamic-int8 wasn't made: None of the model's convolutions" in result.stderr
    assert [one.name for one in (tmp_path / "made").iterdir()] == ["plain-fp16.onnx"]


def test_bf16_alone_says_how_it_is_run(home, tmp_path):
    result = CliRunner().invoke(
        dyno, ["quantize", MODEL, "--to", "bf16", "--no-compare", "--out", str(tmp_path)]
    )
    assert result.exit_code == 0
    assert "run it as openvino-bf16:" in result.stdout


@pytest.mark.torch
def test_a_model_of_torch_is_compared_with_what_it_is_exported_to(home, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 5, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )
    program = torch.export.export(
        module.eval(), (torch.zeros(2, 3, 32, 32),),
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )  # fmt: skip
    path = tmp_path / "program.pt2"
    torch.export.save(program, path)
    card = json.loads(CARD[METADATA_KEY])
    (tmp_path / "program.model.yaml").write_text(json.dumps(card))
    asked = []
    monkeypatch.setattr(quantize, "compare_after", lambda *given, **_: asked.append(given))
    made = tmp_path / "made"
    result = CliRunner().invoke(
        dyno,
        ["quantize", str(path), "--to", "dynamic-int8", "--data", "digits:val:16",
         "--check-images", "2", "--out",
         str(made)],
        catch_exceptions=False,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    source, results, *_ = asked[0]
    assert source == str(made / "program-fp32.onnx")
    assert results == [str(path), str(made / "program-dynamic-int8.onnx")]
    said = read_made(read_onnx(made / "program-dynamic-int8.onnx").metadata)
    assert said.source == "program-fp32.onnx"
    assert said.source_digest == read_onnx(made / "program-fp32.onnx").digest


CARD = {
    METADATA_KEY: json.dumps(
        {
            "schema": "visiondyno.model/1",
            "task": "classification",
            "head": "classification",
            "classes": ["a", "b", "c", "d", "e"],
            "input": {"height": 32, "width": 32},
        }
    )
}


def products(path, batch=None, opset=17):
    """A classifier whose weights are one product of matrices."""
    weights = np.random.default_rng(0).normal(size=(3 * 32 * 32, 5)).astype(np.float32)
    row = [batch or "n"]
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["images"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["sum"]),
            helper.make_node("Softmax", ["sum"], ["output"], axis=1),
        ],
        "products",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [*row, 3, 32, 32])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [*row, 5])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(model, CARD)
    onnx.save(model, str(path))
    return path
