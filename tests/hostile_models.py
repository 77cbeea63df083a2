"""Model files that mean harm, files that are broken, and a harmless near-twin of each."""

import pickle
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from hostile_graphs import (
    Build,
    announced,
    bottomless_graphs,
    chain,
    cycle,
    deep_functions,
    doubling_functions,
    duplicate_output,
    edited,
    expanded,
    filled,
    fixed,
    folding,
    functions,
    giving,
    harmless,
    looping,
    mean,
    model,
    nested_ifs,
    node,
    of_domain,
    scaled,
    sparse,
    taking,
    two_inputs,
    with_card,
    with_weights,
)
from small_depth_task import SIDE

ENDLESS = "was stopped while"
"""What is said of a model that goes on and on."""


@dataclass(frozen=True)
class Case:
    """A file that must be refused, what the refusal says, and its near-twin that completes."""

    name: str
    hostile: Build
    says: str
    twin: Build = harmless

    @property
    def is_endless(self) -> bool:
        """Whether only the time limit may end it."""
        return ENDLESS in self.says


HOSTILE = (
    Case(
        "path_traversal",
        lambda: with_weights("../../etc/passwd"),
        "in another file",
        lambda: with_weights(None),
    ),
    Case(
        "absolute_path",
        lambda: with_weights("/etc/passwd"),
        "in another file",
        lambda: with_weights(None),
    ),
    Case(
        "file_beside_it",  # where a symbolic link would lie
        lambda: with_weights("weights.bin"),
        "in another file",
        lambda: with_weights(None),
    ),
    Case("endless_loop", lambda: looping(10**12), ENDLESS, lambda: looping(9)),
    Case("tensor_of_48_gb", lambda: filled(12 * 10**9), "memory", lambda: filled(12)),
    Case("announced_48_gb", lambda: announced([12 * 10**9]), "48.0 GB", lambda: announced([3], 3)),
    Case("expanded_to_128_gb", lambda: expanded(32_000), "memory", lambda: expanded(32)),
    # Whichever limit it reaches first.
    Case("folding_bomb", lambda: folding(3000, 400), f"{ENDLESS}|memory", lambda: folding(8, 3)),
    Case("deep_functions", lambda: deep_functions(3000), "functions", lambda: deep_functions(3)),
    Case(
        "functions_8_to_the_15",
        lambda: doubling_functions(15),
        "operators, functions written out",
        lambda: doubling_functions(3),
    ),
    Case(
        "function_of_itself",
        lambda: functions({"f0": ("f1",), "f1": ("f0",)}),
        "calls itself",
        lambda: functions({"f0": ("f1",), "f1": ()}),
    ),
    Case("unknown_domain", lambda: of_domain("evil.corp"), "'evil.corp'", lambda: of_domain("")),
    Case(
        "compiled_elsewhere",
        lambda: of_domain("com.microsoft", "EPContext"),
        "another file",
        lambda: of_domain("com.microsoft", "Gelu"),
    ),
    Case("sparse_bomb", lambda: sparse(12 * 10**9), "48.0 GB", lambda: announced([3], 3)),
)
"""What means harm: the research's cases and their kin."""

MALFORMED = (
    Case("empty", lambda: b"", "empty"),
    Case("one_byte", lambda: b"\x08", "truncated or damaged"),
    Case("half", lambda: harmless()[: len(harmless()) // 2], "truncated or damaged"),
    Case("one_byte_short", lambda: harmless()[:-1], "truncated or damaged"),
    Case("noise", lambda: bytes(np.random.default_rng(0).bytes(5000)), "isn't an ONNX file"),
    Case("zip", lambda: b"PK\x03\x04" + bytes(100), "zip archive"),
    Case("pickle", lambda: pickle.dumps({"weights": [1.0] * 50}), "pickle"),
    Case("web_page", lambda: b"<html>404</html>", "text file"),
    Case("lfs_pointer", lambda: b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    Case("no_graph", lambda: onnx.ModelProto(ir_version=9).SerializeToString(), "no graph"),
    Case("no_output", edited(lambda made: made.graph.ClearField("output")), "no graph"),
    Case("no_nodes", edited(lambda made: made.graph.ClearField("node")), "checker"),
    Case("no_opset", edited(lambda made: made.ClearField("opset_import")), "operator set"),
    Case("opset_999", lambda: model([mean()], opsets=(("", 999),)).SerializeToString(), "set 999"),
    Case("opset_1", lambda: model([mean()], opsets=(("", 1),)).SerializeToString(), "set 1"),
    Case("newer_format", lambda: model([mean()], ir_version=99).SerializeToString(), "ir"),
    Case("unknown_operator", lambda: of_domain("", "Frobnicate"), "Frobnicate"),
    Case(
        "dangling_input",
        lambda: model([node("Relu", ["nowhere"], "depth")]).SerializeToString(),
        "'nowhere'|checker",
    ),
    Case("cycle", edited(cycle), "checker"),
    Case("output_twice", edited(duplicate_output), "checker"),
    Case(
        "attribute_of_wrong_type",
        lambda: model(
            [node("ReduceMean", ["images"], "depth", axes=[1.5], keepdims=1)]
        ).SerializeToString(),
        "checker",
    ),
    Case("data_too_short", lambda: announced([3], 2), "announces 12", lambda: announced([3], 3)),
    Case("negative_size", lambda: announced([-3], 3), "negative", lambda: announced([3], 3)),
    Case("size_overflow", lambda: announced([2**40, 2**40]), "GB", lambda: announced([3], 3)),
    Case(
        "unknown_element",
        edited(lambda made: setattr(made.graph.initializer[0], "data_type", 99)),
        "unknown type",
    ),
    Case("deep_graphs", lambda: bottomless_graphs(3000), "damaged", lambda: nested_ifs(3)),
    Case("rather_deep_graphs", lambda: nested_ifs(20), "deep", lambda: nested_ifs(3)),
    Case("many_nodes", lambda: chain(100_001), "operators", lambda: chain(100)),
    Case("two_inputs", two_inputs, "exactly one input"),
    Case("wrong_size", lambda: taking(("n", 3, SIDE, 64)), "width is 64"),
    Case("wrong_layout", lambda: taking(("n", SIDE, SIDE, 3)), "layout is nhwc"),
    Case("double_input", lambda: taking(("n", 3, SIDE, SIDE), TensorProto.DOUBLE), "float64"),
    Case("grey_input", lambda: taking(("n", 1, SIDE, SIDE)), "3 channels"),
    Case("not_an_image", lambda: taking(("n", 10)), "isn't a vision model"),
    Case("huge_batch", lambda: fixed(1000), "batch size is 1000", lambda: fixed(4)),
    Case("a_classifier", lambda: giving(("n", 10)), "depth"),
    Case("not_numbers", lambda: scaled(float("nan")), "NaN", lambda: scaled(2.0)),
    Case("infinite", lambda: scaled(float("inf")), "finite|NaN", lambda: scaled(2.0)),
    Case("card_of_no_json", lambda: with_card("{"), "JSON"),
    Case("card_of_another_task", lambda: with_card('{"task": "text"}'), "card|task"),
    Case("too_large", lambda: harmless() + bytes(6_000_000), "at most 5.0 MB|5,000,000 bytes"),
)
"""Broken files, and models that don't fit the task."""
