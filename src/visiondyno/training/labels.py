"""Whether labels fit the outputs of a module and its loss: found before training, and named."""

from typing import TYPE_CHECKING

from visiondyno.errors import DatasetError, SpecError
from visiondyno.training.losses import PLACE, Loss

if TYPE_CHECKING:
    import torch

Shape = tuple[int, ...]


def check_labels(
    labels: "torch.Tensor", outputs: Shape, loss: Loss, what: str = "training_data"
) -> None:
    """Refuses labels that the loss would choke on, or silently misread.

    Args:
        labels: of all samples, shape (samples, …).
        outputs: shape of the module's output for one batch, (batch, …).
        loss: says what it expects.
        what: which data it is, for messages.

    Raises:
        SpecError: the module's output doesn't suit the loss.
        DatasetError: a label doesn't suit both; names the first one.
    """
    place = f"'{what}.labels'"
    if loss.labels == "classes":
        _check_classes(labels, outputs, loss, place)
        return
    _check_shape(labels, outputs, loss, place)
    if loss.labels == "binary":
        _check_each(labels, (labels >= 0) & (labels <= 1), f"from 0 to 1 for loss '{loss.name}'",
                    place)  # fmt: skip
    elif loss.labels == "signs":
        _check_each(labels, labels.abs() == 1, f"−1 or 1 for loss '{loss.name}'", place)
    elif loss.labels in ("numbers", "targets"):
        _check_each(labels, labels.isfinite(), "a finite number of float32", place)
    elif loss.labels == "class_sets":
        _check_whole(labels, loss, place)
        highest = outputs[-1] - 1
        _check_each(labels, (labels >= -1) & (labels <= highest),
                    f"a class from 0 to {highest}, or −1 for no more", place)  # fmt: skip


def fit_labels(labels: "torch.Tensor", outputs: "torch.Tensor", loss: Loss) -> "torch.Tensor":
    """Checked labels as the loss takes them: of the dtype and, where it compares, the shape.

    One number a sample becomes (batch, 1) for a module that answers so: torch would compare each
    output with each label instead.
    """
    import torch

    if loss.labels == "classes":
        return labels.float() if labels.is_floating_point() else labels.long()
    labels = labels.long() if loss.labels == "class_sets" else labels.to(torch.float32)
    return labels.reshape(outputs.shape)


def _check_classes(labels: "torch.Tensor", outputs: Shape, loss: Loss, place: str) -> None:
    if len(outputs) < 2:
        raise SpecError(
            f"{PLACE}: '{loss.name}' needs one output for each class, and the model answers one "
            "number a sample. Let its last layer have as many outputs as there are classes."
        )
    if labels.is_floating_point() and tuple(labels.shape[1:]) == outputs[1:]:
        if loss.name != "cross_entropy":
            raise DatasetError(f"{place}: loss '{loss.name}' takes class indices, one a sample.")
        right = (labels >= 0) & (labels <= 1)
        _check_each(labels, right, "the probability of a class, from 0 to 1", place)
        return
    _check_whole(labels, loss, place)
    expected = outputs[2:]
    if tuple(labels.shape[1:]) != expected:
        each = f"of shape {expected}" if expected else "one class index"
        raise DatasetError(
            f"{place}: loss '{loss.name}' takes {each} a sample, and each label has shape "
            f"{tuple(labels.shape[1:])}."
        )
    right = (labels >= 0) & (labels < outputs[1])
    if loss.ignore_index is not None:
        right |= labels == loss.ignore_index
    _check_each(
        labels, right, f"from 0 to {outputs[1] - 1}: the model has {outputs[1]} outputs", place
    )


def _check_whole(labels: "torch.Tensor", loss: Loss, place: str) -> None:
    if not labels.is_floating_point():
        return
    raise DatasetError(
        f"{place}: loss '{loss.name}' takes whole numbers, the indices of classes, and "
        f"{_first(labels, labels != labels.round())}. For regression take 'mse'."
    )


def _check_shape(labels: "torch.Tensor", outputs: Shape, loss: Loss, place: str) -> None:
    given, wanted = tuple(labels.shape[1:]), outputs[1:]
    if given != wanted and not (given == () and wanted == (1,)):
        raise DatasetError(
            f"{place}: loss '{loss.name}' compares each label with the model's output of the same "
            f"shape; the output has shape {wanted}, and each label {given}."
        )


def _check_each(labels: "torch.Tensor", right: "torch.Tensor", expected: str, place: str) -> None:
    if not bool(right.all()):
        raise DatasetError(f"{place}: {_first(labels, ~right)}; each must be {expected}.")


def _first(labels: "torch.Tensor", wrong: "torch.Tensor") -> str:
    """The first wrong label, as `labels[3] is 12`; the first of all where none is wrong."""
    found = wrong.nonzero()
    index = tuple(int(i) for i in found[0]) if len(found) else (0,) * labels.dim()
    return f"labels{''.join(f'[{i}]' for i in index)} is {labels[index].item():g}"
