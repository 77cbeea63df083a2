"""A study looks at its only place before it begins."""

from pathlib import Path
from typing import Any

import pytest

from visiondyno.client.client import Client
from visiondyno.errors import TransportDown, Unauthorized
from visiondyno.places import Place
from visiondyno.tuning.study import Study

SPEC = {"data": "digits:train:20", "trials": 1, "epochs": 1}


class Began(Exception):
    """The study went on."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Places that answer as the test says; a study that goes on raises `Began`."""
    found: dict[str, Any] = {"places": [], "answer": None}

    def health(client: Client) -> dict[str, Any]:
        found["places"].append(client.place.where)
        if found["answer"] is not None:
            raise found["answer"]
        return {}

    def prepare(study: Study, on_event: Any) -> None:
        raise Began

    monkeypatch.setattr(Client, "health", health)
    monkeypatch.setattr(Study, "_prepare", prepare)
    return found


def run(place: Place, folder: Path) -> None:
    Study(SPEC, place, folder=folder / "study").run()


def test_where_nothing_answers_no_trial_begins(asked: dict[str, Any], tmp_path: Path) -> None:
    asked["answer"] = TransportDown("No server answers.")
    with pytest.raises(TransportDown, match="No server answers"):
        run(Place("http://127.0.0.1:1"), tmp_path)
    assert not (tmp_path / "study").exists()


def test_other_answers_are_for_the_trials_to_tell(asked: dict[str, Any], tmp_path: Path) -> None:
    asked["answer"] = Unauthorized("The key isn't taken.")
    with pytest.raises(Began):
        run(Place("http://127.0.0.1:1"), tmp_path)
    assert asked["places"] == ["http://127.0.0.1:1"]


@pytest.mark.parametrize(
    "place",
    [
        Place("inline"),
        Place("local"),
        Place("runpod", endpoint="a,b"),
        Place("runpod", endpoint="a", fallback="local"),
    ],
    ids=["inline", "local", "two endpoints", "fallback"],
)
def test_a_study_that_can_do_without_it_asks_nobody(
    place: Place, asked: dict[str, Any], tmp_path: Path
) -> None:
    asked["answer"] = TransportDown("No server answers.")
    with pytest.raises(Began):
        run(place, tmp_path)
    assert not asked["places"]
