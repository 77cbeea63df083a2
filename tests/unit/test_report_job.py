"""What a report says of the job that made it."""

import io
from typing import Any

import pytest
from rich.console import Console

from comparison_factory import detector_comparison
from visiondyno.executors.cost import Cost
from visiondyno.probes.cost import find_price
from visiondyno.report.comparison import Comparison
from visiondyno.report.html import to_html
from visiondyno.report.job_run import JobCost, JobRun
from visiondyno.report.markdown import to_markdown
from visiondyno.report.merge import merge_reports
from visiondyno.report.terminal import print_comparison

COST = Cost(12, 20, find_price("A4000"))
WHOLE = JobRun(
    id="job-7",
    executor="runpod",
    worker_id="w<1>",
    delay_ms=1500,
    execution_ms=61_000,
    cost=JobCost.model_validate(COST.to_json()),
)


def lines(**facts: Any) -> dict[str, str]:
    return dict(JobRun(id="job-7", executor="inline", **facts).lines())


def test_each_fact_that_there_is_is_told() -> None:
    assert dict(WHOLE.lines()) == {
        "Job": "job-7 on runpod, waited 1.5 s, ran 61.0 s, on worker w<1>",
        "Cost": str(COST),
    }
    assert lines() == {"Job": "job-7 on inline"}
    assert lines(cost_unknown="the GPU isn't known")["Cost"] == "not known: the GPU isn't known"
    said = lines(fallback_reason="nothing listens there.")["Fallback"]
    assert said == "ran on inline instead: nothing listens there."
    assert JobRun.model_validate(WHOLE.to_json()) == WHOLE


@pytest.fixture
def elsewhere() -> Comparison:
    return detector_comparison().model_copy(update={"job": WHOLE})


def test_every_form_for_people_tells_of_the_job(elsewhere: Comparison) -> None:
    console = Console(file=io.StringIO(), width=200)
    print_comparison(elsewhere, console)
    assert "Job: job-7 on runpod, waited 1.5 s" in console.file.getvalue()  # type: ignore[attr-defined]
    assert "- Job: job-7 on runpod, waited 1.5 s" in to_markdown(elsewhere)
    page = to_html(elsewhere)
    assert "<dt>Job</dt><dd>job-7 on runpod, waited 1.5 s, ran 61.0 s, on worker w&lt;1&gt;" in page
    assert str(COST) in page
    assert Comparison.model_validate_json(elsewhere.to_json()) == elsewhere


def test_of_one_in_this_process_nothing_is_told() -> None:
    here = detector_comparison()
    assert here.job is None
    assert "<h3>Job</h3>" not in to_html(here)
    assert "Job:" not in to_markdown(here)


def test_reports_from_before_and_merged_ones_have_none(elsewhere: Comparison) -> None:
    earlier = detector_comparison().model_dump(mode="json", by_alias=True)
    del earlier["job"]
    assert Comparison.model_validate(earlier).job is None
    later = elsewhere.model_copy(update={"created_at": "2027-01-01T00:00:00+00:00"})
    assert merge_reports([elsewhere, later]).job is None
