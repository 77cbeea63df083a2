"""What `dyno tune` says at the end, and which exit code it has."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from study_cases import trial

from visiondyno.cli.tune_summary import efficiency, is_in_vain, summary_lines
from visiondyno.specs.tuning import StudySpec
from visiondyno.tuning.lanes import LaneReading
from visiondyno.tuning.objectives import parse_objectives
from visiondyno.tuning.study import StudyResult
from visiondyno.tuning.trial import Failure, State, TrialRecord

ACCURACY = parse_objectives(["val_accuracy"])
BOTH = parse_objectives(["val_accuracy", "latency_ms"])
LANE = LaneReading("here", 4, 4, 0, 3, {}, 0, None, None)
BROKEN = Failure("bad_data", "Image 3 is broken.", "here")
DIVERGED = Failure("diverged", "The loss is NaN.", "here")


def completed(number: int, *values: float, at: tuple[float, float] = (10.0, 12.0)) -> TrialRecord:
    began, ended = at
    return trial(
        number, State.COMPLETED, values=values, params={"lr": 0.125, "kind": "a"},
        started_at=began, ended_at=ended,
    )  # fmt: skip


def failed(number: int, ended_at: float, failure: Failure = BROKEN) -> TrialRecord:
    return trial(number, State.FAILED, failures=(failure,), started_at=9.0, ended_at=ended_at)


def study(*trials: TrialRecord, **fields: Any) -> StudyResult:
    best = tuple(one for one in trials if one.state is State.COMPLETED)[:1]
    result = StudyResult(
        spec=StudySpec(data="digits"), objectives=ACCURACY, trials=trials, best=best,
        stopped=None, lanes=(LANE,), began_at=10.0, seconds=4.0,
    )  # fmt: skip
    return replace(result, **fields)


def said(result: StudyResult, workers: int = 2) -> dict[str, str]:
    return dict(summary_lines(result, workers, Path("out")))


def test_a_study_says_its_best_its_counts_its_time_and_its_files() -> None:
    trials = (completed(0, 0.75), completed(1, 0.5, at=(10.0, 14.0)), trial(2, State.PRUNED))
    assert said(study(*trials)) == {
        "Best": "val_accuracy 0.7500 (trial 0)",
        "Parameters": "lr=0.125, kind=a",
        "Trials": "3 trials: 2 completed, 1 pruned",
        "Time": "4.00 s; 2 workers busy for 75% of it",
        "Page": "out/study.html",
        "Results": "out/results.json",
    }


def test_a_study_says_what_it_cost_what_failed_and_where() -> None:
    lane = replace(
        LANE, failures={"rate_limited": 5}, closed="The key isn't taken.", quarantined=("w3",)
    )
    found = said(
        study(
            completed(0, 0.5), failed(1, 12.0), failed(2, 13.0), failed(3, 14.0, DIVERGED),
            cost={"usd_at_least": 0.01, "usd_at_most": 0.025}, lanes=(lane, LANE), taken_up=1,
            stopped="Enough.",
        )
    )  # fmt: skip
    assert found["Cost"] == "0.0100 to 0.0250 USD, estimated"
    assert found["Trials"] == "4 trials: 1 completed, 3 failed; 1 of them in earlier runs"
    assert found["Lane"] == (
        "here: 5 rate_limited; closed: The key isn't taken.; left out after failures: w3"
    )
    assert found["Stopped"] == "Enough."
    lines = summary_lines(study(failed(1, 12.0), failed(2, 13.0, DIVERGED)), 2, Path("out"))
    assert [text for name, text in lines if name == "Failed"] == [
        "1 trial: Image 3 is broken.",
        "1 trial: The loss is NaN.",
    ]


@pytest.mark.parametrize(("count", "more"), [(2, []), (7, ["and 2 more"])])
def test_of_several_objectives_the_front_is_said(count: int, more: list[str]) -> None:
    front = tuple(completed(number, 0.5 + number / 16, number) for number in range(count))
    lines = summary_lines(study(*front, objectives=BOTH, best=front), 2, Path("out"))
    assert lines[0] == ("Front", f"{count} trials that no other one dominates")
    assert lines[2] == ("  trial 1", "val_accuracy 0.5625, latency_ms 1.000: lr=0.125, kind=a")
    assert [text for name, text in lines if not name] == more


TESTED: dict[str, Any] = {
    "trial": 0, "metrics": {"accuracy": 0.875, "loss": 0.5}, "accuracy_interval": (0.75, 0.9375),
    "samples": 1000, "is_same": True,
}  # fmt: skip
NOTHING: dict[str, Any] = {"skipped": None, "trials": [], "failed": []}


def test_the_test_is_said_with_its_interval() -> None:
    result = study(completed(0, 0.5), test=NOTHING | {"trials": [TESTED]})
    assert said(result)["Test"] == (
        "accuracy 0.8750 (95 %: 0.7500 to 0.9375) on 1,000 samples that no trial has seen"
    )
    other = TESTED | {"metrics": {"loss": 0.5}, "samples": None, "is_same": False}
    result = study(completed(0, 0.5), test=NOTHING | {"trials": [other]})
    assert said(result)["Test"] == (
        "loss 0.5000; trained once more it came out otherwise, see the page"
    )
    nothing = TESTED | {"metrics": {}}
    result = study(completed(0, 0.5), test=NOTHING | {"trials": [nothing]})
    assert said(result)["Test"] == "nothing was measured"
    result = study(completed(0, 0.5, 1.0), objectives=BOTH, test=NOTHING | {"trials": [TESTED]})
    assert "Test of 0" in said(result)


def test_a_test_that_was_not_or_that_failed_is_said() -> None:
    skipped = study(completed(0, 0.5), test=NOTHING | {"skipped": "There are no test data."})
    assert said(skipped)["Test"] == "There are no test data."
    error = {"trial": 0, "code": "x", "message": "Broken."}
    broken = study(completed(0, 0.5), test=NOTHING | {"failed": [error]})
    assert said(broken)["Test"] == "of trial 0 failed: Broken."


def test_without_a_trial_nothing_is_best_and_nobody_was_busy() -> None:
    found = said(study())
    assert found["Best"] == "none: no trial completed"
    assert found["Trials"] == "none"
    assert found["Time"] == "4.00 s"
    assert efficiency(study(completed(0, 0.5, at=(11.0, 11.0))), 1) is None


def test_trials_of_earlier_runs_do_not_count_for_this_ones_efficiency() -> None:
    result = study(completed(0, 0.5, at=(1.0, 5.0)), completed(1, 0.5, at=(10.0, 12.0)))
    assert efficiency(result, 1) == 1.0


@pytest.mark.parametrize(
    ("result", "in_vain"),
    [
        (study(completed(0, 0.5)), False),
        (study(), True),
        (study(failed(0, 12.0)), True),
        (study(completed(0, 0.5), failed(1, 13.0), stopped="Its time limit was over."), False),
        (study(completed(0, 0.5, at=(9, 10)), *(failed(n, 10.0 + n) for n in (1, 2, 3)),
               stopped="3 trials in a row failed by the same cause."), True),
        (study(completed(0, 0.5, at=(9, 10)), *(failed(n, 10.0 + n, DIVERGED) for n in (1, 2, 3)),
               stopped="Its time limit was over."), False),
        (study(completed(0, 0.5, at=(9, 10)), failed(1, 11.0), failed(2, 12.0),
               failed(3, 13.0, Failure("other", "Torn.", "here")), stopped="Time."), False),
        (study(completed(0, 0.5), lanes=(replace(LANE, closed="No."),), stopped="No place."), True),
        (study(completed(0, 0.5), lanes=(replace(LANE, closed="No."), LANE), stopped="Time."),
         False),
    ],
    ids=["done", "empty", "failed", "time", "same-cause", "diverged", "causes", "closed",
         "one-closed"],
)  # fmt: skip
def test_only_failures_are_in_vain(result: StudyResult, in_vain: bool) -> None:
    assert is_in_vain(result) is in_vain
