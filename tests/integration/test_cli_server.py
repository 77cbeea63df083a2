"""`dyno jobs` and `dyno workers` against a real server with supervised worker processes."""

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from live_api import LiveApi
from visiondyno.cli import jobs, workers
from visiondyno.errors import (
    Cancelled,
    Conflict,
    InputError,
    NotFound,
    Unauthorized,
    VisionDynoError,
)
from visiondyno.executors.base import Executor
from visiondyno.executors.scaling import ScaleLimits
from visiondyno.executors.supervised import SupervisedExecutor, queue_workers
from visiondyno.http_client import ServerClient
from visiondyno.job import JobState

TESTS = Path(__file__).resolve().parents[1]


class LocalApi(LiveApi):
    """The API over worker processes that run tests/faulty_operations.py."""

    def _make_executor(self) -> Executor:
        address = str(self.settings.folder / "queue.sqlite")
        options = replace(
            queue_workers(address, ScaleLimits(1, 1, 60.0)), entry="faulty_operations:run"
        )
        return SupervisedExecutor(options, environ={**os.environ, "PYTHONPATH": str(TESTS)})


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalApi]:
    folder = tmp_path_factory.mktemp("server")
    with LocalApi(folder, rate_limit_per_minute=0) as live:
        yield live


@pytest.fixture
def server(api: LocalApi) -> Iterator[ServerClient]:
    with ServerClient(api.url) as client:
        yield client


def dyno(api: LiveApi, command: click.Command, *arguments: str, key: str | None = None) -> Result:
    """What the command prints; its error, if it is one of ours, is in `exception`."""
    environ = {"VISIONDYNO_SERVER": api.url, "VISIONDYNO_API_KEY": key, "COLUMNS": "200"}
    result = CliRunner().invoke(command, list(arguments), env=environ, standalone_mode=False)
    if result.exception is not None and not isinstance(
        result.exception, VisionDynoError | click.ClickException
    ):
        raise result.exception
    return result


def said(result: Result) -> str:
    assert result.exception is None
    return result.stdout


def submit(server: ServerClient, operation: str, **rest: Any) -> str:
    job_id: str = server.run({"operation": operation, **rest})["id"]
    return job_id


def ended(server: ServerClient, job_id: str) -> JobState:
    return list(server.events(job_id))[-1].state


def until(is_so: Callable[[], bool]) -> None:
    while not is_so():  # pytest's own timeout ends it
        time.sleep(0.05)


def started(server: ServerClient, job_id: str) -> None:
    for event in server.events(job_id):
        if event.progress is not None:
            return


# ---- jobs


def test_jobs_are_listed_newest_first_and_page_by_page(api: LocalApi, server: ServerClient) -> None:
    ids = [submit(server, "mirror", text=str(number)) for number in range(3)]
    assert [ended(server, job_id) for job_id in ids] == [JobState.COMPLETED] * 3
    text = said(dyno(api, jobs.command, "list", "--limit", "2"))
    assert ids[2] in text
    assert ids[1] in text
    assert ids[0] not in text
    assert "mirror" in text
    assert "COMPLETED" in text
    before = text.split("--before ")[1].split()[0]
    assert ids[0] in said(dyno(api, jobs.command, "list", "--before", before))
    page = json.loads(said(dyno(api, jobs.command, "list", "--limit", "1", "--json")))
    assert [job["id"] for job in page["jobs"]] == [ids[2]]
    assert "No such jobs" in said(dyno(api, jobs.command, "list", "--kind", "submission"))


def test_a_list_fits_an_ordinary_terminal_whatever_jobs_are_called(
    api: LocalApi, server: ServerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = submit(server, "[/odd] [red]")
    assert ended(server, odd) == JobState.FAILED
    environ = {"VISIONDYNO_SERVER": api.url, "COLUMNS": "80"}
    listed = CliRunner().invoke(jobs.command, ["list", "--limit", "3"], env=environ)
    lines = listed.stdout.splitlines()
    assert any(odd in line and "[/odd] [red]" in line and "FAILED" in line for line in lines)
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert "[/odd] [red]" in said(dyno(api, jobs.command, "show", odd))


def test_a_job_is_shown_with_its_output(api: LocalApi, server: ServerClient) -> None:
    job_id = submit(server, "mirror", text="hello")
    said(dyno(api, jobs.command, "follow", job_id))
    text = said(dyno(api, jobs.command, "show", job_id))
    assert '"text": "hello"' in text
    assert "attempts" in text
    full = json.loads(said(dyno(api, jobs.command, "show", job_id, "--json")))
    assert full["answer"]["output"] == {"text": "hello"}


def test_a_failed_job_fails_whoever_follows_it(api: LocalApi, server: ServerClient) -> None:
    job_id = submit(server, "mirror")
    followed = dyno(api, jobs.command, "follow", job_id)
    assert f"{job_id}: FAILED" in followed.stdout
    assert isinstance(followed.exception, VisionDynoError)
    assert "KeyError" in followed.exception.message
    text = said(dyno(api, jobs.command, "show", job_id))
    assert "Error (internal)" in text
    assert "traceback is in --json" in text
    assert job_id in said(dyno(api, jobs.command, "list", "--state", "FAILED"))
    lines = dyno(api, jobs.command, "follow", job_id, "--json").stdout.splitlines()
    events = [json.loads(line) for line in lines]
    assert events[-1]["answer"]["error"]["code"] == "internal"
    numbers = [event["number"] for event in events]
    assert numbers == sorted(numbers)
    assert "IN_QUEUE" in said(dyno(api, jobs.command, "retry", job_id))
    assert ended(server, job_id) == JobState.FAILED
    assert server.job(job_id)["attempts"] == 2


def test_a_running_job_is_cancelled(api: LocalApi, server: ServerClient) -> None:
    job_id = submit(server, "until stopped")
    started(server, job_id)
    assert "started" in said(dyno(api, jobs.command, "list", "--state", "IN_PROGRESS"))
    assert job_id in said(dyno(api, jobs.command, "cancel", job_id))
    assert isinstance(dyno(api, jobs.command, "follow", job_id).exception, Cancelled)
    assert "CANCELLED" in said(dyno(api, jobs.command, "show", job_id))
    refused = dyno(api, jobs.command, "retry", job_id)
    assert isinstance(refused.exception, Conflict)


def test_a_jobs_log_is_printed(api: LocalApi, server: ServerClient) -> None:
    lines = ["first", "[bold]second[/bold] \u2028 line"]
    job_id = submit(server, "log", lines=lines)
    followed = said(dyno(api, jobs.command, "logs", job_id, "-f"))
    assert followed == "".join(f"{line}\n" for line in lines)
    assert said(dyno(api, jobs.command, "logs", job_id)) == followed
    shown = dyno(api, jobs.command, "follow", job_id)
    assert "[bold]second[/bold]" in shown.stderr


def test_an_unknown_job_is_not_found(api: LocalApi) -> None:
    for action in ("show", "follow", "cancel", "retry", "logs"):
        error = dyno(api, jobs.command, action, "no-such-job").exception
        assert isinstance(error, NotFound), action


@pytest.mark.parametrize(
    ("command", "action", "name"),
    [
        ("jobs", "cancel", "../../x"),
        ("jobs", "show", ".."),
        ("jobs", "logs", "ä b"),
        ("workers", "drain", ""),
        ("workers", "restart", "a/b"),
    ],
    ids=["path", "parent", "letters", "empty", "slash"],
)
def test_what_can_be_no_id_is_told_before_a_server_is_asked(
    command: str, action: str, name: str
) -> None:
    group = {"jobs": jobs.command, "workers": workers.command}[command]
    found = CliRunner().invoke(group, [action, name, "--server", "http://127.0.0.1:1"])
    assert found.exit_code == 2
    assert f"'{name}' can't be one; 'dyno {command} list' shows them." in found.output


def test_events_go_on_after_the_last_one_seen(server: ServerClient) -> None:
    job_id = submit(server, "mirror", text="x")
    every = list(server.events(job_id))
    assert list(server.events(job_id, after=every[0].number)) == every[1:]
    assert list(server.events(job_id, after=every[-1].number)) == []


# ---- workers


def worker(server: ServerClient) -> dict[str, Any]:
    found: list[dict[str, Any]] = server.workers()
    assert len(found) == 1
    return found[0]


def test_a_worker_is_drained_resumed_and_restarted(api: LocalApi, server: ServerClient) -> None:
    until(lambda: len(server.workers()) == 1 and worker(server)["state"] == "idle")
    name, pid = worker(server)["name"], worker(server)["pid"]
    text = said(dyno(api, workers.command, "list"))
    assert name in text
    assert "idle" in text
    assert "GB" in text
    (listed,) = json.loads(said(dyno(api, workers.command, "list", "--json")))
    assert listed["pid"] == pid

    assert "takes no other" in said(dyno(api, workers.command, "drain", name))
    until(lambda: worker(server)["state"] == "drained")
    job_id = submit(server, "mirror", text="later")
    assert server.status(job_id)["status"] == "IN_QUEUE"
    said(dyno(api, workers.command, "resume", name))
    assert ended(server, job_id) == JobState.COMPLETED
    said(dyno(api, workers.command, "restart", name))
    until(lambda: worker(server)["pid"] not in (None, pid))
    assert isinstance(dyno(api, workers.command, "drain", "nobody").exception, NotFound)


def test_a_server_without_workers_says_what_starts_them(tmp_path: Path) -> None:
    with LiveApi(tmp_path) as live:
        assert "'dyno up' starts them" in said(dyno(live, workers.command, "list"))


# ---- keys and errors


def test_a_key_is_asked_for_and_taken_from_the_environment(tmp_path: Path) -> None:
    with LiveApi(tmp_path, require_keys=True) as live:
        assert isinstance(dyno(live, jobs.command, "list").exception, Unauthorized)
        key = live.make_key()
        assert "No such jobs" in said(dyno(live, jobs.command, "list", key=key))
        assert "No such jobs" in said(dyno(live, jobs.command, "list", "--api-key", key))


def test_what_the_server_refuses_is_the_same_error_here(server: ServerClient) -> None:
    with pytest.raises(InputError) as caught:
        server.find_jobs(limit=0)
    assert "limit" in caught.value.message
