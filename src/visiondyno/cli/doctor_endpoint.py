"""`dyno doctor --endpoint`: a user's smoke test of a RunPod endpoint."""

import asyncio
import importlib.util
import json
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from typing import Any

import click

from visiondyno import __version__
from visiondyno.cli.doctor_server import Step, StepFailed, show
from visiondyno.client.async_client import AsyncClient
from visiondyno.errors import (
    Forbidden,
    NotFound,
    RateLimited,
    SpecError,
    TransportDown,
    Unauthorized,
    VisionDynoError,
)
from visiondyno.job import JobEvent, JobState
from visiondyno.places import Place, without_password
from visiondyno.settings import load_settings

DEFAULT_LIMIT_S = 300.0
EPOCHS = 3
CPU_TOLERANCE, GPU_TOLERANCE = 1e-5, 1e-3
"""Relative differences of losses and accuracies that other processors may cause."""

Json = dict[str, Any]
_LEAST_POLICY_MS = 10_000
_NEXT_STEPS: tuple[tuple[type[VisionDynoError], str], ...] = (
    (Unauthorized, "give the right key: --api-key KEY, or RUNPOD_API_KEY; the console makes one"),
    (Forbidden, "give a key that may use this endpoint; the console says what each one may do"),
    (RateLimited, "wait a minute, and try again"),
    (TransportDown, "check the URL and the network; 'dyno emulate runpod' runs an endpoint here"),
)
_HANDLER = (
    "look at the worker's log; if its image isn't this version of VisionDyno, deploy it with "
    "'dyno deploy runpod'"
)


def _samples(count: int, phase: int) -> Json:
    """Four features and one of two classes each, the same everywhere."""
    grid = [[math.sin(phase + 3 * n + k) for k in range(4)] for n in range(count)]
    return {"features": grid, "labels": [int(row[0] + row[1] > 0) for row in grid]}


def _module_fields(seed: int) -> Json:
    layers = [
        {"type": "linear", "in_features": 4, "out_features": 8},
        {"type": "relu"},
        {"type": "linear", "in_features": 8, "out_features": 2},
    ]
    return {
        "model_config": {"type": "sequential", "layers": layers},
        "hyperparameters": {"batch_size": 8, "seed": seed},
    }


class EndpointExamination:
    """The steps in their order; each one needs those before it.

    Args:
        client: of the endpoint.
        url: shown.
        limit_s: how long the endpoint may take for one job, its worker's start included.
    """

    def __init__(self, client: AsyncClient, url: str, limit_s: float) -> None:
        self._client = client
        self._url = url
        self._limit_s = limit_s
        self._last: JobEvent | None = None
        self._epochs_told: list[int] = []
        self._answers: dict[str, Json] = {}
        # Another one each time: no worker has a part of it already.
        self._fields = _module_fields(int(time.time()))

    def steps(self) -> list[tuple[str, Callable[[], Awaitable[str]]]]:
        """Name of each step, and what does it."""
        return [
            ("connectivity", self._connect),
            ("one epoch", self._one_epoch),
            ("evaluate", self._evaluate),
            (f"{EPOCHS} epochs", self._epochs),
            ("versions", self._versions),
            ("same numbers", self._compare),
        ]

    def conclusion(self) -> str:
        """What is said of an endpoint that passed."""
        try:
            cost = self._client.total_cost()
        except SpecError:
            cost = None
        costs = "what it cost isn't known without --gpu" if cost is None else f"it cost {cost}"
        return f"Passed: {self._url} trains and evaluates as it should; {costs}."

    async def _connect(self) -> str:
        found = await self._client.executor.health()
        waiting = found.jobs.get(JobState.IN_QUEUE, 0)
        return (
            f"{self._url}: {found.workers_ready} workers ready, {found.workers_busy} of them busy; "
            f"{waiting} jobs wait"
        )

    async def _one_epoch(self) -> str:
        answer = await self._run(self._training_of_one_epoch())
        return f"train loss {answer['metrics']['loss']:.4g}; {self._job_text()}"

    async def _evaluate(self) -> str:
        trained = self._answers["train_epoch"]
        state = {name: trained[name] for name in ("model_state", "model_state_format")}
        answer = await self._run(
            {"operation": "evaluate", "validation_data": _samples(16, 7), **self._fields, **state}
        )
        return f"loss {answer['metrics']['loss']:.4g}; {self._job_text()}"

    async def _epochs(self) -> str:
        answer = await self._run(self._training())
        told, expected = self._epochs_told, list(range(1, EPOCHS + 1))
        if told != expected:
            raise StepFailed(f"told of the epochs {told} instead of {expected}", _HANDLER)
        losses = " → ".join(f"{record['val_metrics']['loss']:.4g}" for record in answer["history"])
        return f"validation loss {losses}, told in order; {self._job_text()}"

    def _training_of_one_epoch(self) -> Json:
        return {"operation": "train_epoch", "training_data": _samples(32, 0), **self._fields}

    def _training(self) -> Json:
        data = {"training_data": _samples(32, 0), "validation_data": _samples(16, 7)}
        return {"operation": "train", "epochs": EPOCHS, **data, **self._fields}

    async def _versions(self) -> str:
        answer = self._answers["train"]
        theirs = answer.get("visiondyno")
        if theirs != __version__:
            raise StepFailed(
                f"the worker has VisionDyno {theirs or 'of another version'}, and here is "
                f"{__version__}",
                "deploy this version with 'dyno deploy runpod', or install the worker's here",
            )
        return f"VisionDyno {theirs} there and here; torch {answer['torch']} on {answer['device']}"

    async def _compare(self) -> str:
        if importlib.util.find_spec("torch") is None:
            return "not compared: torch isn't installed here"
        is_gpu = str(self._answers["train"]["device"]).startswith("cuda")
        tolerance = GPU_TOLERANCE if is_gpu else CPU_TOLERANCE
        there = [self._answers["train_epoch"]["metrics"], self._answers["train"]["history"]]
        async with AsyncClient("inline") as here:
            one = await here.run({**self._training_of_one_epoch(), "device": "cpu"})
            many = await here.run({**self._training(), "device": "cpu"})
        worst = largest_difference(there, [one["metrics"], many["history"]])
        if worst > tolerance:
            raise StepFailed(
                f"they differ by {worst:.2g} from those of the same jobs run here, more than "
                f"{tolerance:g}",
                "compare the versions of torch above; install the worker's here, and try again",
            )
        return f"as here, within {tolerance:g}: they differ by {worst:.2g}"

    async def _run(self, job_input: Json) -> Json:
        self._last = None
        limit_ms = max(_LEAST_POLICY_MS, round(self._limit_s * 1000))
        # The endpoint ends it by itself should this process be killed.
        policy = {"executionTimeout": limit_ms, "ttl": 2 * limit_ms}
        try:
            async with asyncio.timeout(self._limit_s):
                answer = await self._client.run(job_input, policy=policy, on_event=self._note)
        except TimeoutError as error:
            raise self._too_late() from error
        self._answers[job_input["operation"]] = answer
        wanted = {"train": "history"}.get(job_input["operation"], "metrics")
        if wanted not in answer or "device" not in answer:
            raise StepFailed(f"the answer isn't VisionDyno's: it has {sorted(answer)}", _HANDLER)
        return answer

    def _note(self, event: JobEvent) -> None:
        self._last = event
        if event.progress is not None and event.progress.get("stage") == "epoch":
            self._epochs_told.append(event.progress["epoch"])

    def _too_late(self) -> StepFailed:
        if self._last is not None and self._last.state is JobState.IN_PROGRESS:
            return StepFailed(
                f"a worker has the job and didn't end it within {self._limit_s:g} s",
                "look at the worker's log, or allow more with --time-limit",
            )
        return StepFailed(
            f"no worker took the job within {self._limit_s:g} s",
            "check in the console that a GPU is available, that max workers is above 0, and what "
            "the workers' log says; or allow more with --time-limit",
        )

    def _job_text(self) -> str:
        assert self._last is not None, "a job that was answered had events"
        answer, parts = self._last.answer, []
        if answer is not None and answer.delay_time_ms is not None:
            parts.append(f"waited {answer.delay_time_ms / 1000:.1f} s")
        if answer is not None and answer.execution_time_ms is not None:
            parts.append(f"ran {answer.execution_time_ms / 1000:.1f} s")
        if answer is not None and answer.worker_id is not None:
            parts.append(f"on worker {answer.worker_id}")
        try:
            cost = self._client.cost_of(self._last.job_id)
        except (SpecError, NotFound):
            cost = None
        if cost is not None:
            parts.append(f"for {cost.usd_at_least:.4f} to {cost.usd_at_most:.4f} USD")
        return ", ".join(parts)


def largest_difference(there: Any, here: Any) -> float:
    """The largest relative difference of two numbers in the same place; infinity: other places."""
    if isinstance(there, dict) and isinstance(here, dict) and there.keys() == here.keys():
        return max((largest_difference(there[key], here[key]) for key in here), default=0.0)
    if isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        pairs = zip(there, here, strict=True)
        return max((largest_difference(*pair) for pair in pairs), default=0.0)
    if isinstance(there, int | float) and isinstance(here, int | float):
        difference = abs(there - here) / max(1.0, abs(here))
        return difference if math.isfinite(difference) else math.inf
    return math.inf


def examine_endpoint(place: Place, limit_s: float, *, as_json: bool) -> int:
    """Try everything a training needs, up to the first step that fails; the exit code.

    Args:
        place: `runpod`, with endpoint, key and GPU.
        limit_s: how long the endpoint may take for one job.
        as_json: print one object at the end instead of a line for each step.

    Raises:
        SpecError: no endpoint, or what can't be one.
    """
    steps: list[Step] = []

    def note(step: Step) -> None:
        steps.append(step)
        if not as_json:
            show(replace(step, fix=None))  # that is the last line

    conclusion = asyncio.run(_examine(place, limit_s, note))
    passed = steps[-1].ok
    if as_json:
        found = {"passed": passed, "conclusion": conclusion, "steps": [asdict(s) for s in steps]}
        click.echo(json.dumps(found, indent=1))
    else:
        click.echo(conclusion)
    return 0 if passed else 1


async def _examine(place: Place, limit_s: float, note: Callable[[Step], None]) -> str:
    url = without_password(place.endpoint_url(load_settings()) or "")
    # Leaving it cancels what runs, whatever the reason.
    async with AsyncClient(place) as client:
        examination = EndpointExamination(client, url, limit_s)
        await client.executor.start()  # what is wrong with the options isn't the endpoint's fault
        for what, act in examination.steps():
            step = await tried(what, act)
            note(step)
            if not step.ok:
                return f"Failed at '{what}': {step.fix}."
        return examination.conclusion()


async def tried(what: str, act: Callable[[], Awaitable[str]]) -> Step:
    """How one step went; what to do, where it failed."""
    began_s = time.perf_counter()
    fix: str | None = None
    try:
        ok, detail = True, await act()
    except StepFailed as failed:
        ok, detail, fix = False, str(failed), failed.fix
    except VisionDynoError as error:
        ok, detail, fix = False, error.message, _next_step(what, error)
    return Step(what, ok, time.perf_counter() - began_s, detail, fix)


def _next_step(what: str, error: VisionDynoError) -> str:
    for kind, step in _NEXT_STEPS:
        if isinstance(error, kind):
            return step
    if what == "connectivity":
        return "check the endpoint's id or URL, as the console shows it"
    return _HANDLER
