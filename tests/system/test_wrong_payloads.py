"""Whatever is wrong with a training's payload: FAILED, and a sentence that names the place."""

import asyncio
import re
from pathlib import Path

import pytest
from wrong_payloads import CASES, DETECTION_DATA, Payload, good

from dataset_factory import write_coco
from visiondyno.executors.inline import InlineExecutor
from visiondyno.job import JobError, JobRequest, JobState
from visiondyno.worker import run

pytestmark = pytest.mark.torch

GIBBERISH = re.compile(
    r"Traceback|mat1|File \"|\n|0x[0-9a-f]{6}|\.cpp|\.py\b|aten::|<class|object at|pydantic"
)


async def ended(payload: Payload) -> tuple[JobState, JobError | None]:
    async with InlineExecutor(run) as executor, asyncio.timeout(60):
        job_id = await executor.submit(JobRequest(input=payload))
        events = [event async for event in executor.watch(job_id)]
    answer = events[-1].answer
    assert answer is not None
    return answer.status, answer.error


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("VISIONDYNO_DATA", str(tmp_path))


def test_the_payload_that_the_cases_spoil_is_right() -> None:
    assert asyncio.run(ended(good())) == (JobState.COMPLETED, None)


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_payload_fails_with_a_sentence_that_names_the_place(
    case: str, tmp_path: Path
) -> None:
    make, words = CASES[case]
    payload = make()
    if payload.get("training_data") == DETECTION_DATA:
        write_coco(tmp_path / "boxes")
        payload["training_data"] = str(tmp_path / "boxes")
    status, error = asyncio.run(ended(payload))
    assert status == JobState.FAILED
    assert error is not None
    for word in words:
        assert word in error.message
    assert not GIBBERISH.search(error.message)
    assert error.code not in ("internal", "child_died")
    assert len(error.message) <= 700


def test_there_are_cases_enough() -> None:
    assert len(CASES) >= 30
