"""The whole server: names it answers to, a taken port, its first key, an orderly end."""

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from worker_entries import ENVIRON

START_S = 60.0


DYNO_UP = [sys.executable, "-c", "from visiondyno.cli import main; main()", "up", "--port", "0"]


@contextmanager
def dyno_up(
    home: Path, *arguments: str, program: Sequence[str] = DYNO_UP
) -> Iterator[tuple["subprocess.Popen[str]", list[str]]]:
    """`dyno up` on a free port; what it said until it was up."""
    process = subprocess.Popen(
        [*program, "--home", str(home), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=home,
        env={**ENVIRON, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    said: list[str] = []
    try:
        for line in process.stdout:
            said.append(line)
            if "Ctrl-C" in line:
                break
        yield process, said
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def url_of(said: list[str]) -> str:
    found = re.search(r"http://[\d.]+:\d+", "".join(said))
    assert found is not None, "".join(said)
    return found[0]


def test_up_runs_a_real_job_and_ends_in_good_order(tmp_path: Path) -> None:
    with dyno_up(tmp_path, "--workers", "0-1") as (process, said):
        url = url_of(said)
        job = {"input": {"operation": "evaluate", "model": "visiondyno:street-n"}}
        job["input"] |= {"data": "street:demo", "max_images": 2}
        answer = httpx.post(f"{url}/v2/default/runsync", json=job, timeout=120).json()
        assert answer["status"] == "COMPLETED", answer
        assert answer["output"]["images"] == 2
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 2  # the supervisor and a worker
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert process.stdout is not None
        assert "Stopped" in process.stdout.read()
        _, alive = psutil.wait_procs(children, timeout=10)
        assert alive == []


def test_without_keys_only_loopback_names_are_answered(tmp_path: Path) -> None:
    with dyno_up(tmp_path, "--workers", "0-1") as (_, said):
        url = url_of(said)
        port = url.rpartition(":")[2]
        assert httpx.get(f"{url}/health").status_code == 200
        for host in (f"localhost:{port}", "localhost", f"[::1]:{port}", "[::1]"):
            assert httpx.get(f"{url}/health", headers={"Host": host}).status_code == 200
        for host in (f"rebound.example:{port}", "rebound.example", ""):
            refused = httpx.get(f"{url}/health", headers={"Host": host})
            assert refused.status_code == 403
            assert refused.headers["content-type"] == "application/problem+json"
            assert "--keys" in refused.json()["detail"]
        assert httpx.head(f"{url}/dashboard/live", timeout=5).status_code == 405


def test_without_keys_pages_of_other_sites_change_nothing(tmp_path: Path) -> None:
    named = "http://app.example:3000"
    with dyno_up(tmp_path, "--workers", "0-1", "--cors-origin", named) as (_, said):
        url = url_of(said)
        purge = f"{url}/v2/default/purge-queue"
        for origin in ("http://evil.example", "null", "http://localhost:1", "http://["):
            for path in (purge, f"{url}/submit/task2", f"{url}/api/workers/any/restart"):
                refused = httpx.post(path, headers={"Origin": origin})
                assert refused.status_code == 403
                assert "--cors-origin" in refused.json()["detail"]
            assert httpx.put(f"{url}/blobs/x", headers={"Origin": origin}).status_code == 403
            assert httpx.get(f"{url}/health", headers={"Origin": origin}).status_code == 200
        for origin in (url, named):
            assert httpx.post(purge, headers={"Origin": origin}).status_code == 200
        assert httpx.post(purge).status_code == 200


def test_with_keys_the_first_is_made_and_shown_once(tmp_path: Path) -> None:
    with dyno_up(tmp_path, "--workers", "0-1", "--keys") as (_, said):
        url = url_of(said)
        (key,) = re.findall(r"vd_\S+", "".join(said))
        path = f"{url}/v2/default/health"
        assert httpx.get(path).status_code == 401
        authorised = {"Authorization": f"Bearer {key}", "Host": "any.example"}
        assert httpx.get(path, headers=authorised).status_code == 200
    with dyno_up(tmp_path, "--workers", "0-1", "--keys") as (_, said):
        assert "vd_" not in "".join(said)
        assert httpx.get(f"{url_of(said)}/v2/default/health", headers=authorised).status_code == 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--workers", "3-1"), "the smaller number first"),
        (("--database-url", "mysql://x/y"), "SQLite or PostgreSQL, not in 'mysql'"),
        (("--host", "no.such.host.invalid"), "another --host or --port"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    with dyno_up(tmp_path, *arguments) as (process, said):
        assert process.wait(START_S) == 2
        text = "".join(said)
        assert message in text
        assert "Traceback" not in text


def test_a_taken_port_is_said_and_disturbs_nothing(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with dyno_up(tmp_path, "--port", port) as (process, said):
            assert process.wait(START_S) == 2
            assert f"Port {port} on 127.0.0.1 is taken" in "".join(said)
        assert not (tmp_path / "store.sqlite").exists()


def test_sigterm_lets_requests_end_and_lets_go_of_those_that_take_too_long(tmp_path: Path) -> None:
    faulty = (
        "from functools import partial; import visiondyno.cli.up as up;"
        "up.make_queue_executor = partial(up.make_queue_executor,"
        " entry='faulty_operations:run'); up.command()"
    )
    with dyno_up(
        tmp_path, "--workers", "2", "--port", "0", program=[sys.executable, "-c", faulty]
    ) as (
        process,
        said,
    ):
        url = url_of(said)
        goes_on = tmp_path / "goes-on"
        jobs = [
            {"operation": "until file", "path": str(goes_on)},
            {"operation": "until stopped"},
        ]

        def ask(job_input: dict[str, object]) -> httpx.Response:
            return httpx.post(f"{url}/v2/default/runsync", json={"input": job_input}, timeout=60)

        with ThreadPoolExecutor() as threads:
            asked = [threads.submit(ask, job_input) for job_input in jobs]
            while httpx.get(f"{url}/v2/default/health").json()["jobs"]["inProgress"] < 2:
                time.sleep(0.02)
            process.send_signal(signal.SIGTERM)
            goes_on.touch()
            short, long = [one.result() for one in asked]
        assert short.json()["status"] == "COMPLETED"
        assert long.status_code == 503
        assert process.wait(30) == 0
        assert process.stdout is not None
        assert "Traceback" not in process.stdout.read()


def test_sigterm_while_it_starts_ends_it(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*DYNO_UP, "--home", str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not (tmp_path / "store.sqlite").exists() and process.poll() is None:
        time.sleep(0.005)
    process.terminate()
    assert process.wait(30) in (0, -signal.SIGTERM)
