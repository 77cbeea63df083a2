"""`dyno emulate`."""

import asyncio
import contextlib
import importlib.util
import logging
import secrets
import shlex
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from visiondyno.emulator.config import EndpointConfig, Scaler
from visiondyno.errors import MissingExtra, SpecError

if TYPE_CHECKING:
    from visiondyno.emulator.billing import Bill


def _workers(
    context: click.Context, parameter: click.Parameter, value: str
) -> tuple[int, int] | None:
    from visiondyno.cli.options import process_range

    return process_range(context, parameter, value)


@click.group()
def command() -> None:
    """Run a RunPod endpoint on this machine, to develop against without paying."""


@command.command("runpod")
@click.option("--endpoint", "endpoint_id", default="emulator", show_default=True, metavar="NAME")
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS")
@click.option("--port", type=int, default=8010, show_default=True, metavar="N", help="0: any.")
@click.option(
    "--api-key",
    metavar="KEY",
    help="What clients must send. [default: RUNPOD_API_KEY of the environment or .env, or else a "
    "new one, shown at the start]",
)
@click.option(
    "--worker-command",
    metavar="COMMAND",
    help="What a worker runs: a program with runpod.serverless.start. [default: VisionDyno's]",
)
@click.option(
    "--workers",
    callback=_workers,
    default="0-3",
    show_default=True,
    metavar="N[-M]",
    help="How many always run, and how many there are at most.",
)
@click.option(
    "--idle-timeout",
    "idle_timeout_s",
    type=float,
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="A worker without a job for so long is stopped.",
)
@click.option(
    "--execution-timeout",
    "execution_timeout_s",
    type=float,
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="Of jobs whose policy has none.",
)
@click.option(
    "--scaler",
    type=click.Choice([str(scaler) for scaler in Scaler]),
    default=str(Scaler.QUEUE_DELAY),
    show_default=True,
    help="What more workers are started for.",
)
@click.option(
    "--scaler-value",
    type=float,
    default=4.0,
    show_default=True,
    metavar="X",
    help="Seconds that a job may wait, or jobs for each worker.",
)
@click.option("--gpu", default="A4000", show_default=True, help="Whose price is billed.")
@click.option(
    "--speed",
    type=float,
    default=1.0,
    show_default=True,
    metavar="X",
    help="How much faster than ours the endpoint's clock runs: timeouts, retention, billing.",
)
@click.option(
    "--logs",
    "log_folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Gets one file for each worker. [default: a folder in VISIONDYNO_HOME, emptied at the "
    "start]",
)
@click.option("--quiet", is_flag=True, help="No line for each worker and job.")
def runpod(
    *,
    host: str,
    port: int,
    worker_command: str | None,
    log_folder: Path | None,
    quiet: bool,
    **given: Any,
) -> None:
    """Serve a RunPod serverless endpoint on this machine.

    The workers are real ones, under the runpod package's own loop, and start and stop with the
    queue. Jobs and results are kept in memory alone. Ctrl-C stops it and every worker, and tells
    what they would have cost.
    """
    from visiondyno.api.listening import listen

    api_key, speed = given.pop("api_key"), given.pop("speed")
    config = _config(**given)
    program = _command(worker_command)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    with contextlib.closing(listen(host, port)) as listener:
        _serve(config, program, listener, (api_key, speed, log_folder), quiet=quiet)


def _config(*, workers: tuple[int, int], scaler: str, gpu: str, **given: Any) -> EndpointConfig:
    from visiondyno.probes.cost import find_price

    return EndpointConfig(
        workers_min=workers[0],
        workers_max=workers[1],
        scaler=Scaler(scaler),
        gpu=gpu,
        usd_per_s=find_price(gpu).usd_per_hour / 3600,
        **given,
    )


def _serve(
    config: EndpointConfig,
    program: list[str],
    listener: socket.socket,
    given: tuple[str | None, float, Path | None],
    *,
    quiet: bool,
) -> None:
    from visiondyno.api.listening import address_of
    from visiondyno.emulator.emulator import Emulator
    from visiondyno.emulator.serve import serve
    from visiondyno.settings import load_settings

    api_key, speed, log_folder = given
    settings = load_settings()
    kept = settings.runpod_api_key
    kept_key = "" if kept is None else kept.get_secret_value()
    if not (api_key or kept_key):  # an empty one would let everybody in
        api_key = secrets.token_urlsafe(16)
    port = listener.getsockname()[1]
    folder = settings.folder / "emulator" / f"{config.endpoint_id}-{port}"
    emulator = Emulator(
        config,
        program,
        api_key=api_key or kept_key,
        speed=speed,
        log_folder=_emptied(folder) if log_folder is None else _made(log_folder),
        tell=(lambda _: None) if quiet else click.echo,
    )

    def tell(_: object) -> None:
        url = f"{address_of(listener)}/v2/{config.endpoint_id}"
        _tell_start(config, url, api_key, log_folder or folder)

    # Whether a signal ends it as an interrupt or by a return is a matter of when it comes.
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(emulator, listener, tell))
    _tell_bill(emulator.endpoint.bill(emulator.clock()))


def _tell_start(config: EndpointConfig, url: str, key: str | None, log_folder: Path) -> None:
    click.echo(f"RunPod endpoint: {url}")
    click.echo("What clients need, in their environment or in .env:")
    click.echo(f"    RUNPOD_ENDPOINT_ID={url}")
    click.echo(f"    RUNPOD_API_KEY={key or '… (as it is set here)'}")
    click.echo(
        f"{config.workers_min} to {config.workers_max} workers, billed as {config.gpu}; their "
        f"output goes to {log_folder}. Ctrl-C stops them all."
    )


def _tell_bill(bill: "Bill") -> None:
    jobs = sum(worker.jobs_done for worker in bill.workers)
    workers = "1 worker" if len(bill.workers) == 1 else f"{len(bill.workers)} workers"
    click.echo(
        f"Stopped. {workers} with {jobs} {'job' if jobs == 1 else 'jobs'} done, billed for "
        f"{bill.billed_s} s, would have cost {bill.usd:.5f} USD."
    )


def _command(text: str | None) -> list[str]:
    if text is None:
        if importlib.util.find_spec("runpod") is None:
            raise MissingExtra("runpod", "A worker of the emulated endpoint")
        return [sys.executable, "-m", "visiondyno.runpod_handler"]
    try:
        parts = shlex.split(text)
    except ValueError as error:
        raise SpecError(f"--worker-command can't be read ({error}); check its quotes.") from error
    if not parts:
        raise SpecError("--worker-command is empty; give a program that runs a worker.")
    return parts


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(
            f"The folder {folder} for logs can't be made ({error.strerror}); give another with "
            "--logs."
        ) from error
    return folder


def _emptied(folder: Path) -> Path:
    """The folder without what an earlier run at this address left."""
    for path in _made(folder).glob("*.log"):
        path.unlink(missing_ok=True)
    return folder
