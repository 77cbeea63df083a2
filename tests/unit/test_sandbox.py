"""A function in a child process: results, errors, deaths, limits, and no process left behind."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from visiondyno.errors import ChildDied, ModelError, TimeLimitExceeded, VisionDynoError
from visiondyno.sandbox import run_in_child

ENTRIES = "sandbox_entries"


@pytest.fixture(autouse=True)
def entries_on_the_childs_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def test_the_result_comes_back_from_another_process() -> None:
    events: list[dict[str, Any]] = []
    result = run_in_child(f"{ENTRIES}:add", {"a": 2, "b": 3}, on_event=events.append)
    assert result["sum"] == 5
    assert result["pid"] != os.getpid()
    assert events == [{"stage": "adding"}]


def test_the_child_knows_when_it_was_started() -> None:
    since_ns = run_in_child(f"{ENTRIES}:measure_start", {})["since_start_ns"]
    assert since_ns > 1_000_000  # an interpreter takes more than a millisecond to start


def test_large_results_and_many_events_arrive_whole_and_in_order() -> None:
    events: list[dict[str, Any]] = []
    size = 5_000_000
    result = run_in_child(f"{ENTRIES}:large", {"size": size}, on_event=events.append)
    assert len(result["blob"]) == size
    assert [event["number"] for event in events] == list(range(100))


def test_the_childs_error_is_raised_here_with_its_traceback() -> None:
    with pytest.raises(ModelError, match="export it again") as caught:
        run_in_child(f"{ENTRIES}:refuse", {})
    assert "sandbox_entries.py" in (caught.value.__dict__["traceback"] or "")


def test_a_defect_in_the_child_is_called_one() -> None:
    with pytest.raises(VisionDynoError, match=r"defect.*boom"):
        run_in_child(f"{ENTRIES}:defect", {})


def test_a_result_that_is_no_json_is_a_defect_too() -> None:
    with pytest.raises(VisionDynoError, match="JSON"):
        run_in_child(f"{ENTRIES}:not_json", {})


@pytest.mark.parametrize(("name", "hint"), [("SIGKILL", "memory"), ("SIGSEGV", "SIGSEGV")])
def test_a_killed_child_is_reported_with_its_last_words(name: str, hint: str) -> None:
    with pytest.raises(ChildDied, match=hint) as caught:
        run_in_child(f"{ENTRIES}:die", {"signal": name})
    assert "out of luck" in caught.value.message


def test_a_child_that_just_leaves_is_reported() -> None:
    with pytest.raises(ChildDied, match="exit code 7"):
        run_in_child(f"{ENTRIES}:leave", {})


class _Stop(Exception):
    pass


def _gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("how", ["event", "check", "limit"])
def test_stopping_kills_the_child_and_all_it_started(how: str) -> None:
    pids: list[int] = []

    def on_event(event: dict[str, Any]) -> None:
        pids.extend((event["pid"], event["helper_pid"]))
        if how == "event":
            raise _Stop

    def check() -> None:
        if how == "check" and pids:
            raise _Stop

    limit_s = 10.0 if how == "limit" else None
    with pytest.raises(TimeLimitExceeded if how == "limit" else _Stop):
        run_in_child(f"{ENTRIES}:hang", {}, on_event=on_event, check=check, time_limit_s=limit_s)
    assert len(pids) == 2
    for _ in range(1000):
        if all(_gone(pid) for pid in pids):
            break
        time.sleep(0.01)
    else:
        pytest.fail(f"one of {pids} goes on")


def test_the_child_ends_when_its_parent_is_killed() -> None:
    code = f"""
    from visiondyno.sandbox import run_in_child
    run_in_child("{ENTRIES}:hang", {{}}, on_event=lambda e: print(e["pid"], flush=True))
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    helpers = child.children()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    psutil.wait_procs([child], timeout=10)
    assert _gone(child.pid)
    for helper in helpers:
        helper.kill()
