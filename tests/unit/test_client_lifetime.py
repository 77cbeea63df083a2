"""The client's end: with its program, in a fork, after Ctrl+C, or dropped."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from client_cases import ENDLESS, echo, inline

from visiondyno.client import loop_thread
from visiondyno.client.client import Client
from visiondyno.errors import Cancelled, SpecError

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture
def client() -> Iterator[Client]:
    with Client(inline()) as opened:
        yield opened


def ran(program: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a program in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_of_the_process_is_told_to_make_its_own_client(client: Client) -> None:
    client.run(echo())
    code = "child"
    child = os.fork()
    if child == 0:
        try:
            client.run(echo())
        except SpecError as error:
            code = "refused" if "another process" in str(error) else "other"
        finally:
            os._exit(0 if code == "refused" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


SCRIPT = """
import os, signal, sys, threading
from contracts.executor_contract import run_test_operation
from visiondyno.client.client import Client
from visiondyno.executors.inline import InlineExecutor

client = Client(InlineExecutor(run_test_operation))
endless = {"operation": "until stopped"}

def interrupt(event):
    if event.progress:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()

try:
    client.run(endless, on_event=interrupt)
except KeyboardInterrupt:
    print("interrupted", client.health()["jobs"]["CANCELLED"])
client.submit(endless)
print("forgotten", flush=True)
"""


def test_ctrl_c_cancels_the_job_and_a_forgotten_client_ends_silently_with_its_program() -> None:
    assert ran(SCRIPT) == (0, "interrupted 1\nforgotten\n", "")


class InterruptedInbox(SimpleQueue[Any]):
    """Ctrl-C comes just as the end is taken from it."""

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        item = super().get(block, timeout)
        if isinstance(item, asyncio.Task):
            raise KeyboardInterrupt
        return item


@pytest.mark.timeout(30)
def test_an_interrupt_as_the_end_comes_waits_for_no_other_end(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as interrupting:
        interrupting.setattr(loop_thread, "SimpleQueue", InterruptedInbox)
        with pytest.raises(KeyboardInterrupt):
            client.health()
    assert client.health()


def test_a_client_that_is_dropped_ends_its_thread_and_jobs() -> None:
    client = Client(inline())
    client.submit(ENDLESS)
    thread = client._thread._thread
    assert thread is not None
    del client
    gc.collect()
    thread.join(timeout=60)
    assert not thread.is_alive()


DROPPED = """
import asyncio
from contracts.executor_contract import run_test_operation
from visiondyno.client.client import Client
from visiondyno.executors.inline import InlineExecutor

class Slow(InlineExecutor):
    async def close(self):
        await asyncio.sleep(0.2)
        print("closed", flush=True)

Client(Slow(run_test_operation)).submit({"operation": "echo", "say": "hi"})
"""


def test_a_client_that_is_dropped_as_the_program_ends_is_closed_silently() -> None:
    assert ran(DROPPED) == (0, "closed\n", "")


def test_a_watch_that_is_collected_on_the_loops_own_thread_doesnt_stop_the_loop(
    client: Client,
) -> None:
    job_id = client.submit(ENDLESS)
    held = [client.watch(job_id)]
    assert next(held[0]).number == 1

    async def drop() -> None:
        held.clear()

    client._thread.run(lambda _: drop())
    client.cancel(job_id)
    with pytest.raises(Cancelled):
        client.result(job_id)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_in_the_midst_of_a_call_doesnt_hang(client: Client) -> None:
    client.run(echo())
    is_held, is_done = threading.Event(), threading.Event()

    def hold() -> None:
        with client._thread._lock:
            is_held.set()
            is_done.wait(timeout=60)

    threading.Thread(target=hold).start()
    assert is_held.wait(timeout=60)
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        try:
            client.close()
            client.run(echo())
        except SpecError:
            os._exit(0)
        finally:
            os._exit(1)
    is_done.set()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
