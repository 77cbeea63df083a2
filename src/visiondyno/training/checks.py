"""What can be known to be wrong before training: shapes layer by layer, labels, features."""

from typing import TYPE_CHECKING, Any

from visiondyno.errors import DatasetError, SpecError
from visiondyno.training.arguments import one_line
from visiondyno.training.data import Samples, batch_count, batches
from visiondyno.training.labels import check_labels, fit_labels
from visiondyno.training.layers import layer_place
from visiondyno.training.losses import Loss
from visiondyno.training.names import snake_case

if TYPE_CHECKING:
    import torch
    from torch import nn

_SCANNED_AT_ONCE = 1024
_NAMED_BY_SHAPES = ("mat1 and mat2", "mat1 dim", "size mismatch")


def check_training(
    module: "nn.Module",
    samples: Samples,
    loss: Loss,
    *,
    batch_size: int,
    drop_last: bool = False,
    what: str = "training_data",
) -> tuple[int, ...]:
    """Shapes of the first and of the last batch, labels and features of all samples.

    Args:
        module: on the processor or a GPU; in training mode for training.
        samples: all are looked at.
        loss: what the labels are for.
        batch_size: of the batches.
        drop_last: whether a last batch that isn't full is left out.
        what: which data it is, for messages.

    Returns:
        The shape of the module's output for the first batch.

    Raises:
        SpecError: a layer, or the loss, doesn't fit what it gets.
        DatasetError: features or labels don't fit.
    """
    count = len(samples)
    if batch_count(count, batch_size, drop_last=drop_last) == 0:
        raise SpecError(
            f"'{what}' holds {count} samples, less than one batch of {batch_size}, and "
            "'drop_last' leaves them out; take a smaller 'batch_size'."
        )
    check_features(samples, module, what)
    first = min(count, batch_size)
    outputs = output_shape(module, samples, first, what)
    rest = count % batch_size
    if rest and not drop_last and rest != first:
        output_shape(module, samples, rest, what)
    check_labels(samples.labels, outputs, loss, what)
    _check_loss(loss, samples.labels[:1], outputs)
    return outputs


def check_evaluation(
    module: "nn.Module",
    samples: Samples,
    loss: Loss,
    *,
    batch_size: int,
    what: str = "validation_data",
) -> None:
    """As `check_training`, in evaluation mode: one sample is enough to normalise by then."""
    was_training = module.training
    module.eval()
    try:
        check_training(module, samples, loss, batch_size=batch_size, what=what)
    finally:
        module.train(was_training)


def _check_loss(loss: Loss, labels: "torch.Tensor", outputs: tuple[int, ...]) -> None:
    """Refuses arguments that don't fit the outputs, such as too few weights of classes."""
    import torch

    device = next((tensor.device for tensor in loss.function.buffers()), labels.device)
    answer = torch.zeros(len(labels), *outputs[1:], device=device)
    try:
        loss.function(answer, fit_labels(labels.to(device), answer, loss))
    except Exception as error:  # torch refuses values with whatever its own code stumbles over
        raise SpecError(
            f"'hyperparameters.loss_arguments' of {loss.name} don't fit a model whose output has "
            f"shape {outputs[1:]}: {one_line(error)}."
        ) from error


def check_features(samples: Samples, module: "nn.Module", what: str = "training_data") -> None:
    """Refuses NaN and infinity, and indices that a first embedding doesn't have.

    Raises:
        DatasetError: names the first wrong number.
    """
    import torch
    from torch import nn

    first = module[0] if isinstance(module, nn.Sequential) else None
    looks_up = isinstance(first, nn.Embedding | nn.EmbeddingBag)
    rows = getattr(first, "num_embeddings", None) if looks_up else None
    dtype = samples.features(torch.arange(1)).dtype
    if first is not None and looks_up == dtype.is_floating_point:
        wanted = "whole numbers to look up" if looks_up else "float32"
        raise DatasetError(f"'{what}.features' are {dtype}, and the model takes {wanted}.")
    if samples.finite and rows is None:
        return
    for indices in batches(len(samples), _SCANNED_AT_ONCE):
        features = samples.features(indices)
        right = torch.isfinite(features)
        expected = "every number must be finite"
        if rows is not None:
            right &= (features >= 0) & (features < rows)
            expected = f"layer 0 looks up numbers from 0 to {rows - 1}"
        if bool(right.all()):
            continue
        place = [int(index) for index in (~right).nonzero()[0]]
        value = features[tuple(place)].item()
        place[0] = int(indices[place[0]])
        shown = "".join(f"[{index}]" for index in place)
        raise DatasetError(f"'{what}.features{shown}' is {value:g}; {expected}.")


def output_shape(
    module: "nn.Module", samples: Samples, size: int, what: str = "training_data"
) -> tuple[int, ...]:
    """Shape of the module's output for a batch of `size` samples, without touching the module.

    Shapes are computed without numbers (torch's `meta` device) where all operations know how, else
    by a real forward pass on copies of what it would change.

    Raises:
        SpecError: a layer doesn't fit what it gets, or the answer isn't one row a sample.
    """
    import torch
    from torch import fx, nn

    features = samples.features(torch.arange(size))
    if isinstance(module, nn.Sequential):
        shape = _through_layers(module, features)
    else:
        planned = None if isinstance(module, fx.GraphModule) else _planned(module, features)
        shape = planned or _tried(module, features, what)
    if not shape or shape[0] != size:
        raise SpecError(
            f"'model_config': for a batch of {size} samples the model answers shape {shape}, and "
            "the first size must be that of the batch. Does a layer flatten the batch too?"
        )
    return shape


def logits_of(output: Any) -> "torch.Tensor":
    """The one tensor that a module answers; of models of transformers their `logits`.

    Raises:
        SpecError: it answers something else.
    """
    import torch

    if isinstance(output, torch.Tensor):
        return output
    has_auxiliary = any(name.startswith("aux_logits") for name in getattr(output, "_fields", ()))
    logits = getattr(output, "logits", None)
    if isinstance(logits, torch.Tensor) and not has_auxiliary:
        return logits
    hint = "take a model that classifies or regresses"
    if has_auxiliary:
        hint = "give the argument 'aux_logits': false"
    raise SpecError(
        f"'model_config': the model answers {type(output).__name__}, and training takes one "
        f"tensor; {hint}."
    )


def _through_layers(module: "nn.Sequential", features: "torch.Tensor") -> tuple[int, ...]:
    flowing = features.to("meta")
    for layer in module:
        try:
            flowing = _on_meta(layer, flowing)
        except Exception:  # it doesn't fit, or must see numbers: the real pass tells which
            return _through_real_layers(module, features)
    return tuple(flowing.shape)


def _through_real_layers(module: "nn.Sequential", features: "torch.Tensor") -> tuple[int, ...]:
    flowing = features
    for index, layer in enumerate(module):
        try:
            flowing = _really(layer, flowing)
        except Exception as error:
            raise _layer_error(index, layer, flowing, error) from error
    return tuple(flowing.shape)


def _planned(module: "nn.Module", features: "torch.Tensor") -> tuple[int, ...] | None:
    """The shape by the meta device; None where the module must see numbers, or refuses them."""
    try:
        return tuple(logits_of(_on_meta(module, features.to("meta"))).shape)
    except SpecError:
        raise
    except Exception:
        return None  # the real pass decides, and says what is wrong


def _tried(module: "nn.Module", features: "torch.Tensor", what: str) -> tuple[int, ...]:
    try:
        output = _really(module, features)
    except Exception as error:
        raise SpecError(
            f"'model_config': the model can't take a batch of shape {tuple(features.shape)} from "
            f"'{what}': {one_line(error)}."
        ) from error
    return tuple(logits_of(output).shape)


def _on_meta(module: "nn.Module", features: "torch.Tensor") -> Any:
    import torch

    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    planned = {name: tensor.detach().to("meta") for name, tensor in state.items()}
    with torch.no_grad():
        return torch.func.functional_call(module, planned, (features,))


def _really(module: "nn.Module", features: "torch.Tensor") -> Any:
    import torch

    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    device = next((tensor.device for tensor in module.parameters()), features.device)
    devices = [device] if device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        return torch.func.functional_call(module, buffers, (features.to(device),))


def _layer_error(
    index: int, layer: "nn.Module", got: "torch.Tensor", error: Exception
) -> SpecError:
    place = layer_place(index, snake_case(type(layer).__name__))
    shape = tuple(got.shape[1:])
    expected = _expected(layer)
    says = f"expects {expected}" if expected else "can't take what it gets"
    more = ""
    if "more than 1 value per channel" in str(error):
        says = "expects more than one value a channel, to normalise by"
        more = " A batch has one sample: change 'batch_size', or set 'drop_last' to leave it out."
    # What torch says of shapes that are named already helps nobody.
    reason = one_line(error)
    reason = "" if (expected and reason.startswith(_NAMED_BY_SHAPES)) or more else f" ({reason})"
    return SpecError(f"{place} {says}, got samples of shape {shape}{reason}.{more}")


def _expected(layer: "nn.Module") -> str | None:
    """What a layer takes, by what it was made of."""
    kind = type(layer).__name__
    for attribute, words in (
        ("in_features", "{} values in the last dimension"),
        ("in_channels", "{} channels in the first dimension of a sample"),
        ("num_features", "{} channels in the first dimension of a sample"),
        ("num_channels", "{} channels in the first dimension of a sample"),
        ("normalized_shape", "a last shape of {}"),
        ("input_size", "{} values in the last dimension"),
        ("d_model", "{} values in the last dimension"),
        ("num_embeddings", "whole numbers below {}"),
    ):
        if hasattr(layer, attribute):
            expected = words.format(getattr(layer, attribute))
            dimensions = kind[-2] if kind.endswith(("1d", "2d", "3d")) else None
            sizes = {"1": " and a length", "2": " and two sizes", "3": " and three sizes"}
            is_convolution = attribute == "in_channels"
            return expected + (sizes[dimensions] if dimensions and is_convolution else "")
    return None
