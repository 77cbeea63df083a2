"""The flags of `dyno loadtest`, by what they are of."""

from collections.abc import Callable
from typing import Any

import click

from visiondyno.cli.loadtest_options import seconds_of

DEFAULT_MODEL = "visiondyno:street-n"


def _time(_: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    return None if value is None else seconds_of(value, parameter.opts[0])


def _several(
    _: click.Context, __: click.Parameter, value: tuple[Any, ...]
) -> tuple[Any, ...] | None:
    return value or None


def load_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """The flags of the load."""
    for option in reversed(
        (
            click.option("--rate", type=float, metavar="N", help="Requests/s. [default: 10]"),
            click.option("--duration", callback=_time, metavar="TIME", help="[default: 30s]"),
            click.option("--poisson", is_flag=True, default=None, help="At random moments."),
            click.option("--ramp", metavar="FROM-TO", help="A rate that grows, such as 1-50."),
            click.option(
                "--spike", metavar="RATE@START+LENGTH", help="A jump, such as 50@10s+5s."
            ),
            click.option(
                "--closed", type=int, metavar="N",
                help="Closed loop of N users: each waits for its answer. Leaves waiting out.",
            ),
            click.option(
                "--think-time", callback=_time, metavar="TIME", help="Of a user between requests."
            ),
            click.option("--requests", type=int, metavar="N", help="Of all users together."),
        )
    ):  # fmt: skip
        function = option(function)
    return function


def request_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """The flags of what is asked."""
    for option in reversed(
        (
            click.option(
                "--image", multiple=True, callback=_several, metavar="FILE|FOLDER",
                help="Sent as bodies in turn; street:val:4 are four built-in scenes.",
            ),
            click.option("--json", metavar="TEXT|@FILE", help="A JSON body."),
            click.option("--body", metavar="FILE", help="Another body."),
            click.option("--method", metavar="VERB", help="[default: POST with a body, else GET]"),
            click.option(
                "--header", multiple=True, callback=_several, metavar="'NAME: VALUE'",
                help="With each request; secrets reach no report.",
            ),
            click.option(
                "--name", multiple=True, callback=_several, metavar="NAME",
                help="Of each target, in the order of the URLs.",
            ),
        )
    ):  # fmt: skip
        function = option(function)
    return function


def test_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """The flags of the whole test."""
    for option in reversed(
        (
            click.option(
                "--timeout", callback=_time, metavar="TIME",
                help="A request without a whole answer by then has failed. [default: 30s]",
            ),
            click.option(
                "--connections", type=int, metavar="N",
                help="Most at once; who finds none free waits, and that counts. [default: any]",
            ),
            click.option("--generators", type=int, metavar="N", help="Processes. [default: 1]"),
            click.option(
                "--rounds", type=int, metavar="N",
                help="For each target, in turns; 3 make paired intervals. [default: 1]",
            ),
            click.option("--pause", callback=_time, metavar="TIME", help="Between rounds."),
            click.option(
                "--warmup", type=int, metavar="N", help="Requests before a round. [default: 3]"
            ),
            click.option(
                "--seed", type=int, metavar="N", help="Of Poisson arrivals. [default: 0]"
            ),
            click.option(
                "--limit-p99-ms", type=float, metavar="MS", help="Drawn in plots; for --find-rate."
            ),
            click.option(
                "--find-rate", is_flag=True, default=None,
                help="Search for the highest rate that keeps --limit-p99-ms with no error.",
            ),
        )
    ):  # fmt: skip
        function = option(function)
    return function


def target_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """The flags of what a target uses and costs."""
    for option in reversed(
        (
            click.option(
                "--watch", multiple=True, callback=_several, metavar="WHAT",
                help="Its CPU and memory: pid:N, cgroup:PATH, prometheus[:URL], or "
                "cloud-run:PROJECT/LOCATION/SERVICE; one for all targets, or one for each.",
            ),
            click.option(
                "--price-per-hour", type=float, multiple=True, callback=_several, metavar="USD",
                help="Of the target's machine.",
            ),
            click.option(
                "--cloud-run-price", multiple=True, callback=_several, metavar="BILLING:VCPUS:GIB",
                help="List price of Cloud Run, such as request:2:4.",
            ),
            click.option(
                "--cold-start", is_flag=True,
                help="Measure from zero to the first good answer instead, with one of:",
            ),
            click.option(
                "--command", "start_command", metavar="TEXT", help="It starts the target."
            ),
            click.option(
                "--idle-wait", callback=_time, metavar="TIME",
                help="The target scales to zero when left alone for this time.",
            ),
            click.option(
                "--repeat", type=click.IntRange(1, 1000), metavar="N",
                help="Cold starts. [default: 1; of --strategies 3]",
            ),
        )
    ):  # fmt: skip
        function = option(function)
    return function


def strategy_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """The flags of the comparison of scaling strategies."""
    for option in reversed(
        (
            click.option(
                "--strategies", is_flag=False, flag_value=DEFAULT_MODEL, metavar="[MODEL]",
                help="Compare replicas that are always warm with ones that scale to zero, by "
                f"servers of this model on this machine. [MODEL: {DEFAULT_MODEL}]",
            ),
            click.option("--replicas", type=click.IntRange(1, 64), metavar="N",
                         help="Of --strategies. [default: 2]"),
            click.option("--idle-timeout", callback=_time, metavar="TIME",
                         help="Of --strategies, before a replica is ended. [default: 5s]"),
        )
    ):  # fmt: skip
        function = option(function)
    return function
