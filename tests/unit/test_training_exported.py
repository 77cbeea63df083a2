"""Programs of `torch.export`: they train as their source does, and hold nothing that runs code."""

import base64
import contextlib
import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training_cases import class_samples, model_config, nn, same_weights, torch

from visiondyno.errors import ModelError, SpecError
from visiondyno.specs.inline_data import InlineData
from visiondyno.specs.training import Hyperparameters
from visiondyno.state.program_check import checked_program
from visiondyno.training.checks import check_training
from visiondyno.training.data import inline_samples
from visiondyno.training.fit import fit
from visiondyno.training.modules import build_module
from visiondyno.training.session import TrainingSession

pytestmark = pytest.mark.torch


class Block(nn.Module):
    """All that behaves otherwise in training, and sizes that depend on the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.25)
        self.leak = nn.RReLU()
        self.instance = nn.InstanceNorm1d(2)
        self.tracked = nn.InstanceNorm1d(2, track_running_stats=True)
        self.attention = nn.MultiheadAttention(4, 2, dropout=0.3, batch_first=True)
        self.last = nn.Linear(8, 3)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        hidden = self.leak(self.drop(self.norm(self.first(features))))
        pairs = self.tracked(self.instance(hidden.view(features.shape[0], 2, 4)))
        attended, _ = self.attention(pairs, pairs, pairs, need_weights=False)
        return self.last(hidden + attended.reshape(-1, 8))


def exported(module: nn.Module, example: torch.Tensor, *, fixed: bool = False) -> bytes:
    sizes = None if fixed else ({0: torch.export.Dim("batch")},)
    program = torch.export.export(module, (example,), dynamic_shapes=sizes)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def source() -> nn.Module:
    torch.manual_seed(3)
    return Block()


@pytest.fixture(scope="module")
def program() -> bytes:
    return exported(source(), torch.randn(5, 4))


def loaded(data: bytes) -> nn.Module:
    text = base64.b64encode(data).decode()
    return build_module(model_config({"type": "exported", "program": text}))


def test_a_program_trains_and_evaluates_as_its_source_does(program: bytes) -> None:
    hyper = Hyperparameters(learning_rate=0.05, batch_size=16)
    trained = []
    for module in (source(), loaded(program)):
        session = TrainingSession(module, hyper, torch.device("cpu"))
        check_training(module, class_samples(), session.loss, batch_size=16)
        fit(session, class_samples(), class_samples(21), 3)
        trained.append(session)
    for one, other in zip(trained[0].history, trained[1].history, strict=True):
        assert one["train_metrics"] == other["train_metrics"]
        # Attention of torch takes another path in evaluation: the last bits differ.
        assert one["val_metrics"] == pytest.approx(other["val_metrics"])
    assert same_weights(trained[0].module, trained[1].module)


@pytest.mark.slow
def test_a_compiled_program_is_evaluated_in_evaluation_mode() -> None:
    torch.manual_seed(3)
    data = exported(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)), torch.zeros(5, 4))
    histories = []
    for compiled in (False, True):
        hyper = Hyperparameters(learning_rate=0.05, batch_size=16, compile=compiled)
        session = TrainingSession(loaded(data), hyper, torch.device("cpu"))
        histories.append(fit(session, class_samples(48), class_samples(32), 2))
    for one, other in zip(*histories, strict=True):
        for part in ("train_metrics", "val_metrics"):
            assert one[part] == pytest.approx(other[part], rel=1e-4)


def test_a_program_may_be_a_blob(program: bytes) -> None:
    name = "sha256:" + "a" * 64
    config = model_config({"type": "exported", "program": name})
    module = build_module(config, open_blob={name: program}.__getitem__)
    assert set(module.state_dict()) == set(source().state_dict())
    with pytest.raises(SpecError, match="no store of blobs"):
        build_module(config)
    with pytest.raises(SpecError, match="neither base64"):
        build_module(model_config({"type": "exported", "program": "??"}))


def test_a_program_of_whole_numbers_gets_them() -> None:
    data = exported(nn.Sequential(nn.Embedding(5, 2), nn.Flatten()), torch.ones(3, 2).long())
    samples = inline_samples(InlineData(features=[[1, 2]], labels=[0]), loaded(data))
    assert samples.features(torch.tensor([0])).dtype == torch.int64


def test_a_fixed_batch_is_found_before_training() -> None:
    module = loaded(exported(nn.Sequential(nn.Linear(4, 3)), torch.zeros(5, 4), fixed=True))
    loss = TrainingSession(module, Hyperparameters(), torch.device("cpu")).loss
    with pytest.raises(SpecError, match=r"can't take a batch of shape \(16, 4\).*equal to 5"):
        check_training(module, class_samples(), loss, batch_size=16)


class Noisy(nn.Module):
    """Draws random numbers by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 3)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.last(features + torch.randn_like(features))


def test_noise_that_cant_be_switched_off_is_refused() -> None:
    with pytest.raises(ModelError, match=r"aten\.randn_like"):
        loaded(exported(Noisy(), torch.zeros(5, 4)))


def rewritten(data: bytes, change: Callable[[dict[str, bytes]], None]) -> bytes:
    """The archive after `change` of its parts."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    change(parts)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return buffer.getvalue()


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def in_graph(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, bytes]], None]:
    def apply(parts: dict[str, bytes]) -> None:
        model = json.loads(parts["archive/models/model.json"])
        change(model)
        parts["archive/models/model.json"] = json.dumps(model).encode()

    return apply


def first_call(model: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = model["graph_module"]["graph"]["nodes"][0]
    return found


def calls(target: str) -> Callable[[dict[str, bytes]], None]:
    return in_graph(lambda model: first_call(model).update(target=target))


def first_input(model: dict[str, Any], argument: dict[str, Any]) -> None:
    first_call(model)["inputs"][0]["arg"] = argument


def pickled_weight(parts: dict[str, bytes]) -> None:
    name = "archive/data/weights/model_weights_config.json"
    config = json.loads(parts[name])
    config["config"]["first.weight"]["use_pickle"] = True
    parts[name] = json.dumps(config).encode()


def weight_of(**changed: Any) -> Callable[[dict[str, bytes]], None]:
    def apply(parts: dict[str, bytes]) -> None:
        name = "archive/data/weights/model_weights_config.json"
        config = json.loads(parts[name])
        config["config"]["first.weight"].update(changed)
        parts[name] = json.dumps(config).encode()

    return apply


TOWER = "Pow(" * 4 + "Integer(9)" + ", Integer(8))" * 4


def with_part(name: str, content: bytes) -> Callable[[dict[str, bytes]], None]:
    return lambda parts: parts.update({f"archive/{name}": content})


SIZE = "__import__('os').system('x')"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (calls("torch.os.system"), "calls 'torch.os.system'"),
        (calls("torch.ops.aten.__class__.mro"), "calls"),
        (calls("torch.ops.aten.from_file.default"), "from_file"),
        (calls("torch.ops.nowhere.x.default"), "nowhere"),
        (calls("_operator.attrgetter"), "attrgetter"),
        (calls("math.prod"), "math.prod"),
        (in_graph(lambda m: first_input(m, {"as_operator": "torch.load"})), "torch.load"),
        (in_graph(lambda m: first_input(m, {"as_custom_obj": {"name": "x"}})), "isn't a tensor"),
        (in_graph(lambda m: first_input(m, {"as_sym_int": {"as_expr": {"expr_str": SIZE}}})),
         "a size is written as"),
        (in_graph(lambda m: first_input(m, {"expr_str": "(1).bit_length()"})), "a size"),
        (in_graph(lambda m: first_input(m, {"expr_str": "Symbol('os')"})), "a size"),
        (in_graph(lambda m: first_input(m, {"expr_str": "("})), "a size"),
        (in_graph(lambda m: first_input(m, {"expr_str": TOWER})), "a size"),
        (in_graph(lambda m: first_input(m, {"expr_str": "Pow(Integer(9), Integer(99))"})),
         "a size"),
        (in_graph(lambda m: first_input(m, {"expr_str": "Pow()"})), "a size"),
        (in_graph(lambda m: first_input(m, {"expr_str": "9" * 5000})), "a size"),
        (calls("torch.ops.aten.new_empty.default"), "new_empty"),
        (calls("torch.ops.aten.resize_.default"), "resize_"),
        (weight_of(path_name="custom_obj_0"), "is said to be in 'custom_obj_0'"),
        (weight_of(tensor_meta={"sizes": [{"as_int": 2**40}]}), "larger than what is there"),
        (weight_of(tensor_meta=None), "TypeError"),
        (in_graph(lambda m: m.update(guards_code=["1"])), "guards"),
        (in_graph(lambda m: m.update(in_spec='[1, {"type": "collections.defaultdict"}]')),
         "of a type of their own"),
        (in_graph(lambda m: m.update(in_spec="{")), "JSONDecodeError"),
        (pickled_weight, "'first.weight'.*is a pickle"),
        (lambda parts: parts.update({"archive/data/aotinductor/model.so": b"x"}), "aotinductor"),
        (lambda parts: parts.update({"archive/data/constants/custom_obj_0": b"x"}), "custom_obj"),
        (lambda parts: parts.update({"other/models/model.json": b"{}"}), "a part twice"),
        (lambda parts: parts.pop("archive/models/model.json"), "no 'models/model.json'"),
        (lambda parts: parts.update({"archive/models/model.json": b"["}), "JSONDecodeError"),
        (lambda parts: parts.pop("archive/data/weights/weight_0"), "can't be loaded by torch"),
    ],
)  # fmt: skip
def test_a_program_that_holds_more_than_a_graph_is_refused(
    program: bytes, change: Callable[[dict[str, bytes]], None], words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        loaded(rewritten(program, change))


def test_a_pickle_in_a_program_is_never_opened(program: bytes, tmp_path: Path) -> None:
    bomb = pickle.dumps(Bomb(tmp_path / "ran"))
    buffer = io.BytesIO()
    torch.save(Bomb(tmp_path / "ran"), buffer)
    for content in (bomb, buffer.getvalue()):
        odd = content + b"." * (1 - len(content) % 2)  # never a whole number of weights
        data = rewritten(program, with_part("data/weights/weight_0", odd))
        with pytest.raises(ModelError):
            loaded(data)
        loaded(rewritten(program, with_part("data/sample_inputs/model.pt", content)))
    for content in (bomb, buffer.getvalue(), b"", program[:-9]):
        with pytest.raises(ModelError, match=r"program' isn't taken"):
            checked_program(content)
    assert not (tmp_path / "ran").exists()
    torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
    assert (tmp_path / "ran").exists(), "the bomb would have gone off"


def test_a_program_that_is_too_large_or_compressed_is_refused(program: bytes) -> None:
    with pytest.raises(ModelError, match="larger than"):
        checked_program(program, max_bytes=1000)
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/models/model.json", b"[" * 50_000_000)
    with pytest.raises(ModelError, match="compressed"):
        loaded(bomb.getvalue())


def seen_as(shown: bytes, hidden: bytes) -> bytes:
    """A file that Python's zip reader takes for `shown`, and torch's for `hidden`.

    Both look up the directory by the record at the end. Python's corrects its offset by where the
    record lies; torch's believes it. The two directories are of the same length.
    """
    end = struct.Struct("<4s4H2LH")

    def split(data: bytes) -> tuple[bytes, bytearray, tuple[Any, ...]]:
        fields = end.unpack(data[-end.size :])
        return data[: fields[6]], bytearray(data[fields[6] : -end.size]), fields

    before, directory, _ = split(hidden)
    files, shown_directory, fields = split(shown)
    assert len(directory) == len(shown_directory)
    place = 0
    while place < len(shown_directory):
        lengths = struct.unpack_from("<3H", shown_directory, place + 28)
        (offset,) = struct.unpack_from("<L", shown_directory, place + 42)
        # Python adds how far the directory lies behind its offset.
        struct.pack_into("<L", shown_directory, place + 42, offset + len(before) - len(files))
        place += 46 + sum(lengths)
    last = end.pack(*fields[:6], len(before), 0)
    return before + bytes(directory) + files + bytes(shown_directory) + last


def test_torch_gets_the_parts_that_were_looked_at(program: bytes, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save((Bomb(tmp_path / "ran"), torch.zeros(9999)), buffer)

    def replace_sample(parts: dict[str, bytes]) -> None:
        parts["archive/data/sample_inputs/model.pt"] = buffer.getvalue()

    crafted = seen_as(rewritten(program, lambda parts: None), rewritten(program, replace_sample))
    reader = torch._C.PyTorchFileReader(io.BytesIO(crafted))
    assert reader.get_record("data/sample_inputs/model.pt") == buffer.getvalue()
    loaded(crafted)
    assert not (tmp_path / "ran").exists()
    with contextlib.suppress(Exception), contextlib.redirect_stderr(io.StringIO()):
        torch.export.load(io.BytesIO(crafted))
    assert (tmp_path / "ran").exists(), "torch alone would have run it"
