"""`model_config` → module: torch's own weights, and errors that name the layer."""

import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from training_cases import linear, model_config, nn, same_weights, sequential, torch

from visiondyno import worker
from visiondyno.errors import MissingExtra, SpecError
from visiondyno.operations.context import OperationContext
from visiondyno.state import decode, from_text, load_into
from visiondyno.training.layers import layer_classes, why_not_in_a_sequence
from visiondyno.training.modules import build_module
from visiondyno.training.names import snake_case, suggestion
from visiondyno.training.offline import offline

pytestmark = pytest.mark.torch

# What layers need to be made, beside those that need nothing.
NEEDED: dict[str, dict[str, Any]] = {
    "linear": {"in_features": 2, "out_features": 3},
    "conv": {"in_channels": 2, "out_channels": 2, "kernel_size": 3},
    "pool": {"kernel_size": 2},
    "adaptive": {"output_size": 1},
    "fractional": {"kernel_size": 2, "output_size": 2},
    "lp_pool": {"norm_type": 2, "kernel_size": 2},
    "norm": {"num_features": 2},
    "layer_norm": {"normalized_shape": [2, 3]},
    "rms_norm": {"normalized_shape": 2},
    "group_norm": {"num_groups": 1, "num_channels": 2},
    "cell": {"input_size": 2, "hidden_size": 2},
    "rnn": {"input_size": 2, "hidden_size": 2, "nonlinearity": "relu"},
    "lstm": {"input_size": 2, "hidden_size": 2, "batch_first": True},
    "gru": {"input_size": 2, "hidden_size": 2},
    "embedding": {"num_embeddings": 4, "embedding_dim": 2},
    "upsampling": {"scale_factor": 2},
    "pad": {"padding": 1},
    "constant_pad": {"padding": 1, "value": 0.5},
    "fold": {"kernel_size": 2},
    "unfold": {"kernel_size": 2},
    "unflatten": {"dim": 1, "unflattened_size": [1, 2]},
    "threshold": {"threshold": 0.1, "value": 2},
    "channel_shuffle": {"groups": 2},
    "pixel_shuffle": {"upscale_factor": 2},
    "pixel_unshuffle": {"downscale_factor": 2},
    "cross_map": {"size": 2},
    "local_response": {"size": 2},
    "transformer_encoder_layer": {"d_model": 4, "nhead": 2},
}


def needed(name: str) -> dict[str, Any]:
    if name == "fold":
        return {"output_size": 4, "kernel_size": 2}
    matching = [part for part in NEEDED if part in name]
    return NEEDED[max(matching, key=len)] if matching else {}


@pytest.mark.parametrize("name", sorted(layer_classes()))
def test_every_layer_of_torch_is_made_or_refused_with_a_reason(name: str) -> None:
    kind = layer_classes()[name]
    if why_not_in_a_sequence(kind) is not None:
        with pytest.raises(SpecError, match=rf"layer 1 \({name}\) can't be used: it.+\.$"):
            build_module(sequential({"type": "relu"}, {"type": name}))
        return
    built = build_module(sequential({"type": name, **needed(name)}))
    assert type(built[0]) is kind


@pytest.mark.parametrize(
    ("class_name", "snake"),
    [
        ("BCEWithLogitsLoss", "bce_with_logits_loss"), ("BatchNorm2d", "batch_norm2d"),
        ("LeakyReLU", "leaky_relu"), ("ReLU6", "relu6"), ("PReLU", "prelu"), ("SiLU", "silu"),
        ("LPPool2d", "lp_pool2d"), ("NLLLoss", "nll_loss"), ("AdamW", "adamw"),
        ("NAdam", "nadam"), ("RMSprop", "rmsprop"), ("RMSNorm", "rms_norm"),
        ("ReduceLROnPlateau", "reduce_lr_on_plateau"), ("SmoothL1Loss", "smooth_l1_loss"),
        ("LSTMCell", "lstm_cell"), ("OneCycleLR", "one_cycle_lr"), ("SparseAdam", "sparse_adam"),
    ],
)  # fmt: skip
def test_names_are_torchs_own_in_snake_case(class_name: str, snake: str) -> None:
    assert snake_case(class_name) == snake


def test_nothing_to_choose_from_is_said() -> None:
    assert suggestion("x", []) == "There are none to choose from."


def test_weights_are_those_of_plain_torch_and_the_process_keeps_its_random_state() -> None:
    torch.manual_seed(11)
    plain = nn.Sequential(nn.Conv2d(1, 2, 3), nn.LeakyReLU(0.2), nn.Linear(4, 2))
    torch.manual_seed(99)
    before = torch.get_rng_state()
    built = build_module(
        sequential(
            {"type": "conv2d", "in_channels": 1, "out_channels": 2, "kernel_size": [3, 3]},
            {"type": "LeakyReLU", "negative_slope": 0.2},
            {"type": "linear", "in_features": 4, "out_features": 2},
        ),
        seed=11,
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert same_weights(built, plain)
    assert built.training


def test_recurrent_layers_hand_on_their_output() -> None:
    built = build_module(
        sequential(
            {"type": "lstm", "input_size": 3, "hidden_size": 5, "batch_first": True},
            {"type": "linear", "in_features": 5, "out_features": 2},
        )
    )
    assert built(torch.zeros(2, 7, 3)).shape == (2, 7, 2)
    assert "0.weight_ih_l0" in built.state_dict()


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ({"type": "liner"}, ["layer 1 (liner)", "'linear'"]),
        ({"type": "zzzz"}, ["layer 1 (zzzz)", "Known are"]),
        ({"type": "linear", "in_features": 4}, ["layer 1 (linear)", "'out_features' must be"]),
        ({"type": "linear", "in_features": 4, "out_feature": 2},
         ["'out_feature'", "Did you mean 'out_features'"]),
        ({"type": "linear", "in_features": 4, "out_features": 2, "zzz": 1},
         ["'zzz'", "Expected: in_features, out_features, [bias]."]),
        ({"type": "relu", "inplace": 3}, ["'inplace'", "expected bool, got 3"]),
        ({"type": "tanh", "slope": 3}, ["'slope'", "It takes none."]),
        ({"type": "linear", "in_features": "four", "out_features": 2},
         ["layer 1 (linear), argument 'in_features'", 'expected int, got "four"']),
        ({"type": "linear", "in_features": True, "out_features": 2}, ["expected int, got true"]),
        ({"type": "linear", "in_features": {"a": 1}, "out_features": 2}, ['got {"a": 1}']),
        ({"type": "linear", "in_features": -1, "out_features": 2},
         ["layer 1 (linear)", "negative dimension"]),
        ({"type": "linear", "in_features": 2, "out_features": 2, "device": "cuda"},
         ["'device'", "the worker chooses"]),
        ({"type": "conv2d", "in_channels": 3, "out_channels": 4, "kernel_size": 3, "groups": 2},
         ["layer 1 (conv2d)", "divisible by groups"]),
        ({"type": "max_pool2d", "kernel_size": 2, "return_indices": True}, ["two tensors"]),
        ({"type": "multihead_attention", "embed_dim": 4, "num_heads": 2},
         ["query and key and value"]),
        ({"type": "linear", "in_features": 10**6, "out_features": 10**6},
         ["4000.0 GB", "'model_config.layers'"]),
        ({"type": "lstm", "input_size": 2, "hidden_size": 2, "modus": 1}, ["'modus'"]),
        ({"type": "multihead", "x": object()}, ["layer 1 (multihead)"]),
        ({"type": "layer_norm", "normalized_shape": 2, "eps": object()},
         ["'eps'", "only numbers, texts, lists and null"]),
    ],
)  # fmt: skip
def test_a_wrong_layer_is_named(layer: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        build_module(sequential({"type": "relu"}, layer))
    assert "\n" not in caught.value.message
    for word in words:
        assert word in caught.value.message


def test_torchvision_models_begin_with_fresh_weights() -> None:
    from torchvision import models

    built = build_module(
        model_config(
            {"type": "torchvision", "name": "squeezenet1_1", "arguments": {"num_classes": 4}}
        ),
        seed=2,
    )
    torch.manual_seed(2)
    assert same_weights(built, models.squeezenet1_1(weights=None, num_classes=4))


TIMM = {"type": "timm", "name": "test_vit", "arguments": {"num_classes": 3, "img_size": 32}}
VIT = {
    "type": "transformers",
    "name": "vit",
    "arguments": {
        "num_labels": 3, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 8, "image_size": 32,
    },
}  # fmt: skip


def no_network(*_: Any) -> Any:
    raise AssertionError("it reached for the network")


@pytest.mark.parametrize("payload", [TIMM, VIT], ids=["timm", "transformers"])
def test_models_of_timm_and_transformers_train_offline(
    payload: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(payload["type"])
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path))
    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(6, 3, 32, 32, generator=generator).numpy().round(3).tolist()
    answer = worker.run(
        {
            "operation": "train_epoch",
            "model_config": payload,
            "training_data": {"features": images, "labels": [0, 1, 2, 0, 1, 2]},
            "hyperparameters": {"batch_size": 3, "learning_rate": 0.01},
            "threads": 1,
        },
        OperationContext(),
    )
    assert answer["metrics"]["samples_processed"] == 6
    state = decode(from_text(answer["model_state"]), answer["model_state_format"], {})
    fresh, trained = build_module(model_config(payload)), build_module(model_config(payload))
    load_into(trained, state)
    assert not same_weights(fresh, trained)


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({"type": "torchvision", "name": "resnet19"}, ["resnet19", "'resnet18'"]),
        ({"type": "torchvision", "name": "resnet18", "arguments": {"weights": "DEFAULT"}},
         ["'weights'", "'model_state'"]),
        ({"type": "torchvision", "name": "resnet18", "arguments": {"clases": 3}},
         ["'model_config.arguments' of resnet18", "clases"]),
        ({"type": "timm", "name": "resnet19x"}, ["timm 'resnet19x'", "resnet"]),
        ({"type": "timm", "name": "resnet18", "arguments": {"pretrained": True}},
         ["'pretrained'"]),
        ({"type": "transformers", "name": "google/vit"}, ["repository", "nothing is downloaded"]),
        ({"type": "transformers", "name": "vitt"}, ["'vit"]),
        ({"type": "transformers", "name": "vit", "arguments": {"hidden_sise": 3}},
         ["'hidden_sise'", "'hidden_size'"]),
        ({"type": "transformers", "name": "vit", "arguments": {"hidden_size": 7}},
         ["'model_config.arguments' of vit"]),
        ({"type": "torchvision", "name": "fcn_resnet50",
          "arguments": {"pretrained_backbone": True}},
         ["'pretrained_backbone'"]),
        ({"type": "transformers", "name": "timm_wrapper",
          "arguments": {"architecture": "hf-hub:timm/resnet18.a1_in1k"}}, ["'timm_wrapper'"]),
        ({"type": "transformers", "name": "vit", "arguments": {"to_dict": 1}}, ["'to_dict'"]),
        ({"type": "transformers", "name": "vit",
          "arguments": {"_attn_implementation": "kernels-community/flash-attn"}},
         ["'_attn_implementation' can't be given"]),
        ({"type": "transformers", "name": "clip",
          "arguments": {"vision_config": {"auto_map": {"AutoModel": "somebody/code--x.Y"}}}},
         ["'auto_map' can't be given"]),
        ({"type": "transformers", "name": "vit", "arguments": {"num_labels": 10**9}},
         ["'num_labels'", "1,000,000"]),
    ],
)  # fmt: skip
def test_a_wrong_model_is_named(payload: dict[str, Any], words: list[str]) -> None:
    if payload["type"] != "torchvision":
        pytest.importorskip(payload["type"])
    with pytest.raises(SpecError) as caught:
        build_module(model_config(payload))
    assert "\n" not in caught.value.message
    for word in words:
        assert word in caught.value.message


def test_a_backbone_begins_with_fresh_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    build_module(model_config({"type": "torchvision", "name": "lraspp_mobilenet_v3_large"}))


def test_a_library_that_would_download_is_stopped() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        with offline():
            with pytest.raises(SpecError, match=r"would be fetched from .*127\.0"):
                socket.create_connection(address, timeout=5)
            with offline():
                pass
            with pytest.raises(SpecError, match="nothing is downloaded"):
                socket.create_connection(address, timeout=5)
        socket.create_connection(address, timeout=5).close()


@pytest.mark.parametrize(
    ("payload", "absent", "extra"),
    [
        ({"type": "torchvision", "name": "resnet18"}, "torchvision", "torch"),
        ({"type": "timm", "name": "resnet18"}, "timm", "timm"),
        ({"type": "transformers", "name": "vit"}, "transformers", "transformers"),
        ({"type": "sequential", "layers": [{"type": "relu"}]}, "torch", "torch"),
    ],
)
def test_an_absent_package_is_an_extra(
    payload: dict[str, Any], absent: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(MissingExtra, match=rf"'visiondyno\[{extra}\]'"):
        build_module(model_config(payload))


def test_a_layer_may_have_no_bias_by_null() -> None:
    built = build_module(
        sequential({"type": "avg_pool2d", "kernel_size": 2, "stride": None, "padding": [0, 0]})
    )
    assert built[0].stride == 2
    assert linear(2, 2).layers[0].arguments["in_features"] == 2
