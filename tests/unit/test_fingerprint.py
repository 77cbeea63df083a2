"""What an object holds, as a hash: every change that changes what it does must be seen."""

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from visiondyno.client.fingerprint import fingerprint

FACTOR = 2


def scaled(value: float) -> float:
    return value * FACTOR


class Held:
    """One of everything that is told apart by content."""

    limit = 1

    def __init__(self) -> None:
        self.numbers = np.zeros((2, 3))
        self.name = "a"
        self.transform = lambda value: 1 * scaled(value)
        self.itself = self

    @property
    def doubled(self) -> int:
        return 2

    @staticmethod
    def fixed() -> int:
        return 3

    def again(self, depth: int = 1) -> int:
        return self.again(depth - 1) if depth else self.limit


def set_limit(held: Held, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Held, "limit", 2)


def set_method(held: Held, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Held, "again", lambda self: 4)


def set_property(held: Held, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Held, "doubled", property(lambda self: 4))


def set_static(held: Held, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Held, "fixed", staticmethod(lambda: 4))


def set_global(held: Held, patch: pytest.MonkeyPatch) -> None:
    patch.setitem(globals(), "FACTOR", 3)


def set_named_function(held: Held, patch: pytest.MonkeyPatch) -> None:
    patch.setitem(globals(), "scaled", lambda value: value + FACTOR)


def set_number(held: Held, patch: pytest.MonkeyPatch) -> None:
    held.numbers[1, 2] = 1


def set_shape(held: Held, patch: pytest.MonkeyPatch) -> None:
    held.numbers = held.numbers.reshape(3, 2)


def set_text(held: Held, patch: pytest.MonkeyPatch) -> None:
    held.name = "b"


def set_lambda(held: Held, patch: pytest.MonkeyPatch) -> None:
    held.transform = lambda value: scaled(value) + 1


def set_enclosed(held: Held, patch: pytest.MonkeyPatch) -> None:
    step = 1
    held.transform = lambda value: scaled(value) + step


@pytest.mark.parametrize(
    "change",
    [
        set_limit,
        set_method,
        set_property,
        set_static,
        set_global,
        set_named_function,
        set_number,
        set_shape,
        set_text,
        set_lambda,
        set_enclosed,
    ],
)
def test_every_change_of_content_or_code_is_seen(
    change: Callable[[Held, pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held()
    before = fingerprint(held)
    assert before is not None
    assert fingerprint(held) == before
    change(held, monkeypatch)
    after = fingerprint(held)
    assert after is not None
    assert after != before


def test_what_functions_enclose_is_seen() -> None:
    def adding(step: int) -> Callable[[int], int]:
        return lambda value: value + step

    assert fingerprint(adding(1)) == fingerprint(adding(1))
    assert fingerprint(adding(1)) != fingerprint(adding(2))


@pytest.mark.torch
def test_tensors_of_all_kinds_are_told_apart_by_their_numbers() -> None:
    torch: Any = pytest.importorskip("torch")
    made: list[Callable[[], Any]] = [
        lambda: torch.arange(6.0).reshape(2, 3),
        lambda: torch.arange(6.0).reshape(3, 2),
        lambda: torch.arange(6.0).reshape(2, 3).t(),
        lambda: torch.arange(6.0).reshape(2, 3).to(torch.bfloat16),
        lambda: torch.tensor(1.0),
        lambda: torch.zeros(0),
        lambda: torch.nn.Parameter(torch.arange(6.0)),
        lambda: np.asfortranarray(np.ones((3, 2)))[::2],
        lambda: torch,
    ]
    hashes = [fingerprint(make()) for make in made]
    assert hashes == [fingerprint(make()) for make in made]
    assert None not in hashes
    assert len(set(hashes)) == len(made)


@pytest.mark.parametrize(
    "value", [threading.Lock(), (step for step in range(3))], ids=["lock", "generator"]
)
def test_what_cant_be_read_has_no_hash(value: object) -> None:
    assert fingerprint(SimpleNamespace(inner=[value])) is None
