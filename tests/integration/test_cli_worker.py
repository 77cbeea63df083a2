"""`dyno worker`: real worker processes on a real Redis, and how they stop."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from click.testing import CliRunner

from services import RedisInstance, free_port, redis_server
from visiondyno.cli import worker
from visiondyno.errors import SpecError
from visiondyno.executors.open_queue import open_queue
from visiondyno.executors.queue import JobQueue, QueuedJob
from visiondyno.executors.workers import WorkerInfo, WorkerState
from visiondyno.job import JobState

TESTS = Path(__file__).resolve().parents[1]
SETTINGS = ("VISIONDYNO_", "REDIS_", "WORKER_", "GPU_MEMORY_FRACTION", "RESULT_EXPIRY")

# The command itself; only what its workers run is the tests'.
COMMAND = """
import functools
from visiondyno.cli import worker
worker.SupervisorOptions = functools.partial(
    worker.SupervisorOptions, entry="faulty_operations:run"
)
worker.command()
"""


def environ(**variables: str) -> dict[str, str]:
    rest = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
    return {**rest, "PYTHONPATH": str(TESTS), **variables}


@contextmanager
def workers(folder: Path, *arguments: str, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """`dyno worker` while the context lasts; afterwards none of its processes is left."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *arguments],
            env=environ(**variables),
            cwd=folder,
            stderr=log,
        )
    family = psutil.Process(process.pid)
    children: list[psutil.Process] = []
    try:
        yield process
        children = family.children(recursive=True) if process.poll() is None else []
    finally:
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
    assert psutil.wait_procs(children, timeout=10)[1] == []


@pytest.fixture
def queue(redis_url: str) -> Iterator[JobQueue]:
    opened = open_queue(redis_url)
    yield opened
    opened.close()


def put(queue: JobQueue, job_id: str, input_json: str) -> None:
    queue.put([QueuedJob(job_id, input_json)])


def until(is_so: Callable[[], bool]) -> None:
    while not is_so():  # pytest's own timeout ends it
        time.sleep(0.05)


def state(queue: JobQueue, job_id: str) -> JobState:
    return queue.events(job_id)[-1].state


def idle(queue: JobQueue) -> list[WorkerInfo]:
    return [one for one in queue.workers() if one.state == WorkerState.IDLE]


def said(queue: JobQueue, job_id: str) -> list[dict[str, Any]]:
    return [event.progress for event in queue.events(job_id) if event.progress is not None]


def test_slots_serve_the_queue_with_their_share(
    tmp_path: Path, queue: JobQueue, redis_url: str
) -> None:
    arguments = ("--redis", redis_url, "--slots", "2", "--gpu-memory-fraction", "0.143")
    with workers(tmp_path, *arguments, "--name", "box", WORKER_COUNT="5"):
        until(lambda: len(idle(queue)) == 2)
        assert [one.name for one in queue.workers()] == ["box-1", "box-2"]
        assert {one.gpu_memory_fraction for one in queue.workers()} == {0.143}
        put(queue, "a", '{"operation": "mirror", "text": "hello"}')
        until(lambda: state(queue, "a").is_terminal)
        answer = queue.events("a")[-1].answer
        assert answer is not None
        assert answer.output == {"text": "hello"}
        for one in queue.workers():
            variables = psutil.Process(one.pid).environ()
            assert variables["VISIONDYNO_GPU_MEMORY_FRACTION"] == "0.143"
    log = (tmp_path / "log").read_text()
    assert "2 workers for the queue" in log
    if no_gpu_here():
        assert "isn't kept" in log


def no_gpu_here() -> bool:
    from visiondyno.probes.gpu import GpuProbe

    return GpuProbe("cuda").available() is not None


def test_the_first_signal_lets_jobs_end(tmp_path: Path, queue: JobQueue, redis_url: str) -> None:
    goes_on = tmp_path / "goes-on"
    variables = {"VISIONDYNO_REDIS_URL": redis_url, "VISIONDYNO_BLOBS_URL": "http://other/blobs"}
    with workers(tmp_path, "--blobs-url", "http://server/blobs", **variables) as process:
        until(lambda: len(idle(queue)) == 1)
        (one,) = queue.workers()
        assert psutil.Process(one.pid).environ()["VISIONDYNO_BLOBS_URL"] == "http://server/blobs"
        put(queue, "slow", f'{{"operation": "until file", "path": "{goes_on}"}}')
        until(lambda: bool(said(queue, "slow")))
        put(queue, "next", '{"operation": "mirror", "text": "x"}')
        process.send_signal(signal.SIGTERM)
        goes_on.touch()  # a signal is seen before what a worker says later
        assert process.wait(timeout=60) == 0
    assert state(queue, "slow") == JobState.COMPLETED
    assert state(queue, "next") == JobState.IN_QUEUE
    assert queue.workers() == []


def test_the_second_signal_gives_jobs_back_at_once(
    tmp_path: Path, queue: JobQueue, redis_url: str
) -> None:
    with workers(tmp_path, "--redis", redis_url, "--slots", "0-1") as process:
        put(queue, "endless", '{"operation": "until stopped"}')
        until(lambda: bool(said(queue, "endless")))
        process.send_signal(signal.SIGTERM)
        until(lambda: process.poll() is not None or not idle(queue))
        assert process.poll() is None, "it waits for the job"
        process.send_signal(signal.SIGINT)  # another one: two equal ones may come as one
        assert process.wait(timeout=30) == 0  # not the 60 s of --drain
    assert state(queue, "endless") == JobState.IN_QUEUE
    assert queue.counts().claimable == 1, "being stopped isn't the job's fault: no back-off"


def test_a_redis_that_is_not_up_yet_is_waited_for(tmp_path: Path) -> None:
    port = free_port()
    with workers(tmp_path, REDIS_HOST="127.0.0.1", REDIS_PORT=str(port)) as process:
        log = tmp_path / "log"
        until(lambda: f"127.0.0.1:{port} can't be reached" in log.read_text())
        assert process.poll() is None


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisInstance]:
    with redis_server(tmp_path / "redis") as instance:
        yield instance


@pytest.mark.parametrize(
    ("command", "setting", "value", "says"),
    [
        ("worker", "requirepass", "sesame", "doesn't let us in"),
        ("worker", "maxmemory-policy", "allkeys-lru", "may evict jobs"),
        ("up", "requirepass", "sesame", "doesn't let us in"),
    ],
    ids=["password", "eviction", "password of a server"],
)
def test_a_redis_that_is_set_up_wrong_ends_it(
    tmp_path: Path, own_redis: RedisInstance, command: str, setting: str, value: str, says: str
) -> None:
    with redis.Redis(port=own_redis.port) as client:
        client.config_set(setting, value)
    rest = ["--port", "0", "--home", "home", "--workers", "1"] if command == "up" else []
    dyno = [sys.executable, "-c", "from visiondyno.cli import main; main()", command]
    ended = subprocess.run(
        [*dyno, "--redis", own_redis.url, *rest],
        cwd=tmp_path,
        env=environ(),
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 2
    errors = [line for line in ended.stderr.splitlines() if "worker for the queue" not in line]
    assert len(errors) == 1
    assert errors[0].startswith("Error: Redis at 127.0.0.1")
    assert says in errors[0]


def test_a_password_that_changes_while_it_works_is_waited_for(
    tmp_path: Path, own_redis: RedisInstance
) -> None:
    """What runs must not be thrown away because somebody else's change is half done."""
    with workers(tmp_path, "--redis", own_redis.url) as process:
        queue = open_queue(own_redis.url)
        until(lambda: len(idle(queue)) == 1)
        with redis.Redis(port=own_redis.port) as client:
            client.config_set("requirepass", "sesame")
            client.client_kill_filter(_type="normal", skipme=True)
            client.client_kill_filter(_type="pubsub")
            until(lambda: "doesn't let us in" in (tmp_path / "log").read_text())
            assert process.poll() is None
            client.config_set("requirepass", "")
        put(queue, "later", '{"operation": "mirror", "text": "x"}')
        until(lambda: state(queue, "later") == JobState.COMPLETED)
        queue.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs the queue's address"),
        (["--redis", "http://host"], "takes a URL such as redis://"),
        (["--redis", "redis://h", "--blobs-url", "ftp://x"], "no address of blobs"),
        (["--redis", "redis://h", "--gpu-memory-fraction", "2"], "gpu_memory_fraction"),
        (["--slots", "none"], "a number such as 7"),
        (["--slots", "3-2"], "the smaller number first"),
        (["--slots", "0"], "1 to 256 processes"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in os.environ:
        if name.startswith(SETTINGS):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)  # no .env
    result = CliRunner().invoke(worker.command, arguments, standalone_mode=False)
    error = result.exception
    assert error is not None
    text = error.message if isinstance(error, SpecError) else error.format_message()
    assert message in text
