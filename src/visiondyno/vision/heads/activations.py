"""What makes scores of logits.

Not SciPy's: its import takes longer than all else that a model's child process imports together,
and every child would pay for it.
"""

import numpy as np

from visiondyno.predictions import FloatArray


def sigmoid(logits: FloatArray) -> FloatArray:
    """`1 / (1 + exp(-x))` of each value, of the same shape and dtype; overflows nowhere."""
    powers = np.exp(-np.abs(logits))
    scores: FloatArray = np.where(logits >= 0, 1, powers) / (1 + powers)
    return scores


def softmax(logits: FloatArray, axis: int) -> FloatArray:
    """`exp(x) / sum(exp(x))` along an axis, of the same shape and dtype; overflows nowhere."""
    powers: FloatArray = np.exp(logits - logits.max(axis=axis, keepdims=True))
    powers /= powers.sum(axis=axis, keepdims=True)
    return powers
