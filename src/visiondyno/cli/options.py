"""Options that several commands share."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def split_list(_: click.Context, __: click.Parameter, value: tuple[str, ...]) -> list[str] | None:
    """`--classes car,truck --classes bus` as one list; None where none was given."""
    parts = [part.strip() for text in value for part in text.split(",")]
    return [part for part in parts if part] or None


def process_range(
    _: click.Context, __: click.Parameter, value: str | None
) -> tuple[int, int] | None:
    """`7` or `0-7` as the least and the most worker processes; None where it wasn't given."""
    if value is None:
        return None
    match = re.fullmatch(r"(?:(\d{1,3})-)?(\d{1,3})", value)
    if match is None:
        raise click.BadParameter("give a number such as 7, or a range such as 0-7.")
    most = int(match[2])
    least = most if match[1] is None else int(match[1])
    if not 1 <= most <= 256 or least > most:
        raise click.BadParameter("1 to 256 processes, the smaller number first.")
    return least, most


_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s*(s|m|min|h|d)?")
_SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}


def duration_s(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    """`90s`, `30m`, `2h` or `1d` as seconds, as is a number alone; None where it wasn't given."""
    if value is None:
        return None
    match = _DURATION.fullmatch(value.strip())
    if match is None:
        raise click.BadParameter("give seconds, or a time such as 90s, 30m or 2h.")
    seconds = float(match[1]) * _SECONDS[match[2] or "s"]
    if seconds <= 0:
        raise click.BadParameter("a time must be longer than nothing.")
    return seconds


log_format = click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    help="Logs for people, or a JSON object a line for programs. [default: text]",
)
access_log = click.option(
    "--access-log",
    metavar="FILE|-",
    help="Write a line for each request to this file, or to standard output (-). [default: none]",
)
data = click.option(
    "--data",
    metavar="REF",
    help="Labelled images: a folder, a file, or a name such as street:demo, digits or mnist:test.",
)
classes = click.option(
    "--classes",
    multiple=True,
    callback=split_list,
    metavar="NAME[,NAME]",
    help="Score these classes of the data only.",
)
level = click.option(
    "--level",
    metavar="image",
    help="image: score which classes are in an image, not where. [default: so where a classifier "
    "takes part on data with boxes]",
)
device = click.option("--device", metavar="DEVICE", help="cpu, cuda or cuda:N. [default: cpu]")
threads = click.option(
    "--threads", type=int, metavar="N", help="Threads inside one operator of the runtime."
)
max_images = click.option(
    "--max-images", type=int, metavar="N", help="Use the first N images only."
)
skip_bad = click.option(
    "--skip-bad",
    is_flag=True,
    default=None,
    help="Leave out bad images and labels, counted in the report, instead of stopping.",
)


def _go_offline(_: click.Context, __: click.Parameter, value: bool) -> None:
    # Whoever asks for help pays for none of this.
    from visiondyno.runtimes.weights import go_offline, is_offline

    if value or is_offline():
        go_offline()


offline = click.option(
    "--offline",
    is_flag=True,
    expose_value=False,
    callback=_go_offline,
    help="Download nothing: weights must be on this machine. [env: VISIONDYNO_OFFLINE]",
)
seed = click.option("--seed", type=int, metavar="N", help="Seed of every resampling. [default: 0]")
out_dir = click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where the report goes.",
)


def database(function: Callable[..., Any]) -> Callable[..., Any]:
    """Where the server keeps its database, as `given` of settings: `home` and `database_url`."""
    home = click.option(
        "--home",
        type=click.Path(path_type=Path, file_okay=False),
        help="The server's own: where 'dyno up' was given one. [env: VISIONDYNO_HOME]",
    )
    url = click.option(
        "--database-url",
        metavar="URL",
        help="sqlite:///FILE or postgresql://…, instead of the file in the home. "
        "[env: VISIONDYNO_DATABASE_URL]",
    )
    return home(url(function))


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given: those that aren't None, so that defaults stay in one place."""
    return {name: value for name, value in options.items() if value is not None}
