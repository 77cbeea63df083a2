"""Modules of the user's own: exported once, trained elsewhere as plain torch trains them here."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training_places import HYPER, CountingClient, blobs_of_points
from visiondyno.client.model_state import ModelState
from visiondyno.client.trainer import Trainer
from visiondyno.errors import MissingExtra, ModelError, SpecError
from visiondyno.specs.inline_data import InlineData
from visiondyno.training.data import epoch_seeds
from visiondyno.training.program_export import export_program

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # small modules are faster so, and other tests keep their cores
nn = torch.nn
pytestmark = pytest.mark.torch

TRAIN, HELD_OUT = blobs_of_points(), blobs_of_points(45, seed=1)
EPOCHS, RATE, SEED = 3, 0.02, 11


class Own(nn.Module):  # type: ignore[misc]
    """What a description by layers can't say: a branch, tied and frozen weights, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.3)
        self.up = nn.Linear(8, 8, bias=False)
        self.again = nn.Linear(8, 8, bias=False)
        self.again.weight = self.up.weight
        self.last = nn.Linear(8, 3)
        self.unused = nn.Linear(2, 2)
        self.register_buffer("scale", torch.full((8,), 0.5), persistent=False)
        self.register_buffer("kept", torch.ones(1))
        self.first.bias.requires_grad_(False)

    def forward(self, points: Any) -> Any:
        hidden = self.drop(self.norm(self.first(points)))
        return self.last(torch.relu(self.again(self.up(hidden))) + hidden * self.scale)


def own() -> Any:
    torch.manual_seed(2)
    return Own()


def trained_plainly(module: Any, epochs: int = EPOCHS) -> Any:
    """The loop that anybody writes; order and noise of an epoch as its documentation says."""
    features, labels = map(torch.from_numpy, TRAIN)
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=RATE)
    module.train()
    for epoch in range(1, epochs + 1):
        order_seed, noise_seed = epoch_seeds(SEED, epoch)
        order = torch.randperm(90, generator=torch.Generator().manual_seed(order_seed))
        torch.manual_seed(noise_seed)
        for batch in order.split(16):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(module(features[batch]), labels[batch])
            loss.backward()
            optimizer.step()
    return module


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CountingClient]:
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with CountingClient("inline") as opened:
        yield opened


@pytest.fixture
def trainer(client: CountingClient) -> Trainer:
    return Trainer(client)


HYPERS = {"learning_rate": RATE, "batch_size": 16, "seed": SEED}


def test_it_learns_bit_by_bit_what_plain_torch_teaches_it(trainer: Trainer) -> None:
    module = own().eval()
    module.norm.train()
    before = ModelState.of(module)
    state, history = trainer.train_model(module, TRAIN, HELD_OUT, HYPERS, epochs=EPOCHS)
    assert ModelState.of(module) == before
    assert [part.training for part in (module, module.norm, module.drop)] == [False, True, False]
    state.load_into(module)
    expected = trained_plainly(own())
    assert ModelState.of(module) == ModelState.of(expected)
    assert module.again.weight is module.up.weight
    assert torch.equal(module.first.bias, own().first.bias)
    expected.eval()
    with torch.no_grad():
        answers = expected(torch.from_numpy(HELD_OUT[0])).argmax(1).numpy()
    assert history[-1]["val_metrics"]["accuracy"] == pytest.approx(np.mean(answers == HELD_OUT[1]))


def test_epoch_by_epoch_it_ends_where_plain_torch_does(
    trainer: Trainer, client: CountingClient
) -> None:
    module, state = own(), None
    for _ in range(EPOCHS):
        _, state = trainer.train_epoch(module, TRAIN, HYPERS, model_state=state)
        state.load_into(module)
        assert trainer.evaluate(module, state, TRAIN)["samples_processed"] == 90
    assert state == ModelState.of(trained_plainly(own()))
    assert len(client.uploads) == 1  # the program: not again for weights that changed
    assert {job["model_config"]["program"] for job in client.inputs} == set(client.uploads)


def test_its_own_weights_are_where_it_begins(trainer: Trainer, client: CountingClient) -> None:
    module = own()
    once, _ = trainer.train_model(module, TRAIN, None, HYPERS)
    assert "model_state" not in client.inputs[0]  # they came with the program
    with torch.no_grad():
        module.last.weight.add_(0.1)
    other, _ = trainer.train_model(module, TRAIN, None, HYPERS)
    assert "model_state" in client.inputs[1]
    assert once != other
    fresh = own()
    with torch.no_grad():
        fresh.last.weight.add_(0.1)
    assert other == ModelState.of(trained_plainly(fresh, epochs=1))


def test_a_module_that_was_rebuilt_is_exported_again(
    trainer: Trainer, client: CountingClient
) -> None:
    module = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.1), nn.Linear(8, 3))
    trainer.train_model(module, TRAIN, None, HYPERS)
    trainer.train_model(module, TRAIN, None, HYPERS)
    assert len(client.uploads) == 1
    module[1].p = 0.2
    trainer.train_model(module, TRAIN, None, HYPERS)
    module[0].weight.requires_grad_(False)
    trainer.train_model(module, TRAIN, None, HYPERS)
    assert len(client.uploads) == 3


def test_whole_numbers_are_looked_up_where_the_module_looks_up(trainer: Trainer) -> None:
    torch.manual_seed(0)
    words = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(12, 2))
    tokens = {"features": [[0, 1, 2], [4, 3, 2], [1, 1, 1]], "labels": [0, 1, 0]}
    state, _ = trainer.train_model(words, tokens, None, HYPER)
    assert set(state) == set(words.state_dict())

    class Positions(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.places = nn.Embedding(3, 1)
            self.last = nn.Linear(3, 2)

        def forward(self, numbers: Any) -> Any:
            return self.last(numbers) + self.places(torch.arange(2)).squeeze(1)

    state, _ = trainer.train_model(Positions(), tokens, None, HYPER)
    assert "places.weight" in state


class ByValue(nn.Module):  # type: ignore[misc]
    def forward(self, points: Any) -> Any:
        return points if points.sum() > 0 else -points


class BySize(nn.Module):  # type: ignore[misc]
    def forward(self, points: Any) -> Any:
        return points.reshape(2, -1)


class ByChance(nn.Module):  # type: ignore[misc]
    def forward(self, points: Any) -> Any:
        return points + torch.randn_like(points)


class ByNumpy(nn.Module):  # type: ignore[misc]
    def forward(self, points: Any) -> Any:
        return points + torch.from_numpy(np.sort(points.numpy()))


class Overlapping(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        both = torch.zeros(12)
        self.register_buffer("one", both[:8])
        self.register_buffer("two", both[4:])

    def forward(self, points: Any) -> Any:
        return points * self.one.sum() + self.two.sum()


class Renaming(nn.Linear):  # type: ignore[misc]
    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}renamed"] = self.weight if keep_vars else self.weight.detach()


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (ByValue(), "depends on the numbers"),
        (BySize(), "how many samples a batch holds"),
        (ByChance(), "draws random numbers"),
        (ByNumpy(), "can't follow ByNumpy"),
        (Overlapping(), "'one' and 'two' of Overlapping share"),
        (Renaming(6, 3), "state_dict of Renaming"),
        (nn.Linear(5, 3), r"shape \(2, 6\)"),
        (nn.Linear(6, 3, device="meta"), "on the meta device"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_cant_be_exported_is_told_with_the_reason(
    trainer: Trainer, client: CountingClient, capfd: Any, module: Any, reason: str
) -> None:
    with pytest.raises(ModelError, match=reason) as raised:
        trainer.train_model(module, TRAIN, None, HYPERS)
    assert "\n" not in str(raised.value)
    assert not client.inputs
    out, err = capfd.readouterr()
    assert out + err == ""


def test_data_that_lie_elsewhere_need_the_shape_of_a_sample(
    trainer: Trainer, client: CountingClient
) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    digits = "digits:train:100"
    with pytest.raises(SpecError, match="input_shape"):
        trainer.train_model(module, digits, None, HYPERS)
    reference = client.put_blob(b"of somebody else")
    with pytest.raises(SpecError, match="input_shape"):
        trainer.evaluate(module, None, reference)
    for useless in (([["a"]], [0]), (np.zeros((0, 3)), [])):
        with pytest.raises(SpecError, match="must be numbers"):
            trainer.train_model(module, useless, None, HYPERS)


class Pairs:
    """The least that is a map-style data set."""

    def __len__(self) -> int:
        return len(TRAIN[0])

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return torch.from_numpy(TRAIN[0][index]), int(TRAIN[1][index])


def test_data_sets_and_dicts_show_a_sample_by_themselves(trainer: Trainer) -> None:
    pairs = torch.utils.data.TensorDataset(*map(torch.from_numpy, TRAIN))
    listed = {"features": TRAIN[0].tolist(), "labels": TRAIN[1].tolist()}
    tensors = tuple(map(torch.from_numpy, TRAIN))
    typed = InlineData(**listed)
    states = [
        trainer.train_model(own(), data, None, HYPERS)[0]
        for data in (TRAIN, pairs, listed, tensors, typed, Pairs())
    ]
    assert len(set(states)) == 1


def test_it_predicts_and_is_exported_without_a_description(
    trainer: Trainer, tmp_path: Path
) -> None:
    module = own()
    found = trainer.predict(module, None, HELD_OUT[0])["outputs"]
    module.eval()
    with torch.no_grad():
        expected = module(torch.from_numpy(HELD_OUT[0])).numpy()
    assert np.array(found) == pytest.approx(expected, abs=1e-6)
    facts = trainer.export(module, None, tmp_path / "own.onnx", input_shape=(6,))
    assert facts["max_abs_difference"] < 1e-4
    assert (tmp_path / "own.onnx").stat().st_size == facts["size_bytes"]


def test_a_module_elsewhere_is_copied_to_the_processor() -> None:
    with pytest.raises(ModelError, match=r"copied to the processor .* \.cpu\(\)"):
        export_program(nn.Linear(6, 3, device="meta"), np.zeros((2, 6), np.float32))


def test_without_torch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(MissingExtra, match="torch"):
        export_program(nn.Linear(2, 2), np.zeros((2, 2), np.float32))


class Scaled(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(6, 3)
        self.factor = 1.0
        self.register_buffer("offset", torch.zeros(1), persistent=False)

    def forward(self, points: Any) -> Any:
        return self.last(points) * self.factor + self.offset


def test_a_module_that_was_changed_in_place_is_not_taken_for_what_it_was(
    trainer: Trainer, client: CountingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(module: Any) -> list[float]:
        outputs: list[list[float]] = trainer.predict(module, None, TRAIN[0][:1])["outputs"]
        return outputs[0]

    module = Scaled()
    first = answer(module)
    assert answer(module) == first
    assert len(client.uploads) == 1
    module.factor = 0.0
    assert answer(module) == [0.0] * 3
    module.offset.fill_(2.0)
    assert answer(module) == [2.0] * 3
    monkeypatch.setattr(Scaled, "forward", lambda self, points: self.last(points) * 0 + 7.0)
    assert answer(module) == [7.0] * 3
    assert len(client.uploads) == 4


def test_a_module_that_cant_be_looked_into_is_exported_each_time(trainer: Trainer) -> None:
    module = Scaled()
    module.lock = threading.Lock()
    first = trainer.predict(module, None, TRAIN[0][:1])["outputs"]
    module.factor = 0.0
    second = trainer.predict(module, None, TRAIN[0][:1])["outputs"]
    assert first != second
    assert second == [[0.0] * 3]
