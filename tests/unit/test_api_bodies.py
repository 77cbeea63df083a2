"""JSON bodies: what is taken can be stored and given back; all else is refused."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.api.bodies import read_json
from visiondyno.api.problems import BadBody

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES, st.booleans())
def test_what_is_json_is_read_as_it_is(value: Any, ascii_only: bool) -> None:
    assert read_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(st.binary(max_size=60))
def test_whatever_comes_is_read_or_refused(body: bytes) -> None:
    try:
        value = read_json(body)
    except BadBody:
        return
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"\xef\xbb\xbf{}",
        b"{",
        b"[1,]",
        b"NaN",
        b"-Infinity",
        b"1e999",
        b'{"deep": [[{"a": [-1e400]}]]}',
        b"1" * 400 + b".5",
        b"1" * 5000,
        b'"\\ud800"',
        b"[" * 100_000,
        b"{} {}",
    ],
    ids=range(14),
)
def test_what_could_not_be_given_back_is_refused(body: bytes) -> None:
    with pytest.raises(BadBody) as refusal:
        read_json(body)
    assert refusal.value.status_code == 400


def test_large_numbers_that_fit_are_taken() -> None:
    assert read_json(b"[1e300, 1e-999, 1e0003]") == [1e300, 0.0, 1000.0]
    assert read_json(b"9" * 400) == int("9" * 400)
    assert math.isfinite(read_json(b"1.7976931348623157e308"))
