"""How GPUs compute fp32: as fp32 while a model answers, as the process had it while one is trained.

By default cuDNN's convolutions round to TensorFloat-32 (10 bits of mantissa): a model would be less
precise than its description says, and not the model that ONNX Runtime runs. The setting is the
process's, and one worker trains and predicts: what a training comes to mustn't depend on what its
process answered before.
"""

import warnings
from typing import Any

_before: tuple[Any, ...] | None = None
"""The process's own setting while ours holds."""


def exact_fp32() -> None:
    """Have GPUs compute fp32 as fp32, until `fp32_as_it_was`."""
    global _before  # noqa: PLW0603 - torch's own setting is the process's
    if _before is None:
        _before = _setting()
        _set(("ieee", "ieee", "ieee") if len(_before) == 3 else (False, False))


def fp32_as_it_was() -> None:
    """As it was before `exact_fp32`; nothing where that doesn't hold."""
    global _before  # noqa: PLW0603 - likewise
    if _before is not None:
        _set(_before)
        _before = None


def _setting() -> tuple[Any, ...]:
    from torch.backends import cuda, cudnn

    if hasattr(cudnn, "conv"):  # torch 2.9 on
        return cuda.matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision
    return cuda.matmul.allow_tf32, cudnn.allow_tf32


def _set(setting: tuple[Any, ...]) -> None:
    from torch.backends import cuda, cudnn

    with warnings.catch_warnings():
        # Of the older names, which torch would have given up. They are set all the same: where they
        # contradict the newer ones torch refuses to read them, as `cudnn.flags` and others do.
        warnings.simplefilter("ignore")
        matmul, convolution = setting[0], setting[1]
        cuda.matmul.allow_tf32 = matmul in (True, "tf32")
        cudnn.allow_tf32 = convolution in (True, "tf32")
    if len(setting) == 3:
        cuda.matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision = setting
