"""States out of an operation: deltas, rounding, what is kept for the next request."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exchange_cases import Worker, asking, assert_same, full, sending

from visiondyno.operations.state_exchange import ReceivedState, answer_state
from visiondyno.specs.training_operations import StateReply
from visiondyno.state import encode, from_module, from_safetensors, identity, load_into

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker(tmp_path)


def network(seed: int = 0, width: int = 32) -> Any:
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(16, width), torch.nn.BatchNorm1d(width), torch.nn.Linear(width, 4)
    )


def trained(module: Any, seed: int) -> Any:
    """The module after a step of an epoch's size."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(torch.randn_like(weight), alpha=1e-3)
    return module


def received_of(module: Any) -> ReceivedState:
    state = from_module(module)
    return ReceivedState(state, identity(state))


def test_an_answer_is_the_state_and_the_next_request_a_difference_of_nothing(
    worker: Worker,
) -> None:
    module = network()
    answer = answer_state(module, StateReply(), None, worker.files)
    assert answer["model_state_format"].startswith("safetensors")
    assert set(answer) == {
        "model_state",
        "model_state_format",
        "model_state_sha256",
        "model_state_bytes",
    }
    state = worker.decoded(answer)
    assert_same(state, from_module(module))
    trained(module, 1)  # what is kept isn't the module's memory
    received = worker.receive(sending(encode(state, base=state)))
    assert received.sha256 == answer["model_state_sha256"]
    assert_same(received.state, state)


def test_a_delta_is_answered_where_it_is_asked_for_and_smaller(worker: Worker) -> None:
    received = received_of(network(width=512))
    module = trained(network(width=512), 1)
    whole = answer_state(module, StateReply(), received, worker.files)
    delta = answer_state(module, StateReply(delta=True), received, worker.files)
    assert whole["model_state_format"].startswith("safetensors")
    assert delta["model_state_format"] == "delta+shuffle+zstd"
    assert delta["model_state_bytes"] < whole["model_state_bytes"]
    assert_same(worker.decoded(delta, received.state), worker.decoded(whole))


def test_a_large_state_is_published(worker: Worker) -> None:
    module = network(width=150_000)
    answer = answer_state(module, StateReply(), None, worker.files)
    assert answer["model_state"].startswith("sha256:")
    assert answer["model_state_bytes"] > 7_000_000
    assert_same(worker.decoded(answer), from_module(module))
    received = worker.receive(asking(answer["model_state"], answer["model_state_format"]))
    assert received.sha256 == answer["model_state_sha256"]


def test_tied_weights_keep_the_clients_names(worker: Worker) -> None:
    def tied() -> Any:
        module = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Linear(6, 6))
        module[1].weight = module[0].weight
        return module

    module = tied()
    ours = from_module(module)
    for name in ("1.weight", "0.weight"):
        theirs = {n: a for n, a in ours.items() if n != "0.weight"} | {name: ours["0.weight"]}
        received = ReceivedState(theirs, identity(theirs))
        load_into(module, received.state)
        for reply in (StateReply(delta=True), StateReply(lossy="int8-delta")):
            answer = answer_state(module, reply, received, worker.files)
            assert set(worker.decoded(answer, theirs)) == set(theirs)


@pytest.mark.parametrize("lossy", ["bf16", "int8-delta"])
def test_what_rounding_loses_goes_into_the_next_answer(lossy: str, worker: Worker) -> None:
    """As many equal steps, too small to be sent alone: with feedback their sum arrives."""
    reply = StateReply(lossy=lossy)
    start = network()
    with torch.no_grad():
        start[0].weight.fill_(1.0)
    held = from_module(start)
    exact = {name: array.astype(np.float64) for name, array in held.items()}
    step = np.full((32, 16), 1e-3)
    step[:, 0] = 1e-2  # the largest of each row, by which int8 is scaled
    for number in range(20):
        load_into(start, held)
        received = worker.receive(sending(encode(held)))
        with torch.no_grad():
            start[0].weight += torch.tensor(step, dtype=torch.float32)
        exact["0.weight"] += step
        answer = answer_state(start, reply, received, worker.files)
        assert answer.get("model_state_feedback_reset", False) == (number == 0)
        assert answer["model_state_max_abs_error"] >= 0
        assert answer["model_state_format"].startswith(lossy)
        held = worker.decoded(answer, received.state)
    half_a_step = 2**-8 if lossy == "bf16" else 1e-2 / 127 / 2
    off = np.abs(held["0.weight"] - exact["0.weight"]).max()
    assert off <= half_a_step * 1.3 + 20 * 2**-23


def test_feedback_that_is_gone_is_told(worker: Worker) -> None:
    module = network()
    reply = StateReply(lossy="bf16")
    first = answer_state(module, reply, None, worker.files)
    assert "model_state_feedback_reset" not in first
    received = worker.receive(asking(first["model_state"], first["model_state_format"]))
    second = answer_state(module, reply, received, worker.files)
    assert "model_state_feedback_reset" not in second
    plain = answer_state(module, StateReply(), received, worker.files)
    assert "model_state_max_abs_error" not in plain
    worker.cache.put("feedback", received.sha256, b"cut short")
    assert answer_state(module, reply, received, worker.files)["model_state_feedback_reset"]
    worker.cache.drop("feedback", received.sha256)
    assert answer_state(module, reply, received, worker.files)["model_state_feedback_reset"]


def test_without_room_the_answer_comes_and_says_so(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    full(monkeypatch)
    for reply in (StateReply(), StateReply(lossy="bf16")):
        answer = answer_state(network(), reply, None, worker.files)
        assert answer["model_state_not_kept"] == "There is no room left."
        worker.decoded(answer)


def test_a_state_larger_than_the_cache_is_kept_for_the_next_request(tmp_path: Path) -> None:
    worker = Worker(tmp_path, max_bytes=100)
    answer = answer_state(network(), StateReply(), None, worker.files)
    state = worker.decoded(answer)
    assert_same(worker.receive(sending(encode(state, base=state))).state, state)
    assert from_safetensors(worker.cache.read("states", identity(state)) or b"")
