"""Scores of logits are SciPy's, however large the logits are."""

import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis.extra import numpy as arrays
from hypothesis.strategies import floats
from scipy import special

from visiondyno.vision.heads.activations import sigmoid, softmax

LOGITS = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=2, max_dims=3, max_side=5),
    elements=floats(-(2.0**126), 2.0**126, width=32) | floats(-30, 30, width=32),
)


@given(logits=LOGITS)
def test_sigmoid_is_scipys(logits: np.ndarray) -> None:
    found = sigmoid(logits)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, special.expit(logits), rtol=1e-6, atol=1e-37)


@given(logits=LOGITS)
def test_softmax_is_scipys(logits: np.ndarray) -> None:
    found = softmax(logits, axis=1)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, special.softmax(logits, axis=1), rtol=1e-5, atol=1e-37)


def test_a_submissions_process_imports_no_scipy() -> None:
    loaded = "import sys, visiondyno.measuring.untrusted as _; print('scipy' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"
