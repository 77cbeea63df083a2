"""What people are told of jobs elsewhere: refusals, fallbacks, failures and what they cost."""

from pathlib import Path

import httpx
import pytest

import visiondyno
from visiondyno.cli import main
from visiondyno.cli.display import Display
from visiondyno.cli.progress import ProgressDisplay
from visiondyno.cli.training_display import TrainingDisplay
from visiondyno.client.client import Client
from visiondyno.client.time_limit import policy_within
from visiondyno.errors import BudgetSpent, OperationFailed
from visiondyno.executors.runpod_wire import refusal
from visiondyno.job import JobEvent, JobState
from visiondyno.places import Place
from visiondyno.report.job_run import JobRun

URL = "http://127.0.0.1:9/v2/none"
FELL_BACK = JobEvent(
    job_id="a",
    number=1,
    state=JobState.IN_QUEUE,
    progress={"stage": "fallback", "executor": "local", "fallback_reason": "Nobody answers."},
)


@pytest.mark.parametrize(
    ("headers", "says"),
    [({}, "No API key was sent"), ({"Authorization": "Bearer k"}, "Check the API key")],
    ids=["without", "with"],
)
def test_a_key_that_was_not_sent_is_no_wrong_key(headers: dict[str, str], says: str) -> None:
    request = httpx.Request("POST", f"{URL}/run", headers=headers)
    answer = httpx.Response(401, json={"error": "Who is it?"}, request=request)
    assert says in refusal(answer).message


@pytest.mark.parametrize("kind", ["progress", "training"])
def test_a_fallback_is_told_at_once_with_its_reason(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: Display
    if kind == "progress":
        shown = ProgressDisplay()
        with shown:
            shown.show(FELL_BACK)
    else:
        shown = TrainingDisplay(1)
        with shown:
            shown.on_event(FELL_BACK)
    assert capsys.readouterr().err.splitlines() == ["running on local instead: Nobody answers."]


@pytest.mark.parametrize(
    ("job", "is_told"),
    [
        (JobRun(id="a", executor="inline"), False),
        (JobRun(id="a", executor="inline", fallback_reason="Nobody answers."), True),
        (JobRun(id="a", executor="runpod"), True),
    ],
    ids=["here", "here-instead", "there"],
)
def test_where_a_job_ran_is_told_unless_it_was_here_as_asked(job: JobRun, is_told: bool) -> None:
    assert job.is_told == is_told


@pytest.mark.parametrize("max_cost_usd", [0.001, 0.0117])
def test_a_limit_below_the_shortest_job_is_refused_with_what_that_job_takes(
    max_cost_usd: float,
) -> None:
    place = Place(URL, api_key="k", gpu="0.576", max_cost_usd=max_cost_usd)
    with Client(place) as client:
        policy = policy_within(client)
        assert policy == {"executionTimeout": 5_000}
        with pytest.raises(BudgetSpent, match=r"--max-cost to 0\.0120 or more"):
            client.submit({"operation": "predict"}, policy=policy)


def test_notes_of_an_error_are_shown_below_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = OperationFailed("It broke.")
    failed.add_note("Cost: 1 USD")

    def fail(*_: object, **__: object) -> None:
        raise failed

    monkeypatch.setattr("visiondyno.cli.dyno.main", fail)
    with pytest.raises(SystemExit):
        main(["evaluate"])
    assert capsys.readouterr().err.splitlines() == ["Error: It broke.", "Cost: 1 USD"]


def test_an_operation_that_fails_elsewhere_says_where_and_what_it_has_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path))
    with pytest.raises(Exception, match="no data set") as caught:
        visiondyno.evaluate("visiondyno:street-n", data="there-is-none", on="local")
    notes = getattr(caught.value, "__notes__", [])
    assert len(notes) == 1
    assert notes[0].startswith("Job: ")
    assert " on local, waited " in notes[0]
