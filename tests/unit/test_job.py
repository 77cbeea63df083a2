"""The job contract: legal moves, wire names, and errors that survive the wire."""

import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.errors import (
    MissingExtra,
    OperationFailed,
    VisionDynoError,
    error_classes,
)
from visiondyno.job import JobAnswer, JobError, JobRequest, JobState, Policy, new_job_id

states = st.sampled_from(JobState)


def test_a_job_whose_worker_died_may_be_queued_again() -> None:
    assert JobState.IN_PROGRESS.may_become(JobState.IN_QUEUE)
    assert not JobState.IN_QUEUE.may_become(JobState.COMPLETED)


@given(states, states)
def test_nothing_leaves_a_terminal_state(state: JobState, other: JobState) -> None:
    if state.is_terminal:
        assert not state.may_become(other)


def test_the_wire_has_runpods_names() -> None:
    request = JobRequest.model_validate(
        {
            "input": {"operation": "predict"},
            "policy": {"executionTimeout": 1000, "ttl": 5000, "lowPriority": True},
            "webhook": "http://127.0.0.1/hook",
        }
    )
    assert request.policy == Policy(execution_timeout_ms=1000, ttl_ms=5000, low_priority=True)
    answer = JobAnswer(id="a", status=JobState.COMPLETED, delay_time_ms=3, output={})
    wire = answer.model_dump(by_alias=True, exclude_none=True, mode="json")
    assert wire == {"id": "a", "status": "COMPLETED", "delayTime": 3, "output": {}}


@pytest.mark.parametrize("code", sorted(error_classes()))
def test_every_error_crosses_the_wire_as_itself(code: str) -> None:
    kind = error_classes()[code]
    error = MissingExtra("torch", "Training") if kind is MissingExtra else kind("what, where, next")
    back = JobError.model_validate(
        JobError.from_exception(error, "trace").model_dump()
    ).to_exception()
    assert type(back) is kind
    assert back.message == error.message
    assert back.exit_code == error.exit_code


def test_a_childs_traceback_is_kept_over_ours() -> None:
    error = OperationFailed("stopped", stage="load", traceback="the child's")
    wire = JobError.from_exception(error, "ours")
    assert (wire.stage, wire.traceback) == ("load", "the child's")


def test_a_foreign_error_is_called_a_defect() -> None:
    wire = JobError.from_exception(KeyError("x"), None)
    assert type(wire.to_exception()) is VisionDynoError
    assert "defect" in wire.message


def test_new_job_ids_are_uuids_of_version_7_that_grow() -> None:
    ids = []
    for _ in range(3):
        ids.append(new_job_id())
        time.sleep(0.002)
    assert ids == sorted(ids)
    assert {uuid.UUID(one).version for one in ids} == {7}
    assert {uuid.UUID(one).variant for one in ids} == {uuid.RFC_4122}
    assert len({new_job_id() for _ in range(1000)}) == 1000


def test_a_page_sent_as_a_name_doesnt_come_back_as_a_book() -> None:
    for error in (VisionDynoError("x" * 10**6 + " isn't known"), ValueError("x" * 10**6)):
        told = JobError.from_exception(error, "y" * 10**6 + "the end")
        assert len(told.message) < 2100
        assert len(told.traceback or "") < 20_100
        assert (told.traceback or "").endswith("the end")
    assert JobError.from_exception(VisionDynoError("short"), None).message == "short"
