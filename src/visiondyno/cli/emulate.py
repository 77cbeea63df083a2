"""`dyno emulate`."""

import contextlib
import importlib.util
import logging
import secrets
import shlex
import sys
from pathlib import Path

import click

from visiondyno.cli import options
from visiondyno.emulator.config import EndpointConfig, Scaler
from visiondyno.emulator.emulator import Emulator
from visiondyno.emulator.serve import address_of, listen, serve
from visiondyno.errors import MissingExtra, SpecError
from visiondyno.probes.cost import find_price
from visiondyno.server import run


@click.group()
def command() -> None:
    """Run a provider's service on this machine, to develop against without paying."""


@command.command("runpod")
@click.option("--endpoint", "endpoint_id", default="emulator", show_default=True, metavar="NAME")
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS")
@click.option("--port", type=int, default=8010, show_default=True, metavar="N", help="0: any.")
@click.option(
    "--api-key",
    envvar="RUNPOD_API_KEY",
    metavar="KEY",
    help="What clients must send. [env: RUNPOD_API_KEY; default: a new one, shown at the start]",
)
@click.option(
    "--worker-command",
    metavar="COMMAND",
    help="What a worker runs: a program with runpod.serverless.start. [default: VisionDyno's]",
)
@click.option(
    "--workers", callback=options.process_range, default="0-3", show_default=True, metavar="N[-M]"
)
@click.option("--idle-timeout", "idle_timeout_s", type=float, default=5.0, show_default=True)
@click.option(
    "--execution-timeout",
    "execution_timeout_s",
    type=float,
    default=600.0,
    show_default=True,
    help="Seconds, of jobs whose policy has none.",
)
@click.option(
    "--scaler",
    type=click.Choice([str(scaler) for scaler in Scaler]),
    default=str(Scaler.QUEUE_DELAY),
    show_default=True,
)
@click.option(
    "--scaler-value",
    type=float,
    default=4.0,
    show_default=True,
    help="Seconds that a job may wait, or jobs for each worker.",
)
@click.option("--gpu", default="A4000", show_default=True, help="Whose price is billed.")
@click.option(
    "--speed",
    type=float,
    default=1.0,
    show_default=True,
    help="How much faster than ours the endpoint's clock runs: timeouts, retention, billing.",
)
@click.option(
    "--logs",
    "log_folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder that gets one file for each worker. [default: standard error]",
)
def runpod(
    *,
    endpoint_id: str,
    host: str,
    port: int,
    api_key: str | None,
    worker_command: str | None,
    workers: tuple[int, int],
    idle_timeout_s: float,
    execution_timeout_s: float,
    scaler: str,
    scaler_value: float,
    gpu: str,
    speed: float,
    log_folder: Path | None,
) -> None:
    """Serve a RunPod serverless endpoint on this machine.

    The workers are real ones, under the runpod package's own loop, and start and stop with the
    queue. Jobs and results are kept in memory alone. Ctrl-C stops it and every worker.
    """
    config = EndpointConfig(
        endpoint_id=endpoint_id,
        workers_min=workers[0],
        workers_max=workers[1],
        idle_timeout_s=idle_timeout_s,
        execution_timeout_s=execution_timeout_s,
        scaler=Scaler(scaler),
        scaler_value=scaler_value,
        gpu=gpu,
        usd_per_s=find_price(gpu).usd_per_hour / 3600,
    )
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    emulator = Emulator(
        config,
        _command(worker_command),
        api_key=api_key or secrets.token_urlsafe(16),
        speed=speed,
        log_folder=_made(log_folder),
    )
    listener = listen(host, port)

    def tell(_: object) -> None:
        click.echo(f"RunPod endpoint: {address_of(listener)}/v2/{endpoint_id}")
        click.echo(f"API key: {emulator.api_key}")
        click.echo(f"{workers[0]} to {workers[1]} workers, billed as {gpu}. Ctrl-C stops them all.")

    # Whether a signal ends it as an interrupt or by a return is a matter of when it comes.
    with contextlib.suppress(KeyboardInterrupt):
        run(serve(emulator, listener, tell))
    bill = emulator.endpoint.bill(emulator.clock())
    click.echo(
        f"Stopped. {len(bill.workers)} workers for {bill.billed_s} s would have cost "
        f"${bill.usd:.5f}."
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


def _made(folder: Path | None) -> Path | None:
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SpecError(
                f"The folder {folder} for logs can't be made ({error.strerror}); give another."
            ) from error
    return folder
