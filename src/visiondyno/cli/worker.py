"""`dyno worker`."""

import asyncio
import logging
import os
import signal
import socket
from typing import Any

import click

from visiondyno.cli import options
from visiondyno.errors import SpecError
from visiondyno.executors.open_queue import is_redis, open_queue
from visiondyno.executors.scaling import ScaleLimits
from visiondyno.executors.supervisor import Supervisor
from visiondyno.executors.supervisor_options import SupervisorOptions
from visiondyno.probes.gpu_share import gpu_share
from visiondyno.settings import load_settings
from visiondyno.telemetry.logs import configure_logging
from visiondyno.wiring import make_blobs


@click.command()
@click.option(
    "--redis",
    "redis_url",
    metavar="URL",
    help="Take jobs from this Redis. [env: VISIONDYNO_REDIS_URL, or REDIS_HOST and REDIS_PORT]",
)
@click.option(
    "--slots",
    callback=options.process_range,
    metavar="N[-M]",
    help="Worker processes; a range scales with the queue. 'dyno doctor --workers' suggests how "
    "many. [env: WORKER_COUNT; default: 1]",
)
@click.option(
    "--gpu-memory-fraction",
    type=float,
    metavar="F",
    help="Each worker's share of the GPU's memory. [env: GPU_MEMORY_FRACTION; default: no limit]",
)
@click.option(
    "--blobs-url",
    metavar="URL",
    help="Where the server keeps its blobs: s3://…, gs://…, or http(s)://SERVER/blobs. "
    "[env: VISIONDYNO_BLOBS_URL]",
)
@click.option("--name", metavar="NAME", help="Prefix of the workers' names. [env: WORKER_ID]")
@click.option(
    "--idle-timeout",
    "idle_timeout_s",
    type=float,
    metavar="SECONDS",
    help="With a range of slots: an idle worker above the least ends after so long. [default: 60]",
)
@click.option(
    "--drain",
    "drain_s",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="When stopped: let running jobs end for so long, then give them back.",
)
@options.log_format
def command(slots: tuple[int, int] | None, drain_s: float, **flags: Any) -> None:
    """Run worker processes for a queue on Redis, on this machine.

    Dead workers are replaced, and their jobs run again. The first SIGTERM or Ctrl-C lets running
    jobs end, a second one gives them back to the queue at once.
    """
    flags["worker_id"] = flags.pop("name")
    if slots is not None:
        flags |= {"workers_min": slots[0], "workers_max": slots[1]}
    settings = load_settings(**flags)
    if settings.queue_url is None:
        raise SpecError(
            "'dyno worker' needs the queue's address: --redis redis://HOST:6379/0. On one machine "
            "without Redis, 'dyno up' runs the workers itself."
        )
    if not is_redis(settings.queue_url):
        raise SpecError("--redis takes a URL such as redis://HOST:6379/0 (rediss:// with TLS).")
    # A missing extra ends it here; a Redis that isn't up yet is waited for.
    open_queue(settings.queue_url).close()
    if settings.blobs_url is not None:  # likewise an address of blobs that is none
        asyncio.run(make_blobs(settings).close())
    environ = _environ(settings)
    _say_share(environ)
    least = settings.workers_max if slots is None else settings.workers_min
    supervisor = Supervisor(
        lambda: open_queue(str(settings.queue_url), settings.result_expiry_s),
        SupervisorOptions(
            name=settings.worker_id or f"{socket.gethostname()}-{os.getpid()}",
            scale=ScaleLimits(least, settings.workers_max, settings.idle_timeout_s),
            lease_s=settings.lease_s,
            gpu_memory_fraction=settings.gpu_memory_fraction,
            environ=environ,
        ),
    )
    _stop_on_signals(supervisor, drain_s)
    configure_logging(settings.log_format, logging.INFO)
    click.echo(f"{_count(least, settings.workers_max)} for the queue; Ctrl-C stops.", err=True)
    supervisor.run()


def _environ(settings: Any) -> dict[str, str]:
    """What the worker processes find in their environment: flags count more than variables."""
    environ = dict(os.environ)
    if settings.blobs_url is not None:
        environ["VISIONDYNO_BLOBS_URL"] = settings.blobs_url
    if settings.gpu_memory_fraction is not None:
        environ["VISIONDYNO_GPU_MEMORY_FRACTION"] = str(settings.gpu_memory_fraction)
    return environ


def _say_share(environ: dict[str, str]) -> None:
    share = gpu_share("cuda", environ)
    if share is not None and share.reason is not None:
        click.echo(f"Note: {share.reason}", err=True)


def _count(least: int, most: int) -> str:
    if least == most:
        return f"{most} worker{'s' if most > 1 else ''}"
    return f"{least} to {most} workers"


def _stop_on_signals(supervisor: Supervisor, drain_s: float) -> None:
    """The first signal drains, a second one stops at once."""
    seen: list[int] = []

    def stop(number: int, _: object) -> None:
        supervisor.stop(drain_s=0.0 if seen else drain_s)
        seen.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
