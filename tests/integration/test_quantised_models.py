"""Models quantised by ONNX Runtime's own tools: their precision is named, their integers read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType

from visiondyno.errors import ModelError
from visiondyno.predictions import Classification
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.model_cards import guess_card
from visiondyno.runtimes.onnx_file import read_onnx
from visiondyno.runtimes.registry import load_model
from visiondyno.specs.model_card import InputCard, ModelCard, OutputCard, Quantisation

SIDE, CLASSES = 16, ("car", "truck", "sign")
CARD = ModelCard(
    task="classification",
    head="classification",
    classes=CLASSES,
    input=InputCard(height=SIDE, width=SIDE, resize="stretch"),
    activation="softmax",
)


def float_model(path: Path) -> Path:
    """Convolution, mean over the image, matrix product: a classifier in fp32."""
    random = np.random.default_rng(3)
    constants = {
        "kernel": random.normal(0, 0.3, (16, 3, 3, 3)),
        "weight": random.normal(0, 1.0, (16, len(CLASSES))),
    }
    nodes = [
        helper.make_node("Conv", ["images", "kernel"], ["maps"], strides=[2, 2]),
        helper.make_node("Relu", ["maps"], ["active"]),
        helper.make_node("GlobalAveragePool", ["active"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", len(CLASSES)])],
        [numpy_helper.from_array(v.astype(np.float32), name) for name, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def images_of(count: int, seed: int = 0) -> list[np.ndarray]:
    """Images of one colour each, so that classes differ."""
    random = np.random.default_rng(seed)
    colours = random.integers(0, 256, (count, 1, 1, 3))
    noise = random.integers(-20, 20, (count, SIDE, SIDE, 3))
    return list(np.clip(colours + noise, 0, 255).astype(np.uint8))


class _Reader(CalibrationDataReader):
    def __init__(self) -> None:
        self._feeds: Iterator[dict[str, Any]] = iter(
            {"images": image[None, ..., ::-1].transpose(0, 3, 1, 2).astype(np.float32) / 255}
            for image in images_of(40, seed=9)
        )

    def get_next(self) -> dict[str, Any] | None:  # type: ignore[override]
        return next(self._feeds, None)


def static(path: Path, out: Path, form: QuantFormat, activations: QuantType, **more: Any) -> Path:
    quantization.quantize_static(
        path,
        out,
        _Reader(),
        quant_format=form,
        activation_type=activations,
        weight_type=QuantType.QInt8,
        **more,
    )
    return out


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Path]:
    base = float_model(tmp_path / "float.onnx")
    dynamic = tmp_path / "dynamic.onnx"
    # No ConvInteger for int8 weights on every processor: uint8 runs everywhere.
    quantization.quantize_dynamic(base, dynamic, weight_type=QuantType.QUInt8)
    return {
        "float": base,
        "QDQ": static(base, tmp_path / "qdq.onnx", QuantFormat.QDQ, QuantType.QInt8),
        "QOperator": static(
            base, tmp_path / "qoperator.onnx", QuantFormat.QOperator, QuantType.QUInt8
        ),
        "dynamic": dynamic,
        "convolution only": static(
            base,
            tmp_path / "conv.onnx",
            QuantFormat.QDQ,
            QuantType.QUInt8,
            op_types_to_quantize=["Conv"],
        ),
    }


def probabilities(path: Path, card: ModelCard = CARD) -> np.ndarray:
    with load_model(str(path), LoadOptions(card=card)) as model:
        found = model.predict(images_of(12))
    assert all(isinstance(one, Classification) for one in found)
    return np.stack([one.probabilities for one in found])  # type: ignore[union-attr]


def test_quantised_models_are_named_and_agree_with_their_original(models: dict[str, Path]) -> None:
    expected = probabilities(models["float"])
    assert np.ptp(expected, axis=0).max() > 0.3, "the model must tell images apart"
    named = {kind: read_onnx(path).precision for kind, path in models.items()}
    # Of the last, the matrix stays in fp32: with the scales, more than a tenth of the weights.
    assert named == {
        "float": "fp32", "QDQ": "int8", "QOperator": "int8", "dynamic": "int8",
        "convolution only": "mixed",
    }  # fmt: skip
    for kind in ("QDQ", "QOperator", "dynamic", "convolution only"):
        np.testing.assert_allclose(probabilities(models[kind]), expected, atol=0.05)


def edited(path: Path, out: Path, edit: Any) -> Path:
    model = onnx.load(path)
    edit(model.graph)
    onnx.save(model, out)
    return out


def test_8_bit_weights_alone_are_mixed(models: dict[str, Path], tmp_path: Path) -> None:
    def weights_only(graph: Any) -> None:
        """Store the matrix and the kernel in 8 bits; compute in fp32."""
        for tensor in list(graph.initializer):
            array = numpy_helper.to_array(tensor)
            scale = np.float32(np.abs(array).max() / 127)
            stored = np.rint(array / scale).astype(np.int8)
            graph.initializer.remove(tensor)
            graph.initializer.extend(
                [
                    numpy_helper.from_array(stored, f"{tensor.name}_stored"),
                    numpy_helper.from_array(scale, f"{tensor.name}_scale"),
                ]
            )
            names = [f"{tensor.name}_stored", f"{tensor.name}_scale"]
            graph.node.insert(0, helper.make_node("DequantizeLinear", names, [tensor.name]))

    path = edited(models["float"], tmp_path / "stored.onnx", weights_only)
    assert read_onnx(path).precision == "mixed"
    np.testing.assert_allclose(probabilities(path), probabilities(models["float"]), atol=0.05)


def test_weights_that_the_graph_quantises_are_int8(models: dict[str, Path], tmp_path: Path) -> None:
    def store_wide(graph: Any) -> None:
        """As quantisation-aware training exports it: fp32 weights, quantised in the graph."""
        for tensor in list(graph.initializer):
            if not tensor.name.endswith("_quantized"):
                continue
            node = next(n for n in graph.node if tensor.name in n.input)
            found = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
            scale, zero = (found[name] for name in node.input[1:3])
            array = (numpy_helper.to_array(tensor).astype(np.float32) - zero) * scale
            graph.initializer.remove(tensor)
            name = tensor.name
            graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), f"{name}_w"))
            inputs = [f"{name}_w", *node.input[1:3]]
            graph.node.insert(0, helper.make_node("QuantizeLinear", inputs, [name]))

    path = edited(models["QDQ"], tmp_path / "trained.onnx", store_wide)
    types = {tensor.data_type for tensor in onnx.load(path).graph.initializer if tensor.dims}
    assert TensorProto.FLOAT in types
    assert read_onnx(path).precision == "int8"
    np.testing.assert_allclose(probabilities(path), probabilities(models["QDQ"]), atol=1e-4)


def integers_at_the_edges(graph: Any) -> None:
    """Take the quantised image and give the quantised answer: drop the edges' conversions."""
    first = next(n for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0] == "images")
    last = next(n for n in graph.node if n.output[0] == "output")
    assert last.op_type == "DequantizeLinear"
    zero = {one.name: one.data_type for one in graph.initializer}
    quantised, answer = first.output[0], last.input[0]
    for value, name, node in ((graph.input[0], quantised, first), (graph.output[0], answer, last)):
        value.name = name
        value.type.tensor_type.elem_type = zero[node.input[2]]
    graph.node.remove(first)
    graph.node.remove(last)


@pytest.mark.parametrize("kind", ["QDQ", "QOperator"])
def test_integer_inputs_and_outputs_are_read_from_the_graph(
    kind: str, models: dict[str, Path], tmp_path: Path
) -> None:
    path = edited(models[kind], tmp_path / "integers.onnx", integers_at_the_edges)
    facts = read_onnx(path)
    dtype = "int8" if kind == "QDQ" else "uint8"
    assert facts.inputs[0].dtype == facts.outputs[0].dtype == dtype
    scales = facts.inputs[0].quantisation, facts.outputs[0].quantisation
    guess, sources, _ = guess_card(path)
    assert guess.input.quantisation == scales[0]
    assert scales[0] is not None
    if kind == "QDQ":
        assert guess.output is not None
        assert guess.output.quantisation == (scales[1],)
        assert sources["output"] == "shape"
    else:
        # The last operator is QLinearMatMul: its scale is its own, not the graph's to tell.
        assert scales[1] is None
        scales = scales[0], output_scale(models[kind])
    assert scales[1] is not None
    fields = CARD.input.model_dump() | {"dtype": dtype, "quantisation": scales[0]}
    card = CARD.model_copy(
        update={
            "input": InputCard(**fields),
            "output": OutputCard(quantisation=(scales[1],)),
        }
    )
    np.testing.assert_allclose(probabilities(path, card), probabilities(models[kind]), atol=1e-5)


def output_scale(path: Path) -> Quantisation:
    graph = onnx.load(path).graph
    last = next(n for n in graph.node if n.output[0] == "output")
    found = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    scale, zero = (found[name] for name in last.input[1:3])
    return Quantisation(scale=float(scale), zero_point=int(zero))


def test_an_int8_input_that_says_nothing_asks_for_a_card(tmp_path: Path) -> None:
    def cast(graph: Any) -> None:
        graph.input[0].type.tensor_type.elem_type = TensorProto.INT8
        graph.node[0].input[0] = "wide"
        graph.node.insert(0, helper.make_node("Cast", ["images"], ["wide"], to=TensorProto.FLOAT))

    path = edited(float_model(tmp_path / "float.onnx"), tmp_path / "m.onnx", cast)
    with pytest.raises(ModelError, match=r"takes int8.*'quantisation' in a model card"):
        load_model(str(path))
