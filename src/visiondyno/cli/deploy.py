"""`dyno deploy`."""

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from visiondyno.cli import options
from visiondyno.cli.deploy_display import Steps
from visiondyno.cli.deploy_runpod import Request, blob_variables, deploy
from visiondyno.deployments.endpoint import Volume, Wanted, check_volume_fits
from visiondyno.deployments.gpu_types import parse_gpus
from visiondyno.deployments.record import Deployment, all_deployments
from visiondyno.deployments.worker_variables import parse_variables
from visiondyno.errors import SpecError
from visiondyno.probes.cost import find_price
from visiondyno.probes.gpu_catalogue import cheapest_fitting, suggestion
from visiondyno.probes.slots import comfortable_bytes
from visiondyno.runtimes.model_files import model_size_bytes
from visiondyno.runtimes.references import resolve_reference
from visiondyno.settings import Settings, load_settings

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_CUDA = re.compile(r"\d{2}\.\d")


@click.group()
def command() -> None:
    """Build, push and deploy the worker's image to RunPod."""


@command.command("runpod")
@click.option(
    "--image",
    metavar="REPOSITORY[:TAG]",
    help="Where the image goes; with a tag, one that has been pushed, and nothing is built. "
    "[default: as it was deployed last]",
)
@click.option("--name", default="visiondyno", show_default=True, help="Of the endpoint.")
@click.option("--endpoint", "endpoint_id", metavar="ID", help="Of the one to change; else by name.")
@click.option(
    "--gpu",
    metavar="NAME[,NAME]",
    help="Up to three, the preferred one first. [default for a new endpoint: A4000]",
)
@click.option(
    "--for",
    "model",
    metavar="MODEL",
    help="Instead of --gpu: the cheapest that runs this model comfortably.",
)
@click.option(
    "--env",
    multiple=True,
    metavar="NAME[=VALUE]",
    help="A variable of the workers; without a value, this shell's.",
)
@click.option("--remove-env", multiple=True, metavar="NAME", help="Take a variable away.")
@click.option(
    "--workers",
    callback=options.process_range,
    metavar="N[-M]",
    help="The least, which always run and cost, and the most. [default for a new endpoint: 0-3]",
)
@click.option(
    "--idle-timeout",
    "idle_timeout_s",
    type=click.IntRange(1, 3600),
    metavar="SECONDS",
    help="That a worker waits for its next job. [default for a new endpoint: 5]",
)
@click.option(
    "--execution-timeout",
    "execution_timeout_s",
    type=click.IntRange(5, 7 * 86_400),
    metavar="SECONDS",
    help="Of jobs that say nothing else. [default for a new endpoint: 300]",
)
@click.option(
    "--disk-gb",
    type=click.IntRange(20, 10_000),
    metavar="GB",
    help="Of a worker, gone with it. [default for a new endpoint: 50]",
)
@click.option(
    "--volume",
    metavar="ID|DATA_CENTER",
    help="A network volume, or one to be made there, such as EU-RO-1; paid for all the time.",
)
@click.option(
    "--volume-gb",
    type=click.IntRange(10, 4000),
    default=20,
    show_default=True,
    metavar="GB",
    help="Of a volume to be made.",
)
@click.option("--data-center", multiple=True, metavar="ID", help="[default: all of RunPod's]")
@click.option(
    "--registry-auth", metavar="ID", help="RunPod's id of the credentials for a private image."
)
@click.option(
    "--min-cuda",
    metavar="VERSION",
    help="Of the workers' driver. [default for a new endpoint: 13.0, which the image needs]",
)
@click.option(
    "--flashboot/--no-flashboot",
    default=None,
    help="Keep stopped workers for a fast start. [default for a new endpoint: on]",
)
@click.option(
    "--context",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="The sources to build from. [default: the checkout that the command runs in]",
)
@click.option("--build-arg", multiple=True, metavar="NAME=VALUE", help="For docker build.")
@click.option(
    "--quick",
    is_flag=True,
    help="Build only if the sources changed since the last push; try no training.",
)
@click.option("--skip-test", is_flag=True, help="Don't try the worker on this machine first.")
@click.option("--dry-run", is_flag=True, help="Change nothing; show what would be sent.")
def runpod(**given: Any) -> None:
    """Have an endpoint on RunPod whose workers run this VisionDyno.

    Tries the worker on this machine, builds its image, pushes it, and makes the endpoint of this
    name, or changes the one that is there: what isn't named here stays as it is. After a failure,
    the same command goes on. Needs docker, and RUNPOD_API_KEY in the environment or in .env;
    without a key it ends with the settings for RunPod's console.
    """
    settings = load_settings()
    steps = Steps()
    request = Request(
        wanted=_wanted(given, settings, steps),
        image=given["image"],
        context=given["context"],
        build_args=given["build_arg"],
        is_quick=given["quick"],
        is_dry=given["dry_run"],
        skips_test=given["skip_test"],
    )
    deploy(request, settings, steps)


def _wanted(given: dict[str, Any], settings: Settings, steps: Steps) -> Wanted:
    wanted = Wanted(
        name=_checked(_NAME, given["name"], "--name", "letters, digits, '.', '_' and '-'"),
        image="",
        endpoint_id=given["endpoint_id"]
        and _checked(_NAME, given["endpoint_id"], "--endpoint", "RunPod's id"),
        env=parse_variables(given["env"], os.environ),
        blobs=blob_variables(settings),
        removed=frozenset(given["remove_env"]),
        gpus=_gpus(given["gpu"], given["model"], steps),
        workers=given["workers"],
        idle_timeout_s=given["idle_timeout_s"],
        execution_timeout_s=given["execution_timeout_s"],
        disk_gb=given["disk_gb"],
        registry_auth_id=given["registry_auth"],
        data_centers=given["data_center"] or None,
        volume=_volume(given["volume"], given["volume_gb"]),
        min_cuda=given["min_cuda"]
        and _checked(_CUDA, given["min_cuda"], "--min-cuda", "a version such as 13.0"),
        flashboot=given["flashboot"],
    )
    check_volume_fits(wanted)
    return wanted


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def list_deployments(as_json: bool) -> None:
    """The endpoints that were deployed from this machine, newest first."""
    found = all_deployments(load_settings().folder)
    if as_json:
        click.echo(json.dumps([deployed.model_dump() for deployed in found], indent=1))
        return
    if not found:
        click.echo("Nothing was deployed from this machine; 'dyno deploy runpod' does.")
        return
    table = Table()
    for column in ("name", "endpoint", "GPU", "workers", "USD/h each", "deployed (UTC)"):
        right = column in ("workers", "USD/h each")
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    table.add_column("image", overflow="fold")
    for deployed in found:
        table.add_row(*_cells(deployed))
    Console(markup=False).print(table)


def _cells(deployed: Deployment) -> tuple[str, ...]:
    return (
        deployed.name,
        deployed.endpoint_id,
        "\n".join(deployed.gpus or (deployed.gpu,)),
        f"{deployed.workers_min}-{deployed.workers_max}",
        f"{find_price(deployed.gpu).usd_per_hour:.3g}",
        time.strftime("%Y-%m-%d\n%H:%M", time.gmtime(deployed.deployed_at)),
        deployed.image,
    )


def _gpus(gpu: str | None, model: str | None, steps: Steps) -> tuple[str, ...] | None:
    if model is None:
        return None if gpu is None else parse_gpus(gpu)
    if gpu is not None:
        raise SpecError("--gpu and --for both choose the GPU; leave one out.")
    size_bytes = model_size_bytes(resolve_reference(model))
    if size_bytes is None:
        raise SpecError(f"'{model:.200}' has no file that tells of its size; give --gpu instead.")
    needed_bytes = comfortable_bytes(size_bytes)
    steps.say(suggestion(needed_bytes))
    return (cheapest_fitting(needed_bytes).name,)


def _volume(place: str | None, size_gb: int) -> Volume | None:
    if place is None:
        return None
    return Volume(_checked(_NAME, place, "--volume", "a volume's id or a data centre"), size_gb)


def _checked(form: re.Pattern[str], text: str, option: str, what: str) -> str:
    if form.fullmatch(text) is None:
        raise SpecError(f"{option} is '{text:.100}'; give {what}.")
    return text
