"""The health of an epoch: gradients as they are, and a training that doesn't notice."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from training_cases import CLASSES, CPU, class_samples, same_weights, session, torch

from visiondyno.errors import Diverged
from visiondyno.training.data import TensorSamples
from visiondyno.training.fit import fit
from visiondyno.training.health import GradientHealth, gradient_norm
from visiondyno.training.session import TrainingSession

pytestmark = pytest.mark.torch

Vectors = st.lists(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=4), min_size=1, max_size=4
)


@given(Vectors)
def test_the_norm_is_that_of_all_gradients_in_one_vector(vectors: list[list[float]]) -> None:
    weights = []
    for vector in vectors:
        weight = torch.zeros(len(vector), requires_grad=True)
        weight.grad = torch.tensor(vector)
        weights.append(weight)
    whole = math.sqrt(sum(value * value for vector in vectors for value in vector))
    assert float(gradient_norm(weights)) == pytest.approx(whole, rel=1e-5, abs=1e-30)


def test_weights_without_a_gradient_have_none_and_sparse_ones_all_of_theirs() -> None:
    assert float(gradient_norm([torch.zeros(3, requires_grad=True)])) == 0
    table = torch.nn.Embedding(5, 2, sparse=True)
    table(torch.tensor([1, 1, 4])).sum().backward()  # row 1 twice: its gradients are added
    assert table.weight.grad is not None
    dense = table.weight.grad.to_dense()
    assert float(gradient_norm([table.weight])) == pytest.approx(float(dense.norm()))


@given(st.lists(st.floats(0, 1e6, width=32) | st.sampled_from([math.inf, math.nan]), max_size=20))
def test_what_is_not_finite_is_counted_and_spoils_no_mean(norms: list[float]) -> None:
    health = GradientHealth(len(norms), CPU)
    for norm in norms:
        health.note(torch.tensor(norm))
    finite = [norm for norm in norms if math.isfinite(norm)]
    told = json.loads(json.dumps(health.result(), allow_nan=False))
    assert told["nonfinite_steps"] == len(norms) - len(finite)
    if finite:
        assert told["gradient_norm_mean"] == pytest.approx(sum(finite) / len(finite))
        assert told["gradient_norm_max"] == max(finite)
    else:
        assert (told["gradient_norm_mean"], told["gradient_norm_max"]) == (None, None)


def watched(**hyper: Any) -> TrainingSession:
    plain = session(**hyper)
    return TrainingSession(
        plain.module, plain.hyperparameters, CPU, seed=0, total_steps=30, health=True
    )


@pytest.mark.parametrize(
    "hyper",
    [
        {},
        {"gradient_clip_norm": 0.1},
        {"gradient_clip_value": 0.01},
        {"mixed_precision": "fp16"},
        {"mixed_precision": "bf16"},
        {"optimizer": "lbfgs", "gradient_clip_norm": 0.5},
    ],
    ids=["plain", "clipped by norm", "clipped by value", "fp16", "bf16", "lbfgs"],
)
def test_watching_changes_no_bit(hyper: dict[str, Any]) -> None:
    plain, seen = session(**hyper), watched(**hyper)
    fit(plain, class_samples(), class_samples(21), 2)
    fit(seen, class_samples(), class_samples(21), 2)
    assert same_weights(plain.module, seen.module)
    for without, record in zip(plain.history, seen.history, strict=True):
        assert "health" not in without
        health = record.pop("health")
        assert record == without
        assert health["nonfinite_steps"] == 0
        assert 0 < health["gradient_norm_mean"] <= health["gradient_norm_max"]


@pytest.mark.parametrize("clips", [{}, {"gradient_clip_norm": 1e-3}, {"gradient_clip_value": 1e-3}])
def test_the_norms_are_of_gradients_that_were_not_clipped(clips: dict[str, float]) -> None:
    samples = class_samples(16)  # one batch: the only gradient is that of the fresh weights
    seen = watched(**clips)
    seen.end_epoch(seen.train_epoch(samples))
    reference = watched()
    reference.end_epoch(reference.train_epoch(samples))
    (record,), (unclipped,) = seen.history, reference.history
    assert record["health"] == pytest.approx(unclipped["health"], rel=1e-6)
    assert record["health"]["gradient_norm_mean"] > 0.01


def test_a_scaler_that_skips_steps_is_told() -> None:
    """In fp16 the first scale, 65536, is too large for labels this far off: steps are skipped."""
    seen = watched(mixed_precision="fp16", loss_function="mse", learning_rate=1e-4)
    features = torch.ones(64, 4)
    seen.end_epoch(seen.train_epoch(TensorSamples(features, torch.full((64, CLASSES), 3000.0))))
    assert seen.history[0]["health"]["nonfinite_steps"] >= 1


def test_divergence_has_a_code_of_its_own_wherever_it_happens() -> None:
    wild = session(optimizer="sgd", learning_rate=1e30)
    with pytest.raises(Diverged, match=r"In epoch 1, batch \d of 3: .*'learning_rate'") as caught:
        wild.train_epoch(class_samples())
    assert (caught.value.code, caught.value.stage) == ("diverged", "train")
    with torch.no_grad():
        next(wild.module.parameters()).fill_(math.nan)
    with pytest.raises(Diverged, match="In evaluation, batch 1"):
        wild.evaluate(class_samples())


def test_a_training_that_was_taken_up_is_watched_on() -> None:
    one, other = watched(), watched()
    fit(one, class_samples(), None, 1)
    other.load_state(one.state())
    fit(other, class_samples(), None, 2)
    assert [sorted(record) for record in other.history] == [
        ["epoch", "health", "train_metrics"]
    ] * 2
