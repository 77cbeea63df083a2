"""Evaluation tasks and models handed in by a plain form."""

import re
import resource

import pytest

from contracts.executor_contract import run_test_operation
from live_site import LiveSite, text_of

TASK = """
name: hidden
title: "Hidden <depth>"
description: What it asks for.
vision_task: depth
data: depth-scenes:demo:8
metric: {name: delta1, better: higher, formula: the share of right pixels}
depth: {output: depth, alignment: none}
input: {height: 448, width: 448}
limits: {time_s: 60, memory_bytes: 4000000000, upload_bytes: 1000000}
submissions_per_day: 5
split: {public: 0.25, seed: 1}
deadline: %s
"""


@pytest.fixture
def challenge(tmp_path):
    """A server with the tasks `hidden`, which is open, and `past`, which is over."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "hidden.yaml").write_text(TASK % "2999-01-01T00:00:00Z")
    past = TASK.replace("name: hidden", "name: past") % "2020-01-01T00:00:00Z"
    (folder / "past.yaml").write_text(past)
    with LiveSite(tmp_path / "home", score_operation, tasks_dir=folder) as started:
        yield started


def score_operation(job_input, context):
    """Stands for a task's data and scoring: refuses what its file's name says."""
    if "refused" in job_input["file_name"]:
        return run_test_operation({"operation": "refuse"}, context)
    return run_test_operation({"operation": "until stopped"}, context)


MODEL = {"file": ("my.onnx", b"\x08\x07" + bytes(100))}


def test_a_task_tells_its_rules(challenge):
    with challenge.browse() as client:
        assert "Hidden &lt;depth&gt;" in client.get("/tasks").text
        text = text_of(client.get("/tasks/hidden").text)
        assert "public 25 % of the images until the deadline, then the private rest" in text
        assert "higher is better, on the public part of the images" in text
        assert "a file of at most 1.00 MB" in text
        assert "2999-01-01" in text
        past = client.get("/tasks/past").text
        assert "This task is over." in past
        assert "<form" not in past
        assert client.post("/tasks/past", files=MODEL).status_code == 409


def test_a_model_is_handed_in_by_a_plain_form(challenge):
    with challenge.browse() as client:
        answer = client.post("/tasks/hidden", data={"name": "mine"}, files=MODEL)
        assert answer.status_code == 303
        page = client.get(answer.headers["location"]).text
        assert "The model was taken in" in page
        sent = challenge.call(challenge.service.submissions.find("hidden"))
        assert [(one.name, one.file_name) for one in sent] == [("mine", "my.onnx")]
        assert sent[0].id in text_of(page).replace(" ", "")
        client.post("/jobs/purge")
        client.post(f"/jobs/{sent[0].job_id}/cancel")
        unnamed = {"file": ("refused.onnx", MODEL["file"][1])}
        client.post("/tasks/hidden", data={"name": ""}, files=unnamed)
        named = challenge.call(challenge.service.submissions.find("hidden"))[0]
        assert named.name == "refused"
        challenge.call(challenge.service.jobs.wait(named.job_id, 30))
        assert "images/7.jpg is empty" in text_of(client.get("/tasks/hidden").text)


def test_a_full_disk_takes_no_model_and_loses_nothing(challenge):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with challenge.browse() as client:
        page = "/tasks/task2"
        upload = {"file": ("large.onnx", b"\x08\x07" + bytes(3_000_000))}
        # The kernel refuses to write on, as it does on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, hard))
        try:
            answer = client.post(page, data={"name": "large"}, files=upload)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert answer.status_code == 507
        assert "Nothing was taken in" in text_of(answer.text)
        assert "large" not in text_of(client.get(page).text)


def test_the_days_last_model_was_taken_in_already(challenge):
    with challenge.browse() as client:
        statuses = [client.post("/tasks/hidden", files=MODEL).status_code for _ in range(5)]
        assert statuses == [303] * 5
        answer = client.post("/tasks/hidden", files=MODEL)
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) > 0
        assert "takes 5 submissions a day" in text_of(answer.text)
        client.post("/jobs/purge")
        for one in challenge.call(challenge.service.submissions.find("hidden")):
            client.post(f"/jobs/{one.job_id}/cancel")


@pytest.mark.parametrize(
    ("files", "status", "said"),
    [
        ({"other": ("", b"")}, 422, "choose an .onnx file"),
        ({"file": ("my.txt", b"\x08\x07")}, 422, "doesn't end with .onnx"),
        ({"file": ("my.onnx", b"")}, 422, "is empty"),
        ({"file": ("my.onnx", bytes(1_050_000))}, 413, "1.00 MB"),
        ({"file": ("my.onnx", bytes(1_500_000))}, 413, "larger than"),
    ],
    ids=["none", "other kind", "empty", "too large", "much too large"],
)
def test_a_model_that_is_not_taken_in_says_why_at_the_form(challenge, files, status, said):
    with challenge.browse() as client:
        answer = client.post("/tasks/hidden", data={"name": "my <name>"}, files=files)
        assert answer.status_code == status
        assert said in text_of(answer.text)
        assert re.search(r'<input id="file"[^>]*aria-describedby="upload-error"', answer.text)
        assert challenge.call(challenge.service.submissions.find("hidden")) == []
