"""Options of the commands whose jobs may run elsewhere."""

import os
from collections.abc import Callable
from typing import Any

import click

from visiondyno.places import RUNPOD, Place


def _on(default: str) -> Callable[..., Any]:
    return click.option(
        "--on",
        "where",
        default=default,
        show_default=True,
        metavar="PLACE",
        help="inline (this process), local (workers of this machine), redis, runpod, or the URL "
        "of a server or a RunPod endpoint.",
    )


_OPTIONS = (
    click.option(
        "--endpoint",
        metavar="ID",
        help="Of runpod: the endpoint's id or URL; of a study several, with commas between them. "
        "[env: RUNPOD_ENDPOINT_ID]",
    ),
    click.option(
        "--api-key",
        metavar="KEY",
        help="Where the place asks for one. [env: VISIONDYNO_API_KEY for a server's URL, "
        "RUNPOD_API_KEY for RunPod]",
    ),
    click.option(
        "--gpu",
        metavar="NAME|USD",
        help="Of the endpoint's workers: by its name in the price table, or USD an hour. "
        "[default: as 'dyno deploy runpod' recorded it]",
    ),
    click.option(
        "--max-cost",
        "max_cost_usd",
        type=float,
        metavar="USD",
        help="Refuse jobs that could pass it, and stop those that may have.",
    ),
    click.option(
        "--fallback",
        type=click.Choice(["local", "inline"]),
        help="Run here what an endpoint that can't be reached didn't get.",
    ),
)


def place_options(function: Callable[..., Any], default: str = "inline") -> Callable[..., Any]:
    """`--on` and what goes with it, as the one argument `place`.

    Args:
        function: of the command.
        default: of `--on`.
    """

    def command(
        *arguments: Any,
        where: str,
        endpoint: str | None,
        api_key: str | None,
        gpu: str | None,
        max_cost_usd: float | None,
        fallback: str | None,
        **others: Any,
    ) -> Any:
        place = Place(
            where,
            api_key=api_key or _servers_key(where),
            endpoint=endpoint,
            gpu=gpu,
            max_cost_usd=max_cost_usd,
            fallback=fallback,
        )
        return function(*arguments, place=place, **others)

    command.__doc__ = function.__doc__
    command.__dict__.update(function.__dict__)
    for option in reversed((_on(default), *_OPTIONS)):
        command = option(command)
    return command


def _servers_key(where: str) -> str | None:
    """The key of the environment for a server; RunPod is told no other service's secret."""
    is_server = where.startswith(("http://", "https://")) and not where.startswith(RUNPOD)
    return (os.environ.get("VISIONDYNO_API_KEY") or None) if is_server else None
