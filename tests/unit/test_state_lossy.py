"""Rounded states: how far off they may be, and that feedback keeps them there."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from visiondyno.errors import ModelError, TooLarge
from visiondyno.state import (
    EncodedState,
    ErrorFeedback,
    State,
    Tensor,
    decode,
    encode,
    identity,
    to_safetensors,
)

MATRICES = hnp.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=4)
SPREADS = st.sampled_from([1e-40, 1e-6, 1e-2, 1.0, 1e6])
FLOATS = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16]


@st.composite
def near_states(draw: st.DrawFn) -> tuple[State, State]:
    """A base, and a state near it: two kernels, a vector, a counter."""
    dtype = draw(st.sampled_from(FLOATS))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    spread = draw(SPREADS) if dtype is not np.float16 else 1e-3
    base, state = {}, {}
    for name, shape in (("a", draw(MATRICES)), ("b", draw(MATRICES)), ("bias", (5,))):
        old = rng.normal(0, 1, shape)
        base[name] = old.astype(dtype)
        state[name] = (old + np.float32(spread) * rng.normal(0, 1, shape)).astype(dtype)
    base["n"], state["n"] = np.array(1), np.array(2)
    return base, state


def as_float64(tensor: Tensor) -> Tensor:
    return tensor.astype(np.float64)


def ulp(tensor: Tensor) -> Tensor:
    """Spacing of the tensor's dtype at its values."""
    bits = {2: 11, 4: 24, 8: 53}[tensor.dtype.itemsize]
    if tensor.dtype == ml_dtypes.bfloat16:
        bits = 8
    return np.maximum(np.abs(as_float64(tensor)) * 2.0 ** (1 - bits), 2.0**-130)


def received(sent: EncodedState, base: State | None = None) -> dict[str, Tensor]:
    return decode(sent.data, sent.format, {} if base is None else {identity(base): base})


@given(near_states())
def test_int8_deltas_stay_within_half_a_step(pair: tuple[State, State]) -> None:
    base, state = pair
    sent = encode(state, base=base, lossy="int8-delta")
    found = received(sent, base)
    assert sent.sha256 == identity(found) == identity(sent.decoded)
    assert sent.base_sha256 == identity(base)
    worst = 0.0
    for name in ("a", "b"):
        update = np.abs(as_float64(state[name]) - as_float64(base[name]))
        rows = update.reshape(len(update), -1).max(axis=1)
        step = rows.reshape(-1, *[1] * (update.ndim - 1)) / 127 * (1 + 1e-6) + 2.0**-148
        error = np.abs(as_float64(found[name]) - as_float64(state[name]))
        assert (error <= step / 2 + ulp(found[name])).all()
        worst = max(worst, error.max())
    assert sent.max_abs_error == worst
    for name in ("bias", "n"):
        assert np.array_equal(found[name], state[name])


@given(near_states())
def test_bf16_keeps_eight_bits_of_kernels_and_all_of_vectors(pair: tuple[State, State]) -> None:
    _, state = pair
    sent = encode(state, lossy="bf16")
    found = received(sent)
    assert sent.sha256 == identity(found) == identity(sent.decoded)
    errors = [0.0]
    for name in ("a", "b"):
        assert found[name].dtype == state[name].dtype
        errors.append(np.abs(as_float64(found[name]) - as_float64(state[name])).max())
        expected = as_float64(state[name])
        if state[name].dtype.itemsize > 2:
            assert np.allclose(as_float64(found[name]), expected, rtol=2**-8 + 1e-9, atol=1e-38)
        else:
            assert np.array_equal(as_float64(found[name]), expected)
    assert sent.max_abs_error == max(errors)
    for name in ("bias", "n"):
        assert np.array_equal(found[name], state[name])


@settings(max_examples=25)
@given(st.integers(0, 2**32), SPREADS, st.sampled_from([np.float64, np.float32]))
def test_with_feedback_rounding_never_adds_up(seed: int, spread: float, dtype: type) -> None:
    rng = np.random.default_rng(seed)
    shape = (3, 2, 2)
    start = held = {"w": rng.normal(0, 1, shape).astype(dtype)}
    feedback = ErrorFeedback()
    truth = as_float64(start["w"])
    largest = 0.0
    for _ in range(40):
        # One update dwarfs the others: alone, they would always be rounded away.
        update = spread * rng.normal(0, 1e-3, shape)
        update[:, 0, 0] += spread
        trained = {"w": (as_float64(held["w"]) + update).astype(dtype)}
        step = as_float64(trained["w"]) - as_float64(held["w"])
        truth += step
        largest = max(largest, np.abs(step).max())
        sent = encode(trained, base=held, lossy="int8-delta", feedback=feedback)
        held = received(sent, held)
        off = np.abs(as_float64(held["w"]) - truth)
        assert (off <= largest / 126 + 2 * ulp(held["w"]) + 1e-12 * np.abs(truth)).all()
        assert np.allclose(
            feedback.residuals["w"], truth - as_float64(held["w"]), rtol=1e-3, atol=1e-9
        )


def test_without_feedback_small_updates_are_lost_for_ever() -> None:
    def run(feedback: ErrorFeedback | None) -> float:
        held: State = {"w": np.zeros((1, 2))}
        for _ in range(200):
            trained = {"w": held["w"] + [[1.0, 0.003]]}
            sent = encode(trained, base=held, lossy="int8-delta", feedback=feedback)
            held = received(sent, held)
        return float(held["w"][0, 1])

    assert run(None) == 0.0
    assert run(ErrorFeedback()) == pytest.approx(0.6, abs=1 / 126)


def test_feedback_carries_bf16_over_its_resolution() -> None:
    def run(feedback: ErrorFeedback | None) -> float:
        held: State = {"w": np.ones((1, 1), np.float32)}
        for _ in range(100):
            trained = {"w": held["w"] + np.float32(1e-3)}
            held = received(encode(trained, lossy="bf16", feedback=feedback))
        return float(held["w"][0, 0])

    assert run(None) == 1.0
    assert run(ErrorFeedback()) == pytest.approx(1.1, abs=2**-7)


def test_feedback_goes_on_from_saved_residuals() -> None:
    base, state = {"w": np.zeros((1, 2))}, {"w": np.array([[1.0, 0.003]])}
    first = ErrorFeedback()
    encode(state, base=base, lossy="int8-delta", feedback=first)
    again = ErrorFeedback(first.residuals)
    for feedback in (first, again):
        encode(state, base=base, lossy="int8-delta", feedback=feedback)
    assert np.array_equal(first.residuals["w"], again.residuals["w"])
    assert first.residuals["w"][0, 1] == pytest.approx(0.006 - 1 / 127)


def test_feedback_of_another_model_is_refused_and_kept() -> None:
    feedback = ErrorFeedback({"w": np.ones((2, 2), np.float32)})
    with pytest.raises(ModelError, match=r"residual for 'w' has the shape \[2, 2\]"):
        encode({"w": np.zeros((3, 2))}, lossy="bf16", feedback=feedback)
    assert feedback.residuals["w"].shape == (2, 2)


@pytest.mark.parametrize(
    "tensor",
    [
        np.array([[np.nan, 1.0]], np.float32),
        np.array([[np.inf, 1.0]], np.float32),
        np.array([[np.finfo(np.float32).max, 1.0]], np.float32),
        np.array([[1e300, 1.0]]),
        np.zeros((0, 3), np.float32),
        np.array([[1, 2]]),
        np.array([[1, 2]], np.uint8).view(ml_dtypes.float8_e4m3fn),
    ],
    ids=["nan", "inf", "largest", "beyond-float32", "empty", "int64", "float8"],
)
@pytest.mark.parametrize("kind", ["bf16", "int8-delta"])
def test_what_cannot_be_rounded_travels_exactly(tensor: Tensor, kind: str) -> None:
    base = {"w": tensor, "v": np.zeros((2, 2))}
    if tensor.dtype.kind == "f" and tensor.size:
        base["w"] = -tensor
    sent = encode(
        {"w": tensor, "v": np.ones((2, 2))}, lossy=kind, base=base if "8" in kind else None
    )  # type: ignore[arg-type]
    found = received(sent, base)
    assert found["w"].tobytes() == tensor.tobytes()
    if kind == "bf16":
        assert sent.max_abs_error == 0.0


def test_an_unchanged_state_is_next_to_nothing() -> None:
    state = {"w": np.random.default_rng(2).normal(0, 1, (64, 64)).astype(np.float32)}
    sent = encode(state, base=state, lossy="int8-delta")
    assert sent.size_bytes < 600
    assert sent.max_abs_error == 0.0
    assert sent.format == "int8-delta+shuffle+zstd"


def test_rounded_states_are_a_half_and_a_quarter() -> None:
    rng = np.random.default_rng(3)
    base = {"w": rng.normal(0, 1, (64, 64, 3, 3)).astype(np.float32)}
    state = {"w": base["w"] + rng.normal(0, 0.01, base["w"].shape).astype(np.float32)}
    raw_bytes = len(to_safetensors(state))
    assert encode(state, lossy="bf16").size_bytes < 0.5 * raw_bytes
    assert encode(state, base=base, lossy="int8-delta").size_bytes < 0.25 * raw_bytes


def test_a_rounded_state_that_grows_past_the_limit_is_refused() -> None:
    state = {"w": np.zeros((100, 100))}
    sent = encode(state, lossy="bf16")
    with pytest.raises(TooLarge, match="80,000"):
        decode(sent.data, sent.format, max_bytes=79_000)


@pytest.mark.parametrize(
    "wire",
    [
        {},
        {"v:w": np.zeros((2, 3), np.float32)},
        {"q:w": np.zeros((2, 2), np.int8)},
        {"q:w": np.zeros((2, 2), np.int8), "s:w": np.zeros(3, np.float32)},
        {"q:w": np.zeros((2, 2), np.uint8), "s:w": np.zeros(2, np.float32)},
        {"v:w": np.zeros((2, 2), np.float32), "v:x": np.zeros(1)},
        {"q:w": np.ones((2, 2), np.int8), "s:w": np.float32([np.nan, np.inf])},
    ],
    ids=["none", "shape", "no-scale", "scales", "dtype", "more", "nan-scale"],
)
def test_updates_that_do_not_fit_their_base_are_refused(wire: State) -> None:
    base = {"w": np.zeros((2, 2), np.float32)}
    data = to_safetensors(wire, {"base": identity(base), "sha256": identity(base)})
    with pytest.raises(ModelError):
        decode(data, "int8-delta", {identity(base): base})


@pytest.mark.parametrize(
    "restore",
    ["", "[", "[]", "[" * 10_000, '{"w":"F16"}', '{"w":[]}', '{"x":"F32"}', '{"v":"F32"}'],
    ids=["none", "cut", "list", "deep", "dtype", "type", "name", "not-rounded"],
)
def test_bf16_with_wrong_metadata_is_refused(restore: str) -> None:
    wire = {"w": np.zeros((2, 2), ml_dtypes.bfloat16), "v": np.zeros(2)}
    data = to_safetensors(wire, {"restore": restore, "sha256": identity(wire)})
    with pytest.raises(ModelError, match=r"metadata|bfloat16"):
        decode(data, "bf16")


@pytest.mark.parametrize("format_name", ["bf16", "int8-delta"])
def test_a_rounded_state_without_identity_is_refused(format_name: str) -> None:
    with pytest.raises(ModelError, match="metadata lacks"):
        decode(to_safetensors({}), format_name)
