"""Removal of channels from networks of each family: what stays computes what it did."""

from typing import Any

import pytest

from visiondyno.errors import MissingExtra, ModelError, SpecError
from visiondyno.state.layer_sizes import resize, sizes_of
from visiondyno.training.vision.pruning import HowToPrune, Pruned, prune, same_answers

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
pytest.importorskip("ultralytics")
pytest.importorskip("torch_pruning")
pytestmark = pytest.mark.torch

SIDE = 64
BY_A_THIRD = HowToPrune(0.3, 8, "magnitude", (), 0)


def yolo(name: str) -> Any:
    from visiondyno.runtimes.pytorch.ultralytics_networks import build_network, named_architecture

    return build_network(named_architecture(name, "test"), 2, "test").eval()


def classifier(name: str) -> Any:
    torch.manual_seed(0)
    return torchvision.models.get_model(name, weights=None, num_classes=2).eval()


def lively(network: Any) -> Any:
    generator = torch.Generator().manual_seed(1)
    for part in network.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1, generator=generator)
            part.running_var.uniform_(0.5, 2, generator=generator)
            part.bias.data.normal_(0, 0.1, generator=generator)
    return network


def pruned(network: Any, family: Any, how: HowToPrune = BY_A_THIRD) -> Pruned:
    with torch.enable_grad():
        return prune(network, family, "it", SIDE, how)


@pytest.mark.parametrize("name", ["yolov5n", "yolo26n"])
def test_detectors_stay_of_their_architecture(name: str) -> None:
    network, fresh = lively(yolo(name)), yolo(name)
    told = pruned(network, "ultralytics")
    assert told.parameters[1] < 0.75 * told.parameters[0]
    resize(fresh, told.layers, name)
    fresh.load_state_dict(network.state_dict())  # strictly
    assert same_answers(network, fresh, SIDE)
    # Blocks that keep their channels are told.
    assert bool(told.notes) == (name == "yolo26n")


def test_what_is_removed_is_what_did_nothing() -> None:
    """Channels without weights are the least; without them the network answers the same."""
    network = yolo("yolov8n")
    noise = torch.rand(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    _let_answers_depend_on_every_layer(network, noise)
    with torch.no_grad():
        for name, part in network.named_modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                _silence(part, halves=2 if name.endswith("cv1.bn") and ".m." not in name else 1)
        before = network(noise)[0]
        _forget_silent_inputs(network, noise)
        assert torch.allclose(network(noise)[0], before, atol=1e-5)
    pruned(network, "ultralytics", HowToPrune(0.25, 1, "magnitude", (), 0))
    with torch.no_grad():
        after = network(noise)[0]
    assert torch.allclose(after, before, atol=1e-3)
    # By chance other channels go, and the answers with them: boxes move by pixels.
    pruned(network, "ultralytics", HowToPrune(0.25, 1, "random", (), 0))
    with torch.no_grad():
        assert (network(noise)[0] - before).abs().max() > 1


def _let_answers_depend_on_every_layer(network: Any, noise: Any) -> None:
    """Fresh networks answer with their last biases: what comes there is far too faint."""
    norms = [part for part in network.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(noise)
        for branch in (*network.model[-1].cv2, *network.model[-1].cv3):
            branch[-1].weight *= 10
    network.eval()


def _silence(norm: Any, halves: int) -> None:
    """A third of a norm's channels answer 0, in each half that a block makes of them."""
    width = norm.num_features // halves
    for start in range(0, norm.num_features, width):
        norm.weight[start : start + width // 3] = 0
        norm.bias[start : start + width // 3] = 0


def _forget_silent_inputs(network: Any, noise: Any) -> None:
    """Weights that read, or make, channels of nothing but 0 are 0 themselves."""

    def forget(layer: Any, inputs: Any, output: Any) -> None:
        if layer.groups == 1:
            silent = inputs[0].abs().amax((0, 2, 3)) == 0
            layer.weight[:, silent] = 0

    def forget_made(block: Any, inputs: Any, output: Any) -> None:
        block.conv.weight[block.bn.weight == 0] = 0

    layers = [part for part in network.modules() if isinstance(part, torch.nn.Conv2d)]
    blocks = [part for part in network.modules() if hasattr(part, "conv") and hasattr(part, "bn")]
    hooks = [layer.register_forward_hook(forget) for layer in layers]
    hooks += [block.register_forward_hook(forget_made) for block in blocks]
    network(noise)
    for hook in hooks:
        hook.remove()


def test_only_what_was_asked_for_is_removed() -> None:
    network = classifier("squeezenet1_1")
    before = sizes_of(network)
    kept = HowToPrune(0.5, 1, "magnitude", ("features.3",), 0)
    told = pruned(network, "torchvision", kept)
    after = sizes_of(network)
    assert told.flops[1] < told.flops[0]
    for name in ("features.3.squeeze", "features.3.expand1x1", "features.3.expand3x3"):
        assert after[name].outputs == before[name].outputs
    # The last layer answers for the classes.
    assert after["classifier.1"].outputs == 2
    assert after["features.4.squeeze"].outputs == before["features.4.squeeze"].outputs // 2
    assert {name for name, _, _ in told.narrowed}.isdisjoint({"classifier.1", "features.3.squeeze"})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("convnext_tiny", "is a LayerNorm2d"),
        ("vit_b_16", "can't run images of 64 pixels"),
        ("googlenet", "used only while it learns"),
        ("shufflenet_v2_x0_5", "can't be followed"),
    ],
)
def test_networks_that_cannot_be_followed_are_refused(name: str, said: str) -> None:
    arguments = {"init_weights": False} if name == "googlenet" else {}
    network = torchvision.models.get_model(name, weights=None, **arguments).eval()
    with pytest.raises(ModelError, match=said) as caught:
        pruned(network, "torchvision")
    assert "\n" not in str(caught.value)


def test_a_layer_that_is_none_is_refused() -> None:
    how = HowToPrune(0.3, 8, "magnitude", ("features.3.squeez",), 0)
    with pytest.raises(SpecError, match=r"did you mean features\.3\.squeeze\?"):
        pruned(classifier("squeezenet1_1"), "torchvision", how)
    with pytest.raises(SpecError, match="there are features"):
        pruned(
            classifier("squeezenet1_1"),
            "torchvision",
            HowToPrune(0.3, 8, "magnitude", ("??????????",), 0),
        )


def test_without_the_library_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch_pruning", None)
    with pytest.raises(MissingExtra, match=r"visiondyno\[prune\]"):
        pruned(classifier("squeezenet1_1"), "torchvision")
