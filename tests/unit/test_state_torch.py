"""States out of torch modules and into them."""

import numpy as np
import pytest

from visiondyno.errors import ModelError
from visiondyno.state import (
    decode,
    encode,
    from_module,
    from_safetensors,
    from_tensors,
    identity,
    load_into,
    to_safetensors,
    to_tensors,
)
from visiondyno.state.torch_modules import _TORCH

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")


def network(seed: int = 0) -> "torch.nn.Module":
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(4, 2)
    )


class Tied(torch.nn.Module):
    """An embedding that is the output layer's weight too."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = torch.nn.Embedding(5, 3)
        self.head = torch.nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("none", torch.empty(0))
        self.register_buffer("nothing", torch.empty(0))


class Holder(torch.nn.Module):
    """One buffer."""

    def __init__(self, tensor: "torch.Tensor") -> None:
        super().__init__()
        self.register_buffer("held", tensor)


def assert_equal(one: "torch.nn.Module", other: "torch.nn.Module") -> None:
    theirs = other.state_dict()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name


def test_a_module_comes_back_through_every_step() -> None:
    sent = encode(from_module(network(1)))
    found = network(2)
    load_into(found, decode(sent.data, sent.format))
    assert_equal(found, network(1))
    assert identity(from_module(found)) == sent.sha256


def test_the_identity_is_that_of_a_file_of_the_library(tmp_path) -> None:
    library = pytest.importorskip("safetensors.torch")
    module = network()
    data = library.save(module.state_dict())
    assert identity(decode(data, "safetensors")) == identity(from_module(module))
    assert data == encode_plain(module)


def encode_plain(module: "torch.nn.Module") -> bytes:
    from visiondyno.state import to_safetensors

    return to_safetensors(from_module(module))


@pytest.mark.parametrize("attribute", sorted(_TORCH.values()))
def test_every_dtype_crosses_bit_for_bit(attribute: str) -> None:
    dtype = getattr(torch, attribute)
    bits = torch.arange(48, dtype=torch.uint8).reshape(2, 24) * 5
    if dtype is torch.bool:
        bits &= 1
    module = Holder(bits.view(dtype))
    sent = encode(from_module(module))
    found = Holder(torch.zeros_like(bits).view(dtype))
    load_into(found, decode(sent.data, sent.format))
    assert torch.equal(found.held.view(torch.uint8), bits)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(12.0).reshape(3, 4).t(),
        torch.arange(12.0)[::2],
        torch.tensor(2.0),
        torch.empty(0, 3),
        torch.tensor([1 + 2j]).conj(),
        torch.zeros(2, 2, 2, 2).to(memory_format=torch.channels_last),
    ],
    ids=["transposed", "strided", "scalar", "empty", "conjugate", "channels-last"],
)
def test_any_strides_are_taken_and_kept(tensor: "torch.Tensor") -> None:
    state = from_module(Holder(tensor))
    assert state["held"].shape == tuple(tensor.shape)
    assert np.array_equal(state["held"], tensor.resolve_conj().numpy())
    target = Holder(torch.zeros_like(tensor))
    stride = target.held.stride()
    load_into(target, state)
    assert torch.equal(target.held, tensor)
    assert target.held.stride() == stride


def test_a_state_is_a_copy_unless_a_view_is_asked_for() -> None:
    module = network()
    copied, shared = from_module(module), from_module(module, copy=False)
    with torch.no_grad():
        module[3].bias += 1
    assert np.array_equal(shared["3.bias"], module[3].bias.detach().numpy())
    assert np.array_equal(shared["3.bias"], copied["3.bias"] + 1)


def test_loading_copies_and_training_goes_on() -> None:
    sent = encode(from_module(network(1)))
    state = decode(sent.data, sent.format)
    module = network(2)
    parameters = list(module.parameters())
    load_into(module, state)
    assert all(now is before for now, before in zip(module.parameters(), parameters, strict=True))
    before = identity(state)
    with torch.no_grad():
        module[3].bias += 1
    assert identity(state) == before
    assert all(parameter.requires_grad for parameter in parameters)


def test_tied_weights_travel_once_and_load_under_any_name() -> None:
    state = from_module(Tied(1))
    assert state.keys() == {"embedding.weight", "none", "nothing"}
    found = Tied(2)
    load_into(found, state)
    assert_equal(found, Tied(1))
    assert found.head.weight is found.embedding.weight
    other = {**state, "head.weight": state["embedding.weight"]}
    load_into(found, {name: t for name, t in other.items() if name != "embedding.weight"})
    load_into(found, other)
    assert_equal(found, Tied(1))


def test_tied_weights_that_differ_are_refused() -> None:
    state = from_module(Tied(1))
    state["head.weight"] = state["embedding.weight"] + 1
    with pytest.raises(ModelError, match=r"'embedding\.weight' and 'head\.weight' are one tensor"):
        load_into(Tied(), state)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("0.bias"), "it lacks '0.bias'"),
        (lambda s: s.update(more=np.zeros(1)), "the model has no 'more'"),
        (lambda s: s.clear(), r"lacks '0\.bias', .* and 4 more"),
        (
            lambda s: s.update({"3.bias": np.zeros(3, np.float32)}),
            r"'3\.bias' is float32 \[3\], the model has float32 \[2\]",
        ),
        (
            lambda s: s.update({"3.bias": np.zeros(2)}),
            r"'3\.bias' is float64 \[2\], the model has float32 \[2\]",
        ),
        (lambda s: s.update({"3.bias": np.zeros(2, np.complex128)}), "is complex128"),
    ],
    ids=["missing", "unexpected", "empty", "shape", "dtype", "unknown-dtype"],
)
def test_a_state_of_another_model_is_refused_and_nothing_is_loaded(change, words: str) -> None:
    state = from_module(network(1))
    change(state)
    module = network(2)
    with pytest.raises(ModelError, match=words):
        load_into(module, state)
    assert_equal(module, network(2))


class Extra(torch.nn.Module):
    """Keeps something else than tensors in its state."""

    def get_extra_state(self) -> dict[str, int]:
        return {"a": 1}

    def set_extra_state(self, state: object) -> None:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Extra(), "'_extra_state', a dict"),
        (Holder(torch.zeros(2, 2).to_sparse()), "sparse"),
        (Holder(torch.zeros(2, device="meta")), "meta"),
        (Holder(torch.zeros(2, dtype=torch.complex128)), "complex128"),
        (Holder(torch.zeros(2, dtype=torch.float8_e4m3fn).view(torch.float4_e2m1fn_x2)), "float4"),
    ],
    ids=["extra", "sparse", "meta", "complex128", "float4"],
)
def test_modules_that_cannot_be_sent_are_refused(module: "torch.nn.Module", words: str) -> None:
    with pytest.raises(ModelError, match=words):
        from_module(module)
    with pytest.raises(ModelError, match=words):
        load_into(module, {})


@pytest.mark.parametrize("attribute", sorted(_TORCH.values()))
def test_tensors_of_every_dtype_and_shape_come_back_bit_for_bit(attribute: str) -> None:
    dtype = getattr(torch, attribute)
    bits = torch.arange(48, dtype=torch.uint8).reshape(2, 24) * 5
    if dtype is torch.bool:
        bits &= 1
    whole = bits.view(dtype)
    given = {"many": whole, "one": whole[0, 0], "none": whole[:0], "columns": whole.T}
    found = to_tensors(from_safetensors(to_safetensors(from_tensors(given))))
    assert found.keys() == given.keys()
    for name, tensor in given.items():
        assert found[name].dtype == dtype
        assert found[name].shape == tensor.shape
        assert bytes_of(found[name]) == bytes_of(tensor), name


def bytes_of(tensor: "torch.Tensor") -> list[int]:
    return tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


def test_an_optimisers_state_goes_on_after_a_round_trip() -> None:
    module = network()
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(2, 3, 3, 3)).sum().backward()
    optimizer.step()
    held = optimizer.state_dict()["state"]
    given = {f"{i}/{key}": value for i, entry in held.items() for key, value in entry.items()}
    assert given["0/step"].dim() == 0
    found = to_tensors(from_safetensors(to_safetensors(from_tensors(given))))
    assert all(torch.equal(found[name], tensor) for name, tensor in given.items())


def test_tensors_have_memory_of_their_own_unless_asked() -> None:
    tensor = torch.zeros(3)
    copied, shared = from_tensors({"a": tensor}), from_tensors({"a": tensor}, copy=False)
    back = to_tensors(copied)["a"]
    tensor += 1
    assert copied["a"].tolist() == [0, 0, 0]
    assert shared["a"].tolist() == [1, 1, 1]
    back += 2
    assert copied["a"].tolist() == [0, 0, 0]


def test_tensors_that_cannot_be_sent_are_named() -> None:
    with pytest.raises(ModelError, match=r"'a' .*complex128"):
        from_tensors({"a": torch.zeros(2, dtype=torch.complex128)})
    with pytest.raises(ModelError, match=r"'a' .*sparse"):
        from_tensors({"a": torch.eye(2).to_sparse()})
    with pytest.raises(ModelError, match=r"float128|longdouble"):
        to_tensors({"a": np.zeros(2, np.longdouble)})
