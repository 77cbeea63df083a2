"""Mistakes of shapes, labels and features are found before training, and named."""

from typing import Any

import pytest
from training_cases import MLP, class_samples, model_config, nn, sequential, session, torch

from visiondyno.errors import DatasetError, InputError, SpecError
from visiondyno.specs.inline_data import InlineData
from visiondyno.specs.training import Hyperparameters
from visiondyno.training.checks import check_evaluation, check_training, logits_of, output_shape
from visiondyno.training.data import TensorSamples, inline_samples
from visiondyno.training.losses import build_loss
from visiondyno.training.modules import build_module

pytestmark = pytest.mark.torch

LINEAR_4_2 = {"type": "linear", "in_features": 4, "out_features": 2}
CONV = {"type": "conv2d", "in_channels": 3, "out_channels": 4, "kernel_size": 3}
EMBEDDING = {"type": "embedding", "num_embeddings": 5, "embedding_dim": 4}
FLATTEN = {"type": "flatten"}
NORM = {"type": "batch_norm1d", "num_features": 4}


def check(layers: list[Any], features: Any, labels: Any, **hyper: Any) -> None:
    module = build_module(sequential(*layers))
    options = {"batch_size": 4, "drop_last": False} | {
        key: hyper.pop(key) for key in ("batch_size", "drop_last") if key in hyper
    }
    loss = build_loss(Hyperparameters(**hyper))
    samples = TensorSamples(torch.as_tensor(features), torch.as_tensor(labels))
    check_training(module, samples, loss, **options)


X = torch.zeros(5, 4)
CLASSES = torch.tensor([0, 1, 0, 1, 0])


@pytest.mark.parametrize(
    ("layers", "features", "labels", "hyper", "words"),
    [
        ([{"type": "relu"}, LINEAR_4_2], torch.zeros(5, 7), CLASSES, {},
         ["layer 1 (linear) expects 4 values in the last dimension", "got samples of shape (7,)"]),
        ([CONV, FLATTEN], torch.zeros(5, 1, 8, 8), CLASSES, {},
         ["layer 0 (conv2d) expects 3 channels in the first dimension of a sample and two sizes",
          "(1, 8, 8)"]),
        ([CONV, FLATTEN], torch.zeros(5, 3, 2, 2), CLASSES, {}, ["layer 0 (conv2d)", "(3, 2, 2)"]),
        ([LINEAR_4_2, NORM], X, CLASSES, {}, ["layer 1 (batch_norm1d) expects 4 channels"]),
        ([NORM, LINEAR_4_2], X, CLASSES, {},
         ["layer 0 (batch_norm1d) expects more than one value", "'drop_last'"]),
        ([{"type": "layer_norm", "normalized_shape": [3]}], X, CLASSES, {},
         ["layer 0 (layer_norm) expects a last shape of (3,)"]),
        ([{"type": "flatten", "start_dim": 0}], X, CLASSES, {},
         ["'model_config'", "answers shape (16,)", "flatten the batch"]),
        ([{"type": "unflatten", "dim": 1, "unflattened_size": [3, 3]}], X, CLASSES, {},
         ["layer 0 (unflatten) can't take what it gets"]),
        ([LINEAR_4_2], X, torch.tensor([0, 1, 2, 1, 0]), {},
         ["'training_data.labels'", "labels[2] is 2", "from 0 to 1: the model has 2 outputs"]),
        ([LINEAR_4_2], X, torch.tensor([0, 1, 1, -1, 0]), {}, ["labels[3] is -1"]),
        ([LINEAR_4_2], X, torch.tensor([0.0, 1.0, 0.5, 0.0, 1.0]), {},
         ["whole numbers", "labels[2] is 0.5", "'mse'"]),
        ([LINEAR_4_2], X, CLASSES[:, None], {}, ["one class index a sample", "shape (1,)"]),
        ([LINEAR_4_2], X, torch.full((5, 2), 1.5), {}, ["labels[0][0] is 1.5", "probability"]),
        ([LINEAR_4_2], X, torch.ones(5, 2), {"loss_function": "nll"}, ["class indices"]),
        ([LINEAR_4_2], X, torch.zeros(5), {"loss_function": "mse"},
         ["'mse'", "output has shape (2,), and each label ()"]),
        ([LINEAR_4_2], X, torch.full((5, 2), 2.0), {"loss_function": "bce_with_logits"},
         ["labels[0][0] is 2", "from 0 to 1"]),
        ([LINEAR_4_2], X, torch.zeros(5, 2), {"loss_function": "soft_margin"}, ["−1 or 1"]),
        ([LINEAR_4_2], X, torch.full((5, 2), 3), {"loss_function": "multi_label_margin"},
         ["labels[0][0] is 3", "from 0 to 1, or −1"]),
        ([LINEAR_4_2], X, torch.full((5, 2), 0.5), {"loss_function": "multi_label_margin"},
         ["whole numbers"]),
        ([{"type": "flatten", "start_dim": 0}, {"type": "unflatten", "dim": 0,
           "unflattened_size": [-1, 4]}, {"type": "linear", "in_features": 4, "out_features": 1},
          {"type": "flatten", "start_dim": 0}], X, CLASSES, {},
         ["needs one output for each class"]),
        ([LINEAR_4_2], torch.tensor([[0.0] * 4] * 4 + [[0, 0, torch.inf, 0]]), CLASSES, {},
         ["'training_data.features[4][2]' is inf"]),
        ([EMBEDDING, FLATTEN, {"type": "linear", "in_features": 8, "out_features": 2}],
         torch.tensor([[0, 1]] * 4 + [[4, 5]]), CLASSES, {},
         ["features[4][1]' is 5", "layer 0 looks up numbers from 0 to 4"]),
        ([LINEAR_4_2], X, CLASSES, {"drop_last": True, "batch_size": 6},
         ["holds 5 samples", "'batch_size'"]),
        ([LINEAR_4_2], torch.zeros(5, 4, dtype=torch.int64), CLASSES, {},
         ["are torch.int64", "takes float32"]),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_before_training(
    layers: list[Any], features: Any, labels: Any, hyper: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        check(layers, features, labels, **hyper)
    assert "\n" not in caught.value.message
    for word in words:
        assert word in caught.value.message


@pytest.mark.parametrize(
    ("layers", "features", "labels", "hyper"),
    [
        ([LINEAR_4_2], X, CLASSES, {}),
        ([LINEAR_4_2], X, torch.tensor([0, 1, -100, 1, 0]), {}),
        ([LINEAR_4_2], X, torch.full((5, 2), 0.5), {}),
        ([LINEAR_4_2], X, torch.full((5, 2), 0.5), {"loss_function": "poisson_nll"}),
        ([LINEAR_4_2], X, torch.tensor([[0, -1]] * 5), {"loss_function": "multi_label_margin"}),
        ([NORM, LINEAR_4_2], X, CLASSES, {"drop_last": True}),
        ([{"type": "linear", "in_features": 4, "out_features": 1}], X, torch.zeros(5),
         {"loss_function": "mse"}),
        ([{"type": "conv2d", "in_channels": 3, "out_channels": 2, "kernel_size": 1}],
         torch.zeros(5, 3, 2, 2), torch.zeros(5, 2, 2, dtype=torch.int64), {}),
        ([EMBEDDING, FLATTEN, {"type": "linear", "in_features": 8, "out_features": 2}],
         torch.tensor([[0, 4]] * 5), CLASSES, {}),
        ([{"type": "gru", "input_size": 4, "hidden_size": 3, "batch_first": True}, FLATTEN],
         torch.zeros(5, 2, 4), CLASSES, {}),
    ],
)  # fmt: skip
def test_what_fits_is_let_through(
    layers: list[Any], features: Any, labels: Any, hyper: dict[str, Any]
) -> None:
    check(layers, features, labels, **hyper)


class _Needs(nn.Module):
    """Looks at numbers, which the meta device hasn't."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.layers = layers

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if features.sum().item() > 1e9:
            raise RuntimeError("too much")
        return self.layers(self.norm(features))


def test_a_module_that_must_see_numbers_is_tried_without_being_changed() -> None:
    samples = class_samples()
    for module in (_Needs(nn.Linear(4, 3)), nn.Sequential(_Needs(nn.Linear(4, 3)))):
        before = {k: v.clone() for k, v in module.state_dict().items()}
        random_state = torch.get_rng_state()
        assert output_shape(module, samples, 8) == (8, 3)
        assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
        assert torch.equal(random_state, torch.get_rng_state())
    with pytest.raises(SpecError, match=r"can't take a batch of shape \(8, 4\)"):
        output_shape(_Needs(nn.Linear(5, 3)), samples, 8)
    with pytest.raises(SpecError, match=r"layer 0 \(_needs\) can't take what it gets"):
        output_shape(nn.Sequential(_Needs(nn.Linear(5, 3))), samples, 8)


def test_one_sample_is_enough_to_evaluate_on() -> None:
    training, samples = session(), class_samples(17)
    with pytest.raises(SpecError, match="more than one value"):
        check_training(training.module, samples, training.loss, batch_size=16)
    check_evaluation(training.module, samples, training.loss, batch_size=16)
    assert training.module.training
    wrong = TensorSamples(torch.zeros(3, 4), torch.tensor([0, 1, 9]))
    with pytest.raises(DatasetError, match=r"'validation_data.labels': labels\[2\] is 9"):
        check_evaluation(training.module, wrong, training.loss, batch_size=16)
    assert training.module.training


def test_a_model_of_several_outputs_is_refused_with_what_to_do() -> None:
    config = {"type": "torchvision", "name": "googlenet", "arguments": {"num_classes": 3}}
    module = build_module(model_config(config | {"arguments": {"init_weights": False}}))
    samples = TensorSamples(torch.zeros(2, 3, 224, 224), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(SpecError, match="'aux_logits': false"):
        output_shape(module, samples, 2)
    with pytest.raises(SpecError, match="answers dict"):
        logits_of({"out": torch.zeros(1)})


def test_samples_and_labels_go_together() -> None:
    with pytest.raises(DatasetError, match="2 samples and 1 labels"):
        TensorSamples(torch.zeros(2, 1), torch.zeros(1))


def test_an_embedding_takes_whole_numbers() -> None:
    module = build_module(sequential(EMBEDDING))
    whole = inline_samples(InlineData(features=[[1, 2]], labels=[0]), module)
    assert whole.features(torch.tensor([0])).dtype == torch.int64
    with pytest.raises(DatasetError, match="whole numbers"):
        inline_samples(InlineData(features=[[1.5, 2]], labels=[0]), module)


def test_checks_dont_change_what_training_gives() -> None:
    samples = class_samples()
    checked, plain = session(), session()
    check_training(checked.module, samples, checked.loss, batch_size=16)
    assert checked.train_epoch(samples) == plain.train_epoch(samples)
    assert MLP["type"] == "sequential"
