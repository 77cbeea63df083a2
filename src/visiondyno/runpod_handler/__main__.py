"""A RunPod worker: `python -m visiondyno.runpod_handler`, the command of the worker's image."""

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from visiondyno.errors import MissingExtra, SpecError, Unavailable, VisionDynoError
from visiondyno.executors.supervisor_options import DEFAULT_ENTRY
from visiondyno.executors.worker_pipe import WorkerPipe
from visiondyno.probes.machine import capture_environment
from visiondyno.probes.slots import GpuMemory, gpu_memories, host_memory
from visiondyno.runpod_handler.concurrency import Places, choose_places, may_prefetch
from visiondyno.runpod_handler.fitness import fitness_checks
from visiondyno.runpod_handler.progress import Json, OpenStream, Post
from visiondyno.runpod_handler.sdk_loop import mend_loop
from visiondyno.runpod_handler.volume import keep_on_volume
from visiondyno.runpod_handler.worker import RunPodWorker
from visiondyno.settings import load_settings

DRAIN_VARIABLE = "VISIONDYNO_DRAIN_S"
_DRAIN_S = 20.0
_STREAM_VARIABLE = "RUNPOD_WEBHOOK_POST_STREAM"
_LOG_VARIABLES = ("RUNPOD_LOG_LEVEL", "RUNPOD_DEBUG_LEVEL")

_log = logging.getLogger("visiondyno.runpod_handler")


def main(entry: str = DEFAULT_ENTRY) -> int:
    """Serve jobs until SIGTERM; the exit code.

    Args:
        entry: `package.module:function` that runs a job's input.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        _serve(entry)
    except VisionDynoError as error:
        sys.stderr.write(f"Error: {error.message}\n")
        return error.exit_code
    return 0


def _serve(entry: str) -> None:
    keep_on_volume(os.environ)
    places = _places(os.environ)
    drain_s = _seconds(os.environ)
    is_prefetching = may_prefetch(os.environ)
    checks = fitness_checks(load_settings(), os.environ, gpu_memories)
    if not any(name in os.environ for name in _LOG_VARIABLES):
        os.environ["RUNPOD_LOG_LEVEL"] = "INFO"  # its default writes every output to the log
    environ = dict(os.environ)
    if places.gpu_memory_fraction is not None:
        environ["VISIONDYNO_GPU_MEMORY_FRACTION"] = str(places.gpu_memory_fraction)
    _log.info("%d jobs at once: %s", places.count, places.reason)
    serverless = _import_sdk()
    for check in checks:
        serverless.register_fitness_check(check)
    worker = RunPodWorker(
        places.count,
        lambda: WorkerPipe(entry, environ),
        _stream_opener(),
        may_prefetch=is_prefetching,
        drain_s=drain_s,
    )
    with contextlib.suppress(asyncio.CancelledError):  # that is how the worker leaves its loop
        serverless.start(
            {"handler": worker.handler, "concurrency_modifier": worker.concurrency_modifier}
        )


def _import_sdk() -> Any:
    try:
        from runpod import serverless
    except ModuleNotFoundError as error:
        raise MissingExtra("runpod", "A RunPod worker") from error
    if not hasattr(serverless, "register_fitness_check"):
        raise Unavailable(
            "The installed runpod package has no fitness checks; install a later one: "
            "pip install --upgrade 'visiondyno[runpod]'."
        )
    from runpod.serverless.modules.rp_scale import JobScaler

    mend_loop(JobScaler)
    return serverless


def _stream_opener() -> Callable[[Json], OpenStream]:
    from runpod.http_client import AsyncClientSession
    from runpod.serverless.modules.rp_http import stream_result

    has_stream = _STREAM_VARIABLE in os.environ

    def opener(job: Json) -> OpenStream:
        @asynccontextmanager
        async def opened() -> AsyncGenerator[Post]:
            if not has_stream:  # tried on one's own machine

                async def show(item: Json) -> None:
                    _log.info("%s: %s", job.get("id"), item)

                yield show
                return
            # Of its own: the SDK writes the job's id into its session's headers.
            async with AsyncClientSession() as session:

                async def post(item: Json) -> None:
                    await stream_result(session, {"output": item}, job)

                yield post

        return opened

    return opener


def _places(environ: Mapping[str, str]) -> Places:
    gpus: Sequence[GpuMemory] = ()
    with contextlib.suppress(Unavailable):  # a worker without a GPU
        gpus = gpu_memories()
    cpu_count = capture_environment().cpu_count
    return choose_places(environ, gpus, cpu_count, host_memory().available_bytes)


def _seconds(environ: Mapping[str, str]) -> float:
    told = environ.get(DRAIN_VARIABLE, "").strip()
    try:
        found = float(told) if told else _DRAIN_S
    except ValueError:
        found = -1.0
    if not 0 <= found <= 3600:
        raise SpecError(
            f"{DRAIN_VARIABLE} is '{told:.40}'; give the seconds that running jobs have to end "
            "when the worker is stopped, 0 to 3600."
        )
    return found


if __name__ == "__main__":
    sys.exit(main())
