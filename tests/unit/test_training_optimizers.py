"""Every optimiser, scheduler and loss of the installed torch works, or says why it can't."""

from typing import Any

import pytest
from training_cases import CLASSES, class_samples, model_config, nn, same_weights, session, torch

from visiondyno.errors import SpecError
from visiondyno.specs.training import Hyperparameters
from visiondyno.training.data import TensorSamples
from visiondyno.training.fit import fit
from visiondyno.training.losses import build_loss, loss_classes, why_not_a_loss
from visiondyno.training.modules import build_module
from visiondyno.training.optimizers import build_optimizer, optimizer_classes, scheduler_classes

pytestmark = pytest.mark.torch

LINEAR = {
    "type": "sequential",
    "layers": [{"type": "linear", "in_features": 4, "out_features": CLASSES, "bias": False}],
}
LOOKUP = {
    "type": "sequential",
    "layers": [
        {"type": "embedding_bag", "num_embeddings": 9, "embedding_dim": CLASSES, "sparse": True,
         "mode": "sum"},
    ],
}  # fmt: skip
SCHEDULER_ARGUMENTS: dict[str, dict[str, Any]] = {
    "cosine_annealing_lr": {"T_max": 3},
    "cosine_annealing_warm_restarts": {"T_0": 2},
    "cyclic_lr": {"base_lr": 0.01, "max_lr": 0.1},
    "exponential_lr": {"gamma": 0.5},
    "multi_step_lr": {"milestones": [1, 2]},
    "one_cycle_lr": {"max_lr": 0.1},
    "reduce_lr_on_plateau": {"patience": 0},
    "step_lr": {"step_size": 1},
    "sequential_lr": {
        "schedulers": [{"type": "linear"}, {"type": "step", "step_size": 1}],
        "milestones": [1],
    },
    "chained_scheduler": {"schedulers": [{"type": "constant"}]},
}


def lookup_samples() -> TensorSamples:
    generator = torch.Generator().manual_seed(0)
    return TensorSamples(
        torch.randint(0, 9, (24, 4), generator=generator),
        torch.randint(0, CLASSES, (24,), generator=generator),
    )


@pytest.mark.parametrize("name", sorted(optimizer_classes()))
def test_every_optimizer_learns_and_resumes_bit_by_bit(name: str) -> None:
    sparse = name == "sparse_adam"
    samples = lookup_samples() if sparse else class_samples()
    payload = LOOKUP if sparse else LINEAR

    def start() -> Any:
        return session(payload, optimizer=name, learning_rate=None)

    whole, first, second = start(), start(), start()
    before = {k: v.clone() for k, v in whole.module.state_dict().items()}
    fit(whole, samples, None, 3)
    fit(first, samples, None, 1)
    second.load_state(first.state())
    fit(second, samples, None, 3)
    assert not torch.equal(whole.module.state_dict()["0.weight"], before["0.weight"])
    assert same_weights(whole.module, second.module)
    assert whole.history == second.history


@pytest.mark.parametrize("name", sorted(scheduler_classes()))
def test_every_scheduler_steps_and_resumes_or_is_refused(name: str) -> None:
    arguments = SCHEDULER_ARGUMENTS.get(name, {})

    def start() -> Any:
        return session(
            LINEAR, optimizer="sgd", momentum=0.9, scheduler=name, scheduler_arguments=arguments
        )

    if name in ("lambda_lr", "multiplicative_lr"):
        with pytest.raises(SpecError, match="takes a function"):
            start()
        return
    samples = class_samples()
    whole, first, second = start(), start(), start()
    rates = []

    def note_rate(_: Any) -> None:
        rates.append(whole.optimizer.param_groups[0]["lr"])

    fit(whole, samples, samples, 4, on_epoch=note_rate)
    fit(first, samples, samples, 2)
    second.load_state(first.state())
    fit(second, samples, samples, 4)
    assert same_weights(whole.module, second.module)
    assert whole.scheduler is not None
    assert second.scheduler is not None
    assert whole.scheduler.state_dict().keys() == second.scheduler.state_dict().keys()
    assert name == "reduce_lr_on_plateau" or len({0.05, *rates}) > 1


@pytest.mark.parametrize("name", sorted(loss_classes()))
def test_every_loss_scores_or_is_refused(name: str) -> None:
    reason = why_not_a_loss(loss_classes()[name])
    if reason is not None:
        with pytest.raises(SpecError, match=r"'hyperparameters\.loss_function'"):
            build_loss(Hyperparameters(loss_function=name))
        return
    for spelling in (name, f"{name}_loss", loss_classes()[name].__name__):
        loss = build_loss(Hyperparameters(loss_function=spelling))
    assert loss.name == name
    outputs = torch.rand(6, CLASSES, generator=torch.Generator().manual_seed(0))
    labels = {
        "classes": torch.arange(6) % CLASSES,
        "signs": torch.ones(6, CLASSES),
        "class_sets": torch.zeros(6, CLASSES, dtype=torch.int64),
    }.get(loss.labels, torch.full((6, CLASSES), 0.25))
    assert torch.isfinite(loss.function(outputs, labels))


def test_own_arguments_reach_the_optimizer() -> None:
    module = build_module(model_config(LINEAR))
    optimizer = build_optimizer(
        Hyperparameters(
            optimizer="SGD",
            learning_rate=0.5,
            momentum=0.8,
            weight_decay=0.1,
            optimizer_arguments={"nesterov": True},
        ),
        module,
    )
    group = optimizer.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"], group["nesterov"]) == (
        0.5,
        0.8,
        0.1,
        True,
    )


def test_class_weights_are_a_list() -> None:
    loss = build_loss(Hyperparameters(loss_arguments={"weight": [1, 2, 3], "label_smoothing": 0.1}))
    plain = nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 3.0]), label_smoothing=0.1)
    outputs, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    assert torch.equal(loss.function(outputs, labels), plain(outputs, labels))


def chained(*inner: dict[str, Any]) -> dict[str, Any]:
    return {"type": "chained_scheduler", "schedulers": [*inner, {"type": "step", "step_size": 1}]}


@pytest.mark.parametrize(
    ("hyper", "words"),
    [
        ({"optimizer": "adan"}, ["'hyperparameters.optimizer'", "'adam'"]),
        ({"optimizer": "adam", "momentum": 0.9}, ["'hyperparameters.momentum'", "takes none"]),
        ({"optimizer_arguments": {"lr": 1}}, ["'learning_rate'"]),
        ({"optimizer_arguments": {"beta": 1}}, ["of adam", "'beta'", "'betas'"]),
        ({"optimizer_arguments": {"betas": [0.9]}}, ["'betas'", "got [0.9]"]),
        ({"optimizer_arguments": {"betas": [2, 3]}}, ["Invalid beta"]),
        ({"optimizer": "sparse_adam"}, ["sparse gradients only"]),
        ({"loss_function": "cross_entropie"}, ["'hyperparameters.loss_function'",
                                               "'cross_entropy'"]),
        ({"loss_function": "ctc"}, ["log_probs"]),
        ({"loss_arguments": {"reduction": "none"}}, ["'reduction'", "'none'"]),
        ({"loss_arguments": {"size_average": True}}, ["'size_average'"]),
        ({"loss_arguments": {"weight": ["a"]}}, ["'weight'", "list of numbers"]),
        ({"loss_arguments": {"weight": [float("inf")]}}, ["finite"]),
        ({"scheduler": "cosine"}, ["'hyperparameters.scheduler'", "'cosine"]),
        ({"scheduler": "step"}, ["'hyperparameters.scheduler_arguments' of step", "'step_size'"]),
        ({"scheduler": "cyclic", "scheduler_arguments": {"base_lr": 1, "max_lr": 2},
          "optimizer": "adagrad"}, ["of cyclic"]),
        ({"scheduler": "sequential_lr"}, ["'schedulers' must be a list"]),
        ({"scheduler": "sequential_lr", "scheduler_arguments": {"schedulers": ["x"]}},
         ["schedulers[0]"]),
        ({"scheduler": "chained_scheduler",
          "scheduler_arguments": {"schedulers": [{"type": "stepp"}]}},
         ["schedulers[0]", "'step'"]),
        ({"optimizer_arguments": {"eps": 10**400}}, ["'eps'", "64 bits"]),
        ({"optimizer_arguments": {"betas": [0.9, float("nan")]}}, ["'betas'", "finite"]),
        ({"optimizer_arguments": {"betas": [0.5] * 100_000}}, ["'betas'", "got [0.5, ", "..."]),
        ({"loss_arguments": {"weight": [10**400]}}, ["'weight'", "list of numbers"]),
        ({"loss_arguments": {"weight": [[1], [1, 2]]}}, ["'weight'", "list of numbers"]),
        ({"loss_arguments": {"ignore_index": 2**70}}, ["'ignore_index'", "64 bits"]),
        ({"scheduler": "multi_step", "scheduler_arguments": {"milestones": [[1], [2]]}},
         ["'milestones'", "got [[1], [2]]"]),
        ({"scheduler": "chained_scheduler",
          "scheduler_arguments": {"schedulers": [{"type": "step", "step_size": 1}] * 101}},
         ["at most 100 schedulers"]),
        ({"scheduler": "chained_scheduler",
          "scheduler_arguments": {"schedulers": [chained(chained(chained()))]}},
         ["at most 3 levels"]),
        ({"optimizer": "lbfgs", "mixed_precision": "fp16"}, ["lbfgs", "fp16"]),
        ({"loss_function": "bce", "mixed_precision": "bf16"}, ["bce_with_logits"]),
        ({"data_parallel": True}, ["'hyperparameters.data_parallel'", "the processor"]),
    ],
)  # fmt: skip
def test_wrong_hyperparameters_are_named(hyper: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        session(LINEAR, **hyper)
    assert "\n" not in caught.value.message
    for word in words:
        assert word in caught.value.message


def test_sparse_gradients_need_an_optimizer_that_takes_them() -> None:
    with pytest.raises(SpecError, match="takes no sparse gradients"):
        session(LOOKUP, optimizer="adam")


def test_a_model_without_weights_cant_learn() -> None:
    with pytest.raises(SpecError, match="no weights"):
        session({"type": "sequential", "layers": [{"type": "relu"}]})


@pytest.mark.parametrize(
    ("scheduler", "arguments"), [("step", {"step_size": 0}), ("cosine_annealing", {"T_max": 0})]
)
def test_a_scheduler_that_cant_compute_is_named(scheduler: str, arguments: dict[str, Any]) -> None:
    doomed = session(LINEAR, scheduler=scheduler, scheduler_arguments=arguments)
    with pytest.raises(SpecError, match=r"scheduler_arguments': .*zero"):
        fit(doomed, class_samples(), None, 1)


def test_a_scheduler_that_ends_too_soon_is_named() -> None:
    arguments = {"max_lr": 0.1, "total_steps": 2}
    short = session(LINEAR, scheduler="one_cycle", scheduler_arguments=arguments)
    with pytest.raises(SpecError, match=r"scheduler_arguments.*total steps is 2"):
        fit(short, class_samples(), None, 2)
