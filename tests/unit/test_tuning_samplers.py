"""Every sampler of Optuna, asked and told one trial at a time, and taken up again."""

import importlib.util
from typing import Any

import pytest
from tuning_cases import a_book

from visiondyno.errors import SpecError, Unavailable
from visiondyno.tuning.book import Book
from visiondyno.tuning.objectives import parse_objectives
from visiondyno.tuning.samplers import make_sampler
from visiondyno.tuning.trial import Json, State, TrialRecord

GRID = {"search_space": {"x": [0.1, 0.5], "n": [1, 2], "c": ["a", "b"]}}
ARGUMENTS: dict[str, Json] = {
    "GridSampler": GRID,
    "PartialFixedSampler": {"fixed_params": {"n": 2}, "base_sampler": "random"},
    "NSGAIISampler": {"population_size": 4},
    "GPSampler": {"n_startup_trials": 4},
}
NAMES = (
    "BruteForceSampler", "GPSampler", "GridSampler", "NSGAIISampler", "NSGAIIISampler",
    "PartialFixedSampler", "QMCSampler", "RandomSampler", "TPESampler",
)  # fmt: skip
EACH = [
    pytest.param(name, marks=pytest.mark.torch if name == "GPSampler" else ()) for name in NAMES
]


class Mixed:
    """A number, a count and a choice; without the number where all is to be tried."""

    def __init__(self, with_number: bool) -> None:
        self.with_number = with_number

    def suggest(self, trial: Any) -> dict[str, Any]:
        found = {"x": trial.suggest_float("x", 0, 1)} if self.with_number else {}
        return {
            **found,
            "n": trial.suggest_int("n", 1, 3),
            "c": trial.suggest_categorical("c", ["a", "b"]),
        }


def book_with(name: str, taken_up: int = 0, seed: int = 3) -> Book:
    sampler = make_sampler(name, ARGUMENTS.get(name, {}), seed, taken_up)
    space = Mixed(with_number=name != "BruteForceSampler")
    return Book(parse_objectives(["val_accuracy"]), space, sampler, None, seed)


def run(book: Book, trials: int) -> list[TrialRecord]:
    """So many trials, one at a time, or all there are."""
    told = []
    while len(told) < trials and not book.is_exhausted:
        record = book.ask()
        value = record.params["n"] + record.params.get("x", 0.0)
        told.append(book.tell(record.with_(state=State.COMPLETED, values=(value,))))
    return told


def test_every_sampler_is_tried_here() -> None:
    with pytest.raises(SpecError) as caught:
        make_sampler("no such", {}, 0)
    known = str(caught.value)
    assert all(name in known for name in (*NAMES, "CmaEsSampler"))
    assert known.count("Sampler") == len(NAMES) + 1


@pytest.mark.parametrize("name", EACH)
def test_one_worker_and_the_same_seed_give_the_same_trials(name: str) -> None:
    trials = 5 if name == "GPSampler" else 10
    first, second = run(book_with(name), trials), run(book_with(name), trials)
    assert [r.params for r in first] == [r.params for r in second]
    assert [r.seed for r in first] == [r.seed for r in second]


@pytest.mark.parametrize("name", EACH)
def test_a_study_is_gone_on_with(name: str) -> None:
    told = run(book_with(name), 5)
    kept = [record.to_json() for record in told]
    kept[-1] |= {"state": "running", "values": [], "ended_at": None}
    book = book_with(name, taken_up=len(kept))
    book.take_up(kept)
    assert book.ask().params == told[-1].params
    book.tell(book.records[4].with_(state=State.COMPLETED, values=(1.0,)))
    more = run(book, 1)
    assert [record.number for record in more] == [5]


@pytest.mark.parametrize("name", ["RandomSampler", "QMCSampler", "TPESampler"])
def test_after_a_resume_no_trial_is_asked_twice(name: str) -> None:
    told = run(book_with(name), 5)
    book = book_with(name, taken_up=len(told))
    book.take_up([record.to_json() for record in told])
    seen = [record.params["x"] for record in told]
    assert not {record.params["x"] for record in run(book, 5)} & set(seen)


@pytest.mark.parametrize(("name", "size"), [("GridSampler", 8), ("BruteForceSampler", 6)])
def test_what_tries_all_there_is_says_so_also_after_a_resume(name: str, size: int) -> None:
    told = run(book_with(name), size + 1)
    assert len(told) == size
    book = book_with(name, taken_up=3)
    book.take_up([record.to_json() for record in told[:3]])
    rest = run(book, size + 1)
    params = [tuple(sorted(r.params.items())) for r in (*told[:3], *rest)]
    assert len(set(params)) == len(params) == size


def test_generations_survive_a_resume() -> None:
    told = run(book_with("NSGAIISampler"), 8)
    book = book_with("NSGAIISampler", taken_up=8)
    book.take_up([record.to_json() for record in told])
    assert run(book, 1)[0].sampler_notes == {"NSGAIISampler:generation": 2}


@pytest.mark.parametrize("name", ["tpe", "TPE", "TPESampler", "tpe_sampler", "nsga-ii"])
def test_names_are_taken_as_people_write_them(name: str) -> None:
    assert type(make_sampler(name, {}, 0)).__name__ in ("TPESampler", "NSGAIISampler")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("tpe", {"no_such": 1}), ("grid", {}), ("nsgaii", {"population_size": 1}),
     ("partialfixed", {"fixed_params": {}, "base_sampler": "no such"})],
    ids=str,
)  # fmt: skip
def test_wrong_arguments_are_told(name: str, arguments: Json) -> None:
    with pytest.raises(SpecError):
        make_sampler(name, arguments, 0)


def test_what_a_sampler_lacks_is_told_before_the_study() -> None:
    if importlib.util.find_spec("cmaes") is not None:
        book = a_book(sampler="cmaes")
        assert [book.ask().number for _ in range(3)] == [0, 1, 2]
        return
    with pytest.raises(Unavailable, match="pip install cmaes"):
        make_sampler("cmaes", {}, 0)


def test_another_study_seed_gives_other_trials() -> None:
    assert [r.params for r in run(book_with("tpe", seed=1), 3)] != [
        r.params for r in run(book_with("tpe", seed=2), 3)
    ]
