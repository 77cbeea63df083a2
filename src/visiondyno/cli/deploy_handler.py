"""The real worker, tried on this machine, under an emulated endpoint, before its image is built."""

import base64
import importlib.util
import json
import secrets
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from visiondyno.datasets.stored_png import png_bytes
from visiondyno.emulator.config import EndpointConfig
from visiondyno.emulator.emulator import Emulator
from visiondyno.emulator.serve import RunningEmulator
from visiondyno.errors import MissingExtra, OperationFailed
from visiondyno.job import JobState
from visiondyno.loopback import past_proxies

Json = dict[str, Any]

WORKER = (sys.executable, "-m", "visiondyno.runpod_handler")
_MODEL = "visiondyno:street-n"
_LIMIT_S = 240.0
_LOOK_S = 0.1
_LAST_WORDS = 20
_STAGE = "test the handler"


def try_handler(
    *,
    with_training: bool,
    sources: Path | None = None,
    command: tuple[str, ...] = WORKER,
    limit_s: float = _LIMIT_S,
    sleep: Callable[[float], None] = time.sleep,
) -> list[str]:
    """Run a job of each kind on a worker of this machine's processor; nothing is left running.

    Args:
        with_training: one epoch too, where torch is installed.
        sources: a folder with `visiondyno`, whose worker is to run; None: the installed one.
        command: what a worker runs.
        limit_s: for each job, the worker's start with the first.
        sleep: waits so many seconds between two looks.

    Returns:
        The operations that ran.

    Raises:
        MissingExtra: the runpod package isn't installed.
        OperationFailed: the worker can't start, or a job failed; its log's last lines are in
            `traceback`.
    """
    if importlib.util.find_spec("runpod") is None:
        raise MissingExtra("runpod", "Trying the worker on this machine (or --skip-test)")
    jobs = [_predict()]
    if with_training and importlib.util.find_spec("torch") is not None:
        jobs.append(_train_epoch())
    key = secrets.token_urlsafe(16)
    headers = {"Authorization": f"Bearer {key}"}
    with tempfile.TemporaryDirectory(prefix="dyno-deploy-") as name:
        folder = Path(name)
        environ = _environ(folder / "home", sources)
        with (
            _endpoint(command, key, folder, environ, limit_s) as running,
            httpx.Client(
                base_url=running.url,
                headers=headers,
                timeout=60.0,
                mounts=past_proxies(running.url),
            ) as http,
        ):
            for job in jobs:
                _run(http, job, limit_s, sleep, folder)
    return [str(job["operation"]) for job in jobs]


def _endpoint(
    command: tuple[str, ...], key: str, logs: Path, environ: dict[str, str], limit_s: float
) -> RunningEmulator:
    config = EndpointConfig(endpoint_id="deploy", workers_max=1, idle_timeout_s=limit_s)
    return RunningEmulator(
        lambda: Emulator(config, command, api_key=key, log_folder=logs, environ=environ)
    )


def _run(
    http: httpx.Client, job: Json, limit_s: float, sleep: Callable[[float], None], logs: Path
) -> None:
    operation = job["operation"]
    job_id = http.post("/run", json={"input": job}).raise_for_status().json()["id"]
    for _ in range(max(1, round(limit_s / _LOOK_S))):
        found = http.get(f"/status/{job_id}").raise_for_status().json()
        state = JobState(found["status"])
        if state is JobState.COMPLETED:
            return
        if state.is_terminal:
            raise _broken(f"fails at '{operation}': {_message(found.get('error'))}", logs)
        if http.get("/health").raise_for_status().json()["workers"].get("unhealthy"):
            raise _broken("ends before it takes a job", logs)
        sleep(_LOOK_S)
    raise _broken(f"has no answer to '{operation}' after {limit_s:g} s", logs)


def _broken(what: str, logs: Path) -> OperationFailed:
    return OperationFailed(
        f"The worker, tried on this machine, {what}; nothing was built or deployed. Correct it "
        "(its log's last lines are above), or give --skip-test.",
        stage=_STAGE,
        traceback=_last_words(logs),
    )


def _last_words(logs: Path) -> str:
    lines: list[str] = []
    for path in sorted(logs.glob("*.log"), key=lambda path: path.stat().st_mtime):
        lines += path.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-_LAST_WORDS:])


def _message(error: Any) -> str:
    try:
        return str(json.loads(error)["message"])
    except (TypeError, ValueError, KeyError):
        return f"{error or 'no reason was given':.300}"


def _environ(home: Path, sources: Path | None) -> dict[str, str]:
    """This machine has no GPU to show, and the user's blobs and home are left alone."""
    environ = {
        "VISIONDYNO_HOME": str(home),
        "VISIONDYNO_BLOBS_URL": (home / "blobs").as_uri(),
        "VISIONDYNO_REQUIRE_GPU": "0",
        "VISIONDYNO_CONCURRENCY": "1",
        "RUNPOD_SKIP_GPU_CHECK": "true",
    }
    return environ if sources is None else {**environ, "PYTHONPATH": str(sources)}


def _predict() -> Json:
    grey = np.full((64, 64, 3), 128, np.uint8)
    image = base64.b64encode(png_bytes(grey)).decode()
    return {"operation": "predict", "model": _MODEL, "images": [image]}


def _train_epoch() -> Json:
    values = [[float(row >> bit & 1) for bit in range(4)] for row in range(16)]
    return {
        "operation": "train_epoch",
        "model_config": {
            "type": "sequential",
            "layers": [{"type": "linear", "in_features": 4, "out_features": 2}],
        },
        "training_data": {"features": values, "labels": [int(row[0]) for row in values]},
    }
