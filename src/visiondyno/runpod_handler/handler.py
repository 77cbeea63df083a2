"""From a job as RunPod gives it to the answer that it takes."""

import asyncio
import json
import time
import traceback
from collections.abc import Callable
from itertools import count
from typing import Any

from visiondyno.errors import OperationFailed, SpecError, TooLarge, Unavailable
from visiondyno.executors.queue import Outcome
from visiondyno.job import JobError
from visiondyno.runpod_handler.child import Children
from visiondyno.runpod_handler.concurrency import Concurrency
from visiondyno.runpod_handler.gate import Gate
from visiondyno.runpod_handler.progress import Json, OpenStream, ProgressStream, read_json

MAX_OUTPUT_BYTES = 10_000_000
"""What RunPod takes for a job of `/run`, its input or its output."""
_ENVELOPE_BYTES = 1000
_SDKS_KEYS = frozenset({"error", "refresh_worker"})
_MEASURING = "benchmark"
_BATCH = "batch"


def execution_timeout_ms(job: Json) -> int | None:
    """The job's own time limit, milliseconds; None where none came with it.

    RunPod checks a policy when the job is submitted and enforces it itself; what comes through is
    kept here too, for the better error.
    """
    policy = job.get("policy")
    limit_ms = policy.get("executionTimeout") if isinstance(policy, dict) else None
    if isinstance(limit_ms, bool) or not isinstance(limit_ms, int | float):
        return None
    return int(limit_ms) if 1 <= limit_ms < 10**15 else None


def measures(job_input: Json) -> bool:
    """Whether another job beside it would falsify what it is there to measure."""
    if job_input.get("operation") == _BATCH:
        inputs = job_input.get("operations")
        parts = inputs if isinstance(inputs, list) else []
        return any(isinstance(part, dict) and measures(part) for part in parts)
    return job_input.get("operation") == _MEASURING


class JobHandler:
    """Runs each job in a child process and answers as the SDK wants it.

    The output is the operation's own; an error is the JSON text of a `JobError`, which the client
    makes the same exception of. A job that measures runs alone. Cancelling the call stops the job.
    A job that is delivered once more while it runs isn't run twice: both calls give its one answer,
    and cancelling either of them stops it.

    Args:
        children: where jobs run.
        gate: of as many places as there are children.
        concurrency: is told how long jobs ran.
        open_stream: opens what takes the items of one job's stream.
        now_s: a monotonic clock.
    """

    def __init__(
        self,
        children: Children,
        gate: Gate,
        concurrency: Concurrency,
        open_stream: Callable[[Json], OpenStream],
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._children = children
        self._gate = gate
        self._concurrency = concurrency
        self._open_stream = open_stream
        self._now_s = now_s
        self._numbers = count(1)
        self._running: dict[str, tuple[asyncio.Task[Any], asyncio.Future[Json]]] = {}

    async def handle(self, job: Json) -> Json:
        """The output, or `{"error": text}`; with `refresh_worker` where this worker is broken."""
        job_id = job.get("id")
        if not isinstance(job_id, str):
            return await self._answer(job)
        if job_id in self._running:
            return await self._same(job_id)
        task = asyncio.current_task()
        assert task is not None
        answer: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        self._running[job_id] = task, answer
        try:
            found = await self._answer(job)
            answer.set_result(found)
            return found
        finally:
            del self._running[job_id]
            answer.cancel()  # unless it is there

    async def _same(self, job_id: str) -> Json:
        """The answer of the call that runs the job already."""
        runs_it, answer = self._running[job_id]
        try:
            return dict(await asyncio.shield(answer))
        except asyncio.CancelledError:
            runs_it.cancel()  # the SDK knows the last call of an id alone, and stops that
            raise

    async def _answer(self, job: Json) -> Json:
        try:
            return _output_of(await self._outcome(job))
        except Unavailable as error:
            return _failed(error) | {"refresh_worker": True}
        except Exception as error:
            return _failed(error)

    async def _outcome(self, job: Json) -> Outcome:
        job_input = job.get("input")
        if not isinstance(job_input, dict):
            raise SpecError(
                "The job's 'input' isn't an object; give one such as "
                '{"operation": "predict", …}.'
            )
        token, input_json = str(next(self._numbers)), json.dumps(job_input)
        limit_ms = execution_timeout_ms(job)
        stream = ProgressStream(self._open_stream(job))
        try:
            async with self._gate.entered(self._gate.places if measures(job_input) else 1):
                began_s = self._now_s()
                outcome = await self._children.run(token, input_json, limit_ms, stream.tell)
                self._concurrency.note(self._now_s() - began_s)
            await stream.flush()  # the next job runs meanwhile
        finally:
            await stream.abandon()
        return outcome


def _output_of(outcome: Outcome) -> Json:
    if outcome.output_json is None:
        assert outcome.error is not None, "an outcome is an output or an error"
        return {"error": outcome.error.model_dump_json()}
    output: Any = read_json(outcome.output_json)
    size_bytes = len(outcome.output_json)
    if size_bytes > MAX_OUTPUT_BYTES - _ENVELOPE_BYTES:
        size_bytes = len(json.dumps(output, ensure_ascii=False).encode())
    if size_bytes > MAX_OUTPUT_BYTES - _ENVELOPE_BYTES:
        raise TooLarge(
            f"The job's output has {size_bytes / 1e6:.1f} MB and RunPod takes "
            f"{MAX_OUTPUT_BYTES / 1e6:g} MB; ask for less in one job."
        )
    taken = _SDKS_KEYS & output.keys()
    if taken:
        raise OperationFailed(
            f"The job's output has a key '{min(taken)}', which RunPod's worker takes for its own; "
            "run this operation on another executor."
        )
    return dict(output)


def _failed(error: Exception) -> Json:
    trace = "".join(traceback.format_exception(error))
    return {"error": JobError.from_exception(error, trace).model_dump_json()}
