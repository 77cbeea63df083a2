"""One pass equals the same pass in plain torch, and its metrics their definitions."""

import itertools
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from training_cases import CPU, MLP, class_samples, linear, nn, same_weights, session, torch

from visiondyno.errors import MissingExtra, OperationFailed, SpecError, Unavailable
from visiondyno.specs.training import Hyperparameters
from visiondyno.training.checks import logits_of
from visiondyno.training.data import (
    TensorSamples,
    batch_count,
    batches,
    epoch_seeds,
    inline_samples,
)
from visiondyno.training.fit import fit
from visiondyno.training.loop import PassOptions, evaluate_module, train_one_epoch
from visiondyno.training.losses import build_loss
from visiondyno.training.metrics import PassMetrics
from visiondyno.training.modules import build_module
from visiondyno.training.optimizers import build_optimizer
from visiondyno.training.precision import autocast, choose_device

pytestmark = pytest.mark.torch


def plain_mlp(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.25), nn.Linear(8, 3)
    )


def test_training_equals_a_plain_torch_loop_bit_by_bit() -> None:
    samples = class_samples(40)
    ours = session(seed=5, optimizer="sgd", momentum=0.9, gradient_clip_norm=0.5,
                   gradient_clip_value=0.2, scheduler="step",
                   scheduler_arguments={"step_size": 1})  # fmt: skip
    plain = plain_mlp(5)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1)
    function = nn.CrossEntropyLoss()
    features = samples.features(torch.arange(40))
    for epoch in range(1, 4):
        order_seed, noise_seed = epoch_seeds(5, epoch)
        order = torch.randperm(40, generator=torch.Generator().manual_seed(order_seed))
        torch.manual_seed(noise_seed)
        plain.train()
        total, hits = 0.0, 0
        for start in range(0, 40, 16):
            chosen = order[start : start + 16]
            optimizer.zero_grad()
            outputs = plain(features[chosen])
            loss = function(outputs, samples.labels[chosen])
            loss.backward()
            nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
            nn.utils.clip_grad_value_(plain.parameters(), 0.2)
            optimizer.step()
            total += loss.item() * len(chosen)
            hits += int((outputs.argmax(1) == samples.labels[chosen]).sum())
        scheduler.step()
        metrics = ours.train_epoch(samples)
        ours.end_epoch(metrics)
        assert metrics == {"loss": total / 40, "accuracy": hits / 40, "samples_processed": 40}
        assert same_weights(ours.module, plain)


def test_what_else_the_process_draws_changes_nothing_and_isnt_changed() -> None:
    samples = class_samples()
    one, other = session(seed=1), session(seed=1)
    one.train_epoch(samples)
    torch.manual_seed(123)
    torch.rand(7)
    before = torch.get_rng_state()
    other.train_epoch(samples)
    assert torch.equal(torch.get_rng_state(), before)
    assert same_weights(one.module, other.module)


def test_gradients_are_scaled_for_fp16_and_weights_stay_float32() -> None:
    half, plain = session(mixed_precision="fp16"), session()
    for training in (half, plain):
        training.end_epoch(training.train_epoch(class_samples()))
    assert half.scaler.is_enabled()
    assert all(weight.dtype == torch.float32 for weight in half.module.parameters())
    assert half.history[0]["train_metrics"]["loss"] == pytest.approx(
        plain.history[0]["train_metrics"]["loss"], rel=0.05
    )
    assert not same_weights(half.module, plain.module)


def test_bf16_clips_and_evaluates() -> None:
    training = session(mixed_precision="bf16", gradient_clip_norm=0.1)
    training.train_epoch(class_samples())
    assert 0 <= training.evaluate(class_samples())["accuracy"] <= 1


@pytest.mark.slow
def test_a_compiled_module_learns_the_same_within_rounding() -> None:
    # Without dropout: the compiler draws random numbers of its own.
    layers = {"type": "sequential", "layers": [MLP["layers"][i] for i in (0, 1, 2, 4)]}
    # By SGD: Adam makes steps of the rounding errors before a normalisation.
    compiled, plain = (session(layers, optimizer="sgd", compile=c) for c in (True, False))
    for training in (compiled, plain):
        fit(training, class_samples(48), class_samples(32), 2)
    assert compiled.module.state_dict().keys() == plain.module.state_dict().keys()
    for one, other in zip(compiled.history, plain.history, strict=True):
        for part in ("train_metrics", "val_metrics"):
            assert one[part] == pytest.approx(other[part], rel=1e-3)


def test_evaluation_learns_nothing_and_restores_the_mode() -> None:
    training = session()
    before = {k: v.clone() for k, v in training.module.state_dict().items()}
    seen: list[tuple[int, int]] = []
    one = training.evaluate(class_samples(), on_step=lambda *step: seen.append(step))
    assert one == training.evaluate(class_samples())
    assert training.module.training
    assert all(torch.equal(before[k], v) for k, v in training.module.state_dict().items())
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_evaluation_gives_the_mode_back_when_it_fails() -> None:
    training = session()
    with pytest.raises(OperationFailed, match=r"In evaluation, batch 1 of 1: RuntimeError"):
        training.evaluate(TensorSamples(torch.zeros(3, 9), torch.zeros(3, dtype=torch.int64)))
    assert training.module.training


@pytest.mark.parametrize("optimizer", ["sgd", "lbfgs"])
def test_a_loss_that_isnt_finite_names_epoch_and_batch(optimizer: str) -> None:
    features = torch.zeros(40, 4)
    features[20] = torch.nan
    samples = TensorSamples(features, torch.zeros(40, dtype=torch.int64))
    training = session(optimizer=optimizer, shuffle=False)
    with pytest.raises(OperationFailed) as caught:
        training.train_epoch(samples)
    assert caught.value.message == (
        "In epoch 1, batch 2 of 3: the loss is nan. Take a smaller 'learning_rate', or set "
        "'gradient_clip_norm'."
    )
    assert caught.value.stage == "train"


def test_a_caller_can_stop_between_batches() -> None:
    def stop(number: int, of: int) -> None:
        if number == 2:
            raise KeyboardInterrupt(of)

    with pytest.raises(KeyboardInterrupt):
        session().train_epoch(class_samples(), on_step=stop)


@given(
    count=st.integers(1, 50),
    batch_size=st.integers(1, 60),
    seed=st.integers(0, 2**63 - 1) | st.none(),
    drop_last=st.booleans(),
)
def test_batches_hold_every_sample_once(
    count: int, batch_size: int, seed: int | None, drop_last: bool
) -> None:
    taken = list(batches(count, batch_size, order_seed=seed, drop_last=drop_last))
    assert len(taken) == batch_count(count, batch_size, drop_last=drop_last)
    flat = [int(index) for batch in taken for index in batch]
    assert len(set(flat)) == len(flat) == (count - count % batch_size if drop_last else count)
    if seed is None:
        assert flat == list(range(len(flat)))


@given(seed=st.integers(0, 2**63 - 1), epoch=st.integers(1, 2**31 - 2))
def test_seeds_of_epochs_are_far_apart(seed: int, epoch: int) -> None:
    near = [*epoch_seeds(seed, epoch), *epoch_seeds(seed, epoch + 1)]
    assert all(0 <= value < 2**63 for value in near)
    assert len(set(near)) == 4
    assert near[:2] == list(epoch_seeds(seed, epoch))


@given(
    rows=st.integers(2, 30),
    outputs=st.integers(1, 3),
    cuts=st.lists(st.integers(1, 29), max_size=4),
    seed=st.integers(0, 2**32 - 1),
)
def test_regression_metrics_are_those_of_all_rows_at_once(
    rows: int, outputs: int, cuts: list[int], seed: int
) -> None:
    generator = np.random.Generator(np.random.PCG64(seed))
    targets = generator.normal(loc=1000, size=(rows, outputs))
    answers = targets + generator.normal(size=(rows, outputs))
    metrics = PassMetrics(build_loss(Hyperparameters(loss_function="mse")))
    edges = [0, *sorted({cut for cut in cuts if cut < rows}), rows]
    for start, end in itertools.pairwise(edges):
        part = slice(start, end)
        metrics.add(0.5, torch.tensor(answers[part]), torch.tensor(targets[part]))
    found = metrics.result()
    error = answers - targets
    spread = ((targets - targets.mean(axis=0)) ** 2).sum(axis=0)
    assert found["mae"] == pytest.approx(np.abs(error).mean())
    assert found["rmse"] == pytest.approx(np.sqrt((error**2).mean()))
    assert found["r2"] == pytest.approx(np.mean(1 - (error**2).sum(axis=0) / spread), rel=1e-6)
    assert found["loss"] == pytest.approx(0.5)
    assert found["samples_processed"] == rows


def test_r2_of_targets_that_dont_vary_is_left_out() -> None:
    metrics = PassMetrics(build_loss(Hyperparameters(loss_function="l1")))
    metrics.add(1.0, torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [3.0]]))
    assert set(metrics.result()) == {"loss", "mae", "rmse", "samples_processed"}


def scored(loss: str, outputs: Any, labels: Any, **arguments: Any) -> dict[str, float]:
    built = build_loss(Hyperparameters(loss_function=loss, loss_arguments=arguments))
    metrics = PassMetrics(built)
    outputs, labels = torch.tensor(outputs), torch.tensor(labels)
    metrics.add(float(built.function(outputs, labels)), outputs, labels)
    return metrics.result()


def test_accuracy_counts_what_each_loss_means() -> None:
    ranks = [[6.0, 5, 4, 3, 2, 1], [6.0, 5, 4, 3, 2, 1], [6.0, 5, 4, 3, 2, 1]]
    found = scored("cross_entropy", ranks, [0, 4, 5])
    assert (found["accuracy"], found["top5_accuracy"]) == (1 / 3, 2 / 3)
    assert "top5_accuracy" not in scored("cross_entropy", [[1.0, 2.0]], [1])
    assert scored("cross_entropy", [[1.0, 2.0]], [[0.1, 0.9]])["accuracy"] == 1.0
    ignored = scored("cross_entropy", [[1.0, 2.0], [1.0, 2.0]], [1, 0], ignore_index=0)
    assert ignored["accuracy"] == 1.0
    pixels = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    assert scored("cross_entropy", pixels.tolist(), [[0, 0]])["accuracy"] == 0.5
    assert scored("bce_with_logits", [[0.3], [-0.3]], [[1.0], [1.0]])["accuracy"] == 0.5
    assert scored("bce", [[0.3], [0.7]], [[0.0], [1.0]])["accuracy"] == 1.0
    assert scored("soft_margin", [[0.3], [-0.7]], [[1.0], [1.0]])["accuracy"] == 0.5
    assert set(scored("kl_div", [[0.1]], [[0.5]])) == {"loss", "samples_processed"}


def test_a_loss_that_adds_up_is_divided_by_the_samples() -> None:
    mean = scored("mse", [[1.0], [3.0]], [[0.0], [0.0]])
    added = scored("mse", [[1.0], [3.0]], [[0.0], [0.0]], reduction="sum")
    assert mean["loss"] == added["loss"] == 5.0


def test_regression_of_one_number_isnt_broadcast() -> None:
    module = build_module(linear(2, 1))
    hyper = Hyperparameters(loss_function="mse", learning_rate=0.1, shuffle=False)
    samples = TensorSamples(torch.eye(2), torch.tensor([1, 5]))
    loss = build_loss(hyper)
    expected = ((module(torch.eye(2)).detach()[:, 0] - torch.tensor([1.0, 5.0])) ** 2).mean()
    optimizer = build_optimizer(hyper, module)
    found = train_one_epoch(module, samples, optimizer, None, loss, PassOptions(hyper, CPU))
    assert found["loss"] == expected.item()
    assert evaluate_module(module, samples, loss, PassOptions(hyper, CPU))["loss"] < found["loss"]


def test_inline_data_becomes_what_the_module_takes() -> None:
    from visiondyno.specs.inline_data import InlineData

    data = InlineData(features=[[1, 2], [3, 4]], labels=[0.5, 1])
    samples = inline_samples(data, build_module(linear(2, 2)))
    assert samples.features(torch.tensor([1])).dtype == torch.float32
    assert samples.labels.dtype == torch.float32
    assert len(samples) == 2


def test_devices_are_found_or_refused() -> None:
    assert choose_device("cpu") == CPU
    if not torch.cuda.is_available():
        assert choose_device("auto") == CPU
        with pytest.raises(Unavailable, match="'cuda:3' was asked for, and torch sees 0 GPUs"):
            choose_device("cuda:3")
    with pytest.raises(SpecError, match="no autocast on 'meta'"):
        autocast("bf16", torch.device("meta"))


def test_without_torch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtra, match=r"visiondyno\[torch\]"):
        choose_device("auto")


def test_one_tensor_of_a_transformers_answer_is_taken() -> None:
    modeling = pytest.importorskip("transformers.modeling_outputs")
    logits = torch.zeros(2, 3)
    assert logits_of(modeling.ImageClassifierOutput(logits=logits)) is logits
