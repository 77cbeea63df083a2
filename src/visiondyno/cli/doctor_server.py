"""`dyno doctor --server`: a user's smoke test of a running server."""

import base64
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import click
import cv2
from rich.console import Console
from rich.text import Text

from visiondyno.datasets.street.scene import render_scene
from visiondyno.errors import Forbidden, NotFound, TransportDown, Unauthorized, VisionDynoError
from visiondyno.http_client import ServerClient
from visiondyno.job import JobState

MODEL = "visiondyno:street-n"
DEFAULT_LIMIT_S = 120.0
_POLL_S = 0.25
_FIRST_WORKER_S = 30.0
"""How long a server's first worker may take: one starts in a second, on a busy machine in ten."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was tried: how it went, and after what time."""

    what: str
    ok: bool
    seconds: float
    detail: str
    fix: str | None = None


class StepFailed(Exception):
    """A step that didn't go well, with the next thing to do."""

    def __init__(self, detail: str, fix: str) -> None:
        self.fix = fix
        super().__init__(detail)


class _SmokeTest:
    """The steps in their order; each one needs those before it."""

    def __init__(self, server: ServerClient, endpoint: str, limit_s: float) -> None:
        self._server = server
        self._endpoint = endpoint
        self._limit_s = limit_s
        self._job_id = ""

    def steps(self) -> list[tuple[str, Callable[[], str]]]:
        return [
            ("health", self._health),
            ("readiness", self._readiness),
            ("submit", self._submit),
            ("result", self._result),
            ("queue status", self._queue_status),
        ]

    def _health(self) -> str:
        self._server.health()
        return f"{self._server.url} is alive"

    def _readiness(self) -> str:
        until_s = time.monotonic() + min(_FIRST_WORKER_S, self._limit_s)
        while True:
            found = self._server.readiness()
            checks: dict[str, str] = found.get("checks", {})
            wrong = {name: said for name, said in checks.items() if said != "ok"}
            # A server is up before its first worker is; everything else doesn't mend itself.
            if wrong.keys() != {"workers"} or time.monotonic() > until_s:
                break
            time.sleep(_POLL_S)
        if wrong or not found.get("ready"):
            said = "; ".join(f"{name}: {what}" for name, what in wrong.items())
            raise StepFailed(said or "not ready", "do what the check says, try again")
        return f"{', '.join(checks)}: ok"

    def _submit(self) -> str:
        image, _ = render_scene("demo", 0)
        _, encoded = cv2.imencode(".jpg", image)
        text = base64.b64encode(encoded.tobytes()).decode()
        job = {"operation": "predict", "model": MODEL, "images": [text]}
        self._job_id = self._server.run(job, self._endpoint)["id"]
        return f"job {self._job_id}: {MODEL} on one rendered street scene"

    def _result(self) -> str:
        until_s = time.monotonic() + self._limit_s
        while True:
            found = self._server.status(self._job_id, self._endpoint)
            state = JobState(found["status"])
            if state.is_terminal:
                break
            if time.monotonic() > until_s:
                raise StepFailed(
                    f"still {state} after {self._limit_s:g} s",
                    f"see 'dyno workers list' and 'dyno jobs show {self._job_id}'",
                )
            time.sleep(_POLL_S)
        if state != JobState.COMPLETED:
            raise StepFailed(f"{state}: {_reason(found)}", f"see 'dyno jobs show {self._job_id}'")
        (prediction,) = found["output"]["predictions"]
        return (
            f"COMPLETED by worker {found.get('workerId')}: {len(prediction['scores'])} objects "
            f"found; waited {found['delayTime']} ms, ran {found['executionTime']} ms"
        )

    def _queue_status(self) -> str:
        found = self._server.queue_status()
        workers = len(found["workers"])
        return f"{found['queue_length']} waiting, {workers} worker{'' if workers == 1 else 's'}"


def examine_server(server: ServerClient, endpoint: str, limit_s: float) -> list[Step]:
    """Try everything a user does, up to the first step that fails."""
    steps: list[Step] = []
    for what, act in _SmokeTest(server, endpoint, limit_s).steps():
        began_s = time.perf_counter()
        fix: str | None = None
        try:
            ok, detail = True, act()
        except StepFailed as failed:
            ok, detail, fix = False, str(failed), failed.fix
        except VisionDynoError as error:
            ok, detail, fix = False, error.message, _next_step(error)
        steps.append(Step(what, ok, time.perf_counter() - began_s, detail, fix))
        if not ok:
            break
    return steps


def report(steps: list[Step], as_json: bool) -> int:
    """Print the steps; the exit code: 0 where all went well, else 1."""
    if as_json:
        click.echo(json.dumps([asdict(step) for step in steps], indent=1))
    else:
        for step in steps:
            show(step)
    return 0 if all(step.ok for step in steps) else 1


def show(step: Step) -> None:
    """Print one step, and what to do about it."""
    line = Text("✓ " if step.ok else "✗ ", style="green" if step.ok else "red")
    line.append(f"{step.what:<13}", style="bold")
    line.append(f"{step.seconds:7.2f} s  {step.detail}", style="default")
    if step.fix:
        line.append(f"\n→ {step.fix}", style="cyan")
    Console().print(line, soft_wrap=True, highlight=False)


def _reason(found: dict[str, Any]) -> str:
    error = found.get("error")
    if isinstance(error, dict):
        return str(error.get("message", error))
    return str(error or "no reason was given")


def _next_step(error: VisionDynoError) -> str:
    if isinstance(error, Unauthorized):
        return "give a key: --api-key KEY; 'dyno keys create NAME' on the server makes one"
    if isinstance(error, Forbidden):
        return "try with a key of scope 'all': 'dyno keys create NAME' on the server makes one"
    if isinstance(error, NotFound):
        return "if the server's endpoint has another name, give it: --endpoint NAME"
    if isinstance(error, TransportDown):
        return "is 'dyno up' running, and is --server its address?"
    return "look at the server's log"
