"""A study's trials: asked, told, kept, and taken up again."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tuning_cases import OneNumber, a_book

from visiondyno.errors import SpecError
from visiondyno.tuning.book import Book
from visiondyno.tuning.journal import Journal
from visiondyno.tuning.objectives import parse_objectives
from visiondyno.tuning.samplers import make_sampler
from visiondyno.tuning.trial import Failure, State, TrialRecord, trial_seed

TWO = ("val_accuracy", "latency_ms")


def completed(book: Book, record: TrialRecord, *values: float) -> TrialRecord:
    return book.tell(record.with_(state=State.COMPLETED, values=values))


def taken_up(folder: Path, objectives: Sequence[str] = ("score:maximize",), **more: Any) -> Book:
    journal, _, kept = Journal.go_on(folder)
    book = a_book(objectives, journal=journal, **more)
    book.take_up(kept)
    return book


def test_a_trial_is_asked_with_its_number_seed_and_parameters() -> None:
    book = a_book(seed=5)
    records = [book.ask() for _ in range(3)]
    assert [r.number for r in records] == [0, 1, 2]
    assert [r.seed for r in records] == [trial_seed(5, n) for n in range(3)]
    assert all(0 <= r.params["x"] <= 1 and r.state is State.QUEUED for r in records)
    assert book.all() == records


def test_a_trial_is_told_once() -> None:
    book = a_book()
    record = book.ask()
    first = completed(book, record, 0.5)
    again = book.tell(record.with_(state=State.FAILED, failures=(Failure("x", "y", "z"),)))
    assert again == first == book.records[0]
    assert [trial.value for trial in book.study.trials] == [0.5]


@pytest.mark.parametrize(
    ("values", "code"),
    [((float("nan"), 1.0), "not_a_number"), ((1.0,), "wrong_values"), ((), "wrong_values")],
    ids=["nan", "one", "none"],
)
def test_a_trial_without_a_number_for_each_objective_has_failed(
    values: tuple[float, ...], code: str
) -> None:
    book = a_book(TWO)
    told = completed(book, book.ask(), *values)
    assert (told.state, told.values, told.failures[-1].code) == (State.FAILED, (), code)
    assert "val_accuracy" in told.failures[-1].message
    assert [trial.state.name for trial in book.study.trials] == ["FAIL"]
    assert book.best() == []


def test_an_infinite_value_is_a_value() -> None:
    book = a_book(("val_loss",))
    completed(book, book.ask(), float("inf"))
    completed(book, book.ask(), 3.0)
    assert [r.number for r in book.best()] == [1]


def test_the_best_is_the_first_of_the_best_and_with_several_objectives_the_front() -> None:
    one = a_book()
    for value in (0.1, 0.7, 0.7):
        completed(one, one.ask(), value)
    assert [r.number for r in one.best()] == [1]
    two = a_book(TWO)
    for values in ((0.9, 5.0), (0.8, 6.0), (0.7, 3.0)):
        completed(two, two.ask(), *values)
    two.tell(two.ask().with_(state=State.PRUNED))
    assert [r.number for r in two.best()] == [0, 2]


class StopsFromStep:
    def __init__(self, step: int) -> None:
        self.step = step

    def reason(self, trial: Any, step: int, values: Sequence[float]) -> str | None:
        return f"enough at {step}" if step >= self.step else None


def test_reports_are_kept_each_step_once_and_nan_is_not_judged() -> None:
    book = a_book(pruner=StopsFromStep(2))
    record = book.ask()
    assert book.report(0, 1, (0.1,)) is None
    assert book.report(0, 2, (0.2,)) == "enough at 2"
    assert book.report(0, 2, (0.9,)) is None
    assert book.report(0, 3, (float("nan"),)) is None
    told = book.tell(record.with_(state=State.PRUNED, values=(0.2,)))
    assert told.reports[2] == (0.2,)
    assert told.values == ()
    assert a_book().ask().number == 0  # without a pruner nobody is stopped


def test_what_was_noted_keeps_its_reports() -> None:
    book = a_book()
    record = book.ask()
    book.report(0, 1, (0.3,))
    book.note(record.with_(state=State.RUNNING))
    assert book.records[0].reports == {1: (0.3,)}
    assert book.records[0].state is State.RUNNING


def test_trials_that_had_ended_are_not_asked_again_and_the_others_are_the_same(
    tmp_path: Path,
) -> None:
    book = a_book(seed=4, journal=Journal.begin(tmp_path, {}))
    asked = [book.ask() for _ in range(5)]
    ended = [
        completed(book, asked[0], 0.5),
        book.tell(asked[3].with_(state=State.FAILED, failures=(Failure("x", "Why.", "here"),))),
    ]
    book.note(asked[1].with_(state=State.RUNNING, attempts=1, lane="here"))
    book.report(4, 1, (0.4,))
    ended.append(book.tell(asked[4].with_(state=State.PRUNED)))
    book.close()

    again = taken_up(tmp_path, seed=4)
    assert [again.records[n] for n in (0, 3, 4)] == ended
    first, second, fresh = again.ask(), again.ask(), again.ask()
    assert [(r.number, r.seed, r.params) for r in (first, second)] == [
        (r.number, r.seed, r.params) for r in asked[1:3]
    ]
    assert (fresh.number, fresh.seed) == (5, trial_seed(4, 5))
    assert [t.state.name for t in again.study.trials[:5]] == [
        "COMPLETE", "RUNNING", "RUNNING", "FAIL", "PRUNED",
    ]  # fmt: skip
    assert again.study.trials[4].intermediate_values == {1: 0.4}
    again.close()


def test_a_study_is_taken_up_twice(tmp_path: Path) -> None:
    book = a_book(journal=Journal.begin(tmp_path, {}))
    params = [book.ask().params for _ in range(3)]
    book.close()
    again = taken_up(tmp_path)
    completed(again, again.ask(), 0.1)
    again.close()
    third = taken_up(tmp_path)
    assert [third.ask().params for _ in range(2)] == params[1:]
    third.close()


class Other(OneNumber):
    def __init__(self, name: str, high: float) -> None:
        self.name, self.high = name, high

    def suggest(self, trial: Any) -> dict[str, Any]:
        return {self.name: trial.suggest_float(self.name, 0.0, self.high)}


@pytest.mark.parametrize("state", ["completed", "running"])
@pytest.mark.parametrize("space", [Other("y", 1.0), Other("x", 1e-9)], ids=["name", "range"])
def test_another_space_is_refused_before_anything_is_taken(space: Other, state: str) -> None:
    book = a_book()
    kept = completed(book, book.ask(), 0.5).to_json() | {"state": state}
    other = Book(parse_objectives(["a:minimize"]), space, make_sampler("tpe", {}, 0), None, 0)
    with pytest.raises(SpecError, match="another space"):
        other.take_up([kept])
    assert (other.study.trials, other.records) == ([], {})


@pytest.mark.parametrize(
    "kept",
    [[{"number": 0}], [None], [TrialRecord(1, 1, {"x": 0.5}).to_json()],
     [TrialRecord(0, 1, {"x": 0.5}, State.COMPLETED, values=(1.0, 2.0)).to_json()]],
    ids=["no trial", "nothing", "a gap", "other objectives"],
)  # fmt: skip
def test_a_damaged_journal_is_refused(kept: list[Any]) -> None:
    with pytest.raises(SpecError, match="Begin a new study"):
        a_book().take_up(kept)


def test_several_threads_ask_and_tell() -> None:
    book = a_book(sampler="random")

    def work() -> None:
        for _ in range(10):
            record = book.ask()
            book.report(record.number, 1, (0.1,))
            completed(book, record, record.params["x"])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [r.number for r in book.all()] == list(range(40))
    assert all(r.state is State.COMPLETED for r in book.all())
    assert book.best()[0].values[0] == max(trial.value for trial in book.study.trials)


def test_a_book_without_a_journal_closes() -> None:
    a_book().close()
