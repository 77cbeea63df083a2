"""The arms of the remote benchmark: a client, an emulated endpoint, and one worker each."""

import logging
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from visiondyno.client.client import Client

HERE = Path(__file__).parent
KEY = "benchmark"
GIVE_UP_S = 120
Json = dict[str, Any]


class Arm(Protocol):
    """What is measured."""

    def many(self, count: int, seconds: float) -> list[Json]:
        """Submit so many jobs at once, and wait for all answers; those, by number."""

    def one(self, number: int) -> Json:
        """Submit a job that does nothing; its answer."""


class OurArm:
    """`Client`, and the worker of our image."""

    def __init__(self, url: str) -> None:
        self._client = Client("runpod", endpoint=url, api_key=KEY)

    def many(self, count: int, seconds: float) -> list[Json]:
        jobs = [_job(number, seconds) for number in range(count)]
        found = self._client.run_many(jobs, at_once=count)
        failed = [one for one in found if not isinstance(one, dict)]
        if failed:
            raise failed[0]
        return [one for one in found if isinstance(one, dict)]

    def one(self, number: int) -> Json:
        return self._client.run(_job(number, 0.0))

    def close(self) -> None:
        """Free what it holds."""
        self._client.close()


class SdkArm:
    """`runpod.Endpoint`, and a plain handler; `one` by `/runsync`, its quickest way."""

    def __init__(self, url: str) -> None:
        import runpod

        logging.getLogger().setLevel(logging.WARNING)  # it would have each request written
        base, _, name = url.rpartition("/")
        runpod.endpoint_url_base = base
        self._endpoint = runpod.Endpoint(name, api_key=KEY)

    def many(self, count: int, seconds: float) -> list[Json]:
        jobs = [self._endpoint.run({"input": _job(n, seconds)}) for n in range(count)]
        return [job.output(timeout=GIVE_UP_S) for job in jobs]

    def one(self, number: int) -> Json:
        return dict(self._endpoint.run_sync({"input": _job(number, 0.0)}, timeout=GIVE_UP_S))

    def one_by_looks(self, number: int) -> Json:
        """By `/run` and looks at `/status`, as a client must that wants progress or cancels."""
        return dict(self._endpoint.run({"input": _job(number, 0.0)}).output(timeout=GIVE_UP_S))

    def close(self) -> None:
        """Nothing is held."""


def _job(number: int, seconds: float) -> Json:
    return {"operation": "work", "number": number, "seconds": seconds}


@contextmanager
def endpoint(kind: str, folder: Path) -> Iterator[str]:
    """`dyno emulate runpod` with one worker that is there from the start; the endpoint's URL.

    Args:
        kind: `ours` or `sdk`.
        folder: gets logs and the worker's home.
    """
    folder.mkdir()
    worker = shlex.join([sys.executable, str(HERE / "remote_worker.py"), kind])
    environ = {
        **os.environ,
        "PYTHONPATH": str(HERE),  # our worker's process finds its operation there
        "PYTHONUNBUFFERED": "1",
        "RUNPOD_API_KEY": KEY,
        "RUNPOD_SKIP_GPU_CHECK": "true",
        "VISIONDYNO_HOME": str(folder),
        "VISIONDYNO_CONCURRENCY": "1",
    }
    dyno = str(Path(sys.executable).with_name("dyno"))
    options = ["--port", "0", "--workers", "1-1", "--logs", str(folder / "logs")]
    process = subprocess.Popen(
        [dyno, "emulate", "runpod", *options, "--worker-command", worker],
        stdout=subprocess.PIPE,
        text=True,
        env=environ,
    )
    try:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found is not None, "the emulator didn't start"
        yield found[0]
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
