"""What endpoints forget: results after their retention, and all of it when they are killed."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from emulated_endpoint import KEY, client, until
from faulty_endpoint import (
    PROGRAM,
    FaultyEndpoint,
    faulty_endpoint,
    processes_of,
    raw_submit,
    work,
    worker_environ,
)
from visiondyno.client.async_client import AsyncClient
from visiondyno.client.client import Client
from visiondyno.emulator.serve import RunningEmulator
from visiondyno.errors import TransportDown
from visiondyno.executors.base import JobLost
from visiondyno.executors.runpod import RunPodExecutor
from visiondyno.executors.runpod_cost import CostMeter
from visiondyno.probes.cost import find_price

pytest.importorskip("runpod")
SPEED = 200.0
QUICK: dict[str, Any] = {
    "speed": SPEED,
    "init_timeout_s": 1e5,
    "idle_timeout_s": 100.0,
    "execution_timeout_s": 1e5,
    "missed_pings": 1000,
}
"""Half an hour passes in 9 s; what processes do takes as long as it does."""


# ---- results after their retention


def is_forgotten(running: RunningEmulator, job_id: str) -> bool:
    with client(running) as http:
        return http.get(f"/status/{job_id}").status_code == 404


async def quicker(pause_s: float) -> None:
    await asyncio.sleep(pause_s / SPEED)


def quick_clock() -> float:
    return time.monotonic() * SPEED


@pytest.mark.slow
def test_results_are_fetched_before_they_are_forgotten_though_nobody_asks(tmp_path: Path) -> None:
    async def main(endpoint: FaultyEndpoint) -> None:
        kept = work("kept")
        clients = [
            AsyncClient(
                RunPodExecutor(endpoint.url, KEY, meter=meter, sleep=quicker, clock=quick_clock)
            )
            for meter in (None, CostMeter(find_price("A4000"), clock=quick_clock))
        ]
        job_ids = [await idle.submit(kept) for idle in clients]
        stranger = raw_submit(endpoint.url, kept)
        while endpoint.running.emulator.endpoint.jobs.health()["completed"] < 3:
            await asyncio.sleep(0.1)
        while not is_forgotten(endpoint.running, stranger):
            await asyncio.sleep(0.1)
        await asyncio.sleep(1.0)  # by then they all are
        for idle, job_id in zip(clients, job_ids, strict=True):
            assert await idle.result(job_id) == {"name": "kept", "steps": 3}
        with pytest.raises(JobLost, match="Submit the job again"):
            await clients[0].result(stranger)
        for idle, job_id in zip(clients, job_ids, strict=True):
            assert isinstance(idle.executor, RunPodExecutor)
            with pytest.raises(JobLost):
                await idle.executor._looks.ask_of(job_id, "GET", "status")
            await idle.close()
        assert endpoint.runs_of(kept) == 3

    with faulty_endpoint(tmp_path, **QUICK) as endpoint:
        asyncio.run(main(endpoint))


# ---- an endpoint that is killed


@contextmanager
def killed_emulator(folder: Path, port: int, mark: str) -> Iterator["subprocess.Popen[bytes]"]:
    """`dyno emulate runpod`, which isn't asked to end but killed."""
    for name in ("runs", "logs"):
        (folder / name).mkdir(exist_ok=True)
    dyno = str(Path(sys.executable).with_name("dyno"))
    command = [dyno, "emulate", "runpod", "--port", str(port)]
    command += ["--workers", "0-1", "--idle-timeout", "1", "--logs", str(folder / "logs")]
    command += ["--worker-command", f'{sys.executable} -c "{PROGRAM}"', "--api-key", KEY]
    with (folder / "emulator.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, **worker_environ(folder, mark)},
            stdout=log,
            stderr=log,
            cwd=folder,
        )
    try:
        until(lambda: listens(port))
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def listens(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.slow
def test_a_job_whose_endpoint_was_killed_and_started_again_is_lost(tmp_path: Path) -> None:
    port, mark = free_port(), f"lost-{os.getpid()}"
    url = f"http://127.0.0.1:{port}/v2/emulator"
    with Client("runpod", endpoint=url, api_key=KEY, gpu="A4000") as asking:
        with killed_emulator(tmp_path, port, mark):
            job_id = asking.submit({"operation": "until stopped"})
            events = asking.watch(job_id)
            while next(events).progress is None:
                pass
            assert processes_of(mark)
        until(lambda: not processes_of(mark))  # no worker outlives it, however it went
        with killed_emulator(tmp_path, port, mark):
            with pytest.raises(JobLost, match="Submit the job again"):
                list(events)
            assert asking.run(work("again")) == {"name": "again", "steps": 3}
    until(lambda: not processes_of(mark))


@pytest.mark.slow
def test_a_job_whose_endpoint_was_killed_for_good_is_out_of_reach(tmp_path: Path) -> None:
    port, mark = free_port(), f"gone-{os.getpid()}"

    async def hurried(pause_s: float) -> None:
        await asyncio.sleep(pause_s / 50)

    async def main() -> None:
        executor = RunPodExecutor(f"http://127.0.0.1:{port}/v2/emulator", KEY, sleep=hurried)
        async with AsyncClient(executor, sleep=hurried) as asking:
            with killed_emulator(tmp_path, port, mark):
                job_id = await asking.submit({"operation": "until stopped"})
                async for event in asking.watch(job_id):
                    if event.progress is not None:
                        break
            with pytest.raises(TransportDown, match="check the endpoint's URL and the network"):
                await asking.result(job_id)

    asyncio.run(main())
    until(lambda: not processes_of(mark))
