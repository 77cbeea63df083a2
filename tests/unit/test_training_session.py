"""A training that was cut off goes on bit by bit as one that wasn't."""

import json
import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_cases import class_samples, same_weights, session, torch

from visiondyno.errors import ModelError, SpecError
from visiondyno.specs.training import EarlyStopping
from visiondyno.training.fit import fit, should_stop
from visiondyno.training.session import SessionState
from visiondyno.training.state_tree import flatten, unflatten

pytestmark = pytest.mark.torch

EPOCHS = 5
HYPER: dict[str, Any] = {
    "optimizer": "adamw",
    "scheduler": "one_cycle",
    "scheduler_arguments": {"max_lr": 0.1},
    "gradient_clip_norm": 1.0,
}
STOP = EarlyStopping(monitor="val_loss", patience=1, min_delta=1.0)


def through_json(state: SessionState) -> SessionState:
    """As it would be after it lay in a file."""
    return SessionState(
        {name: tensor.clone() for name, tensor in state.tensors.items()},
        json.loads(json.dumps(state.values)),
    )


@pytest.fixture(scope="module")
def undisturbed() -> Any:
    whole = session(**HYPER)
    fit(whole, class_samples(), class_samples(21), EPOCHS)
    return whole


@settings(max_examples=12)
@given(cuts=st.sets(st.integers(0, EPOCHS), max_size=3))
def test_cut_anywhere_the_result_is_that_of_an_undisturbed_training(
    undisturbed: Any, cuts: set[int]
) -> None:
    state = None
    for upto in [*sorted(cuts), EPOCHS]:
        part = session(**HYPER)
        torch.manual_seed(upto)  # another process has another random state
        if state is not None:
            part.load_state(through_json(state))
        fit(part, class_samples(), class_samples(21), upto)
        state = part.state()
    assert same_weights(part.module, undisturbed.module)
    assert part.history == undisturbed.history
    assert [record["epoch"] for record in part.history] == list(range(1, EPOCHS + 1))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_mixed_precision_resumes_bit_by_bit(precision: str) -> None:
    def start() -> Any:
        return session(mixed_precision=precision)

    whole, first, second = start(), start(), start()
    fit(whole, class_samples(), None, 3)
    fit(first, class_samples(), None, 2)
    second.load_state(through_json(first.state()))
    fit(second, class_samples(), None, 3)
    assert same_weights(whole.module, second.module)


def test_a_state_doesnt_change_with_the_session() -> None:
    training = session(**HYPER)
    fit(training, class_samples(), None, 1)
    state = training.state()
    before = {name: tensor.clone() for name, tensor in state.tensors.items()}
    fit(training, class_samples(), None, 2)
    assert all(torch.equal(before[name], state.tensors[name]) for name in before)
    assert len(state.values["history"]) == 1


def test_without_the_module_only_the_optimiser_is_restored() -> None:
    one, other = session(**HYPER), session(**HYPER, seed=0)
    fit(one, class_samples(), None, 2)
    state = one.state(with_module=False)
    assert not [name for name in state.tensors if name.startswith("module/")]
    other.module.load_state_dict(one.module.state_dict())
    other.load_state(through_json(state))
    fit(one, class_samples(), None, 3)
    fit(other, class_samples(), None, 3)
    assert same_weights(one.module, other.module)


def trained_state(**hyper: Any) -> SessionState:
    training = session(**(HYPER | hyper))
    fit(training, class_samples(), None, 1)
    return training.state()


SMALLER = {
    "type": "sequential",
    "layers": [{"type": "linear", "in_features": 4, "out_features": 3}],
}


@pytest.mark.parametrize(
    ("payload", "hyper", "words"),
    [
        (SMALLER, {}, ["another training", "'shapes'"]),
        (None, {"optimizer": "sgd"}, ["'optimizer'", "'AdamW'", "'SGD'"]),
        (None, {"scheduler": None, "scheduler_arguments": {}}, ["'scheduler'", "None"]),
        (None, {"seed": 4}, ["'seed'", "4"]),
        (None, {"mixed_precision": "bf16"}, ["'mixed_precision'"]),
    ],
)
def test_a_state_of_another_training_is_refused(
    payload: Any, hyper: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ModelError) as caught:
        session(payload, **(HYPER | hyper)).load_state(trained_state())
    for word in words:
        assert word in caught.value.message


def broken(change: str) -> SessionState:
    state = trained_state()
    tensors, values = dict(state.tensors), json.loads(json.dumps(state.values))
    if change == "lacks a weight":
        del tensors["module/0.bias"]
    elif change == "knows another weight":
        tensors["module/9.bias"] = torch.zeros(1)
    elif change == "has another shape":
        tensors["module/0.bias"] = torch.zeros(9)
    elif change == "lacks a moment":
        del tensors[next(name for name in tensors if "exp_avg" in name)]
    elif change == "lacks its history":
        del values["history"]
    elif change == "lacks its scheduler":
        values["tree"]["dict"] = [e for e in values["tree"]["dict"] if e[0] != "scheduler"]
    elif change == "has no tree":
        values["tree"] = None
    return SessionState(tensors, values)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("lacks a weight", "lacks '0.bias'"),
        ("knows another weight", "holds '9.bias'"),
        ("has another shape", r"'0.bias' has shape \(9,\) there, and \(8,\)"),
        ("lacks a moment", "damaged"),
        ("lacks its history", "damaged"),
        ("lacks its scheduler", "damaged"),
        ("has no tree", "damaged"),
    ],
)
def test_a_damaged_state_is_refused_and_changes_nothing(change: str, words: str) -> None:
    training = session(**HYPER)
    fit(training, class_samples(), None, 2)
    before = training.state()
    with pytest.raises(ModelError, match=words):
        training.load_state(broken(change))
    after = training.state()
    assert after.values == before.values
    assert all(torch.equal(before.tensors[name], after.tensors[name]) for name in before.tensors)


TREES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False)
    | st.text(max_size=3)
    | st.builds(Counter, st.lists(st.integers(0, 3), max_size=4))
    | st.lists(st.floats(width=32, allow_nan=False), max_size=3).map(torch.tensor),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.integers(0, 9) | st.text("ab/", max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(tree=TREES)
def test_any_state_survives_as_tensors_and_json(tree: Any) -> None:
    tensors, values = flatten(tree, "t")
    found = unflatten(tensors, json.loads(json.dumps(values)))
    assert alike(found, tree)


def alike(one: Any, other: Any) -> bool:
    if isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    if type(one) is not type(other):
        return False
    if isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[k], other[k]) for k in other)
    if isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    return bool(one == other)


@pytest.mark.parametrize("tree", [{"a": [object()]}, {1.5: 2}, {"a": lambda: 0}])
def test_what_json_cant_keep_is_refused(tree: Any) -> None:
    with pytest.raises(TypeError):
        flatten(tree, "t")


def history(*losses: float, metric: str = "loss", part: str = "val") -> list[Any]:
    return [
        {"epoch": n, f"{part}_metrics": {metric: loss}} for n, loss in enumerate(losses, start=1)
    ]


@pytest.mark.parametrize(
    ("records", "stopping", "stops"),
    [
        ([], {}, False),
        (history(1.0, 2.0, 3.0), {"patience": 3}, False),
        (history(1.0, 2.0, 3.0, 1.0), {"patience": 3}, True),
        (history(1.0, 2.0, 0.9, 1.0), {"patience": 2}, False),
        (history(1.0, 0.9, 0.8), {"patience": 2, "min_delta": 0.5}, True),
        (history(math.nan, math.nan), {"patience": 2}, True),
        (history(0.1, 0.2, metric="accuracy"), {"patience": 1, "monitor": "val_accuracy"}, False),
        (history(0.2, 0.1, metric="accuracy"), {"patience": 1, "monitor": "val_accuracy"}, True),
        (history(0.1, 0.2, metric="accuracy"),
         {"patience": 1, "monitor": "val_accuracy", "mode": "min"}, True),
        (history(1.0, 2.0, part="train"), {"patience": 1, "monitor": "train_loss"}, True),
    ],
)  # fmt: skip
def test_early_stopping_is_decided_by_the_history(
    records: list[Any], stopping: dict[str, Any], stops: bool
) -> None:
    assert should_stop(records, EarlyStopping(**stopping)) is stops
    assert not should_stop(records, None)


@pytest.mark.parametrize(
    ("records", "monitor", "words"),
    [
        (history(1.0), "val_accuracy", "there is no 'val_accuracy' in epoch 1. There are val_loss"),
        (history(1.0), "train_loss", "There is no such data"),
        (history(1.0, metric="zeal"), "val_zeal", "'early_stopping.mode'"),
    ],
)
def test_a_metric_that_cant_be_watched_is_named(
    records: list[Any], monitor: str, words: str
) -> None:
    with pytest.raises(SpecError, match=words):
        should_stop(records, EarlyStopping(monitor=monitor))


def test_a_resumed_training_stops_where_an_undisturbed_one_does() -> None:
    whole, first, second = session(), session(), session()
    samples = class_samples()
    fit(whole, samples, samples, 9, STOP)
    fit(first, samples, samples, 1, STOP)
    second.load_state(through_json(first.state()))
    fit(second, samples, samples, 9, STOP)
    assert len(whole.history) == len(second.history) < 9
    assert fit(second, samples, samples, 9, STOP) == whole.history


def test_plateaus_are_judged_by_the_training_loss_where_nothing_validates() -> None:
    training = session(
        scheduler="reduce_lr_on_plateau",
        scheduler_arguments={"patience": 0, "threshold": 10.0, "threshold_mode": "abs"},
    )
    fit(training, class_samples(), None, 3)
    assert training.optimizer.param_groups[0]["lr"] < 0.05


def test_a_callback_sees_a_whole_state() -> None:
    training = session(**HYPER)
    seen = []

    def on_epoch(record: Any) -> None:
        seen.append((record["epoch"], training.state().values["epoch"]))

    fit(training, class_samples(), None, 2, on_epoch=on_epoch)
    assert seen == [(1, 1), (2, 2)]
