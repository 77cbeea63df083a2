"""`dyno loadtest`."""

import asyncio
import contextlib
import signal
import tempfile
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from visiondyno.cli import options
from visiondyno.cli.loadtest_flags import (
    load_flags,
    request_flags,
    strategy_flags,
    target_flags,
    test_flags,
)
from visiondyno.cli.loadtest_options import spec_of, strategy_plan
from visiondyno.errors import SpecError
from visiondyno.specs.load_test import LoadTestSpec

if TYPE_CHECKING:
    from visiondyno.loadtest.cold_start import CommandStart, IdleStart
    from visiondyno.loadtest.run import OnProgress
    from visiondyno.loadtest.strategies import StrategyPlan
    from visiondyno.report.load_test import LoadTestResult

INTERRUPTED = 130
_EPILOG = (
    "Example: dyno loadtest http://127.0.0.1:8080/predict --image photo.jpg --rate 20 --duration "
    "1m --fail-if 'p99>200ms'. Ctrl-C stops sending, and what was measured is reported."
)


@click.command(epilog=_EPILOG)
@click.argument("urls", nargs=-1, metavar="[URL]…")
@load_flags
@request_flags
@test_flags
@target_flags
@strategy_flags
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE.yaml",
    help="The test as YAML, as spec.yaml of a report has it; flags override.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("dyno-loadtest"),
    show_default=True,
    metavar="DIR",
    help="Where the report goes.",
)
@click.option(
    "--json-out", metavar="FILE|-", help="The record as JSON too; - prints it, and nothing else."
)
@click.option(
    "--export-jmeter",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.jmx",
    help="Write the test as a plan for JMeter 5.5 or later instead of running it.",
)
@click.option(
    "--fail-if", multiple=True, metavar="CONDITION",
    help="Exit with 3 where it holds, such as 'p99>200ms', 'errors>1%' or 'throughput<50'.",
)  # fmt: skip
@click.option(
    "--record",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="Write the report of this record, as loadtest.json or --json-out has it; nothing is sent.",
)
def command(
    *,
    urls: tuple[str, ...],
    config: Path | None,
    out: Path,
    json_out: str | None,
    export_jmeter: Path | None,
    fail_if: tuple[str, ...],
    record: Path | None,
    cold_start: bool,
    start_command: str | None,
    idle_wait: float | None,
    repeat: int | None,
    strategies: str | None,
    replicas: int | None,
    idle_timeout: float | None,
    **given: Any,
) -> int:
    """Put one or more targets under a load, and report how they behave.

    An open loop, 10 requests/s for 30 s unless told otherwise: requests leave by a schedule,
    whatever the target does, and latency counts from the scheduled moment. Several URLs are
    several targets under the same load, in turns.
    """
    from visiondyno.report.load_test_gate import parse_load_conditions, raise_if_failed

    conditions = parse_load_conditions(fail_if)
    if record is not None:
        result = _recorded(record, (urls, config, export_jmeter, strategies, options.given(given)))
        _make_room(out, json_out)
        _report(result, out, json_out)
        raise_if_failed(result, conditions)
        return 0
    if strategies is not None:
        _check_strategies(urls, cold_start=cold_start, others=(conditions, export_jmeter, config))
        how_many = {"replicas": replicas, "idle_timeout_s": idle_timeout, "cold_starts": repeat}
        plan = strategy_plan(strategies, options.given({**how_many, **given}))
        return _compare_strategies(plan, out, json_out)
    _check_belongings(cold_start, repeat=repeat, replicas=replicas, idle_timeout=idle_timeout)
    spec = spec_of(urls, config, options.given(given))
    if export_jmeter is not None:
        return _export(spec, export_jmeter)
    how = _how(spec, cold_start, start_command, idle_wait, out)
    _make_room(out, json_out)
    result = _run(spec, how, repeat or 1)
    _report(result, out, json_out)
    raise_if_failed(result, conditions)
    return INTERRUPTED if result.was_stopped else 0


def _how(
    spec: LoadTestSpec,
    cold_start: bool,
    start_command: str | None,
    idle_wait: float | None,
    out: Path,
) -> "CommandStart | IdleStart | None":
    if not cold_start:
        if start_command is not None or idle_wait is not None:
            raise SpecError("--command and --idle-wait belong to --cold-start; give it too.")
        return None
    if (start_command is None) == (idle_wait is None):
        raise SpecError(
            "--cold-start needs either --command with what starts the target, or --idle-wait with "
            "the time after which it has scaled to zero."
        )
    from visiondyno.loadtest.cold_start import CommandStart, IdleStart

    if start_command is not None:
        return CommandStart(command=start_command, log=out / "command.log")
    assert idle_wait is not None
    from visiondyno.loadtest.watching.choosing import metrics_url

    # Only where the user named metrics: asking for them may wake what shall sleep.
    target = spec.targets[0]
    watch = target.watch
    metrics = None
    if watch is not None and watch.kind == "prometheus":
        metrics = watch.url or metrics_url(target.url)
    return IdleStart(idle_wait_s=idle_wait, metrics=metrics)


def _make_room(out: Path, json_out: str | None) -> None:
    """Find out before the work whether its result can be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(
            f"The report folder {out} can't be made ({error.strerror}); choose another with --out."
        ) from error
    folders = {"--out": out}
    if json_out not in {None, "-"}:
        folders["--json-out"] = Path(str(json_out)).parent
    for flag, folder in folders.items():
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise SpecError(
                f"Nothing can be written to the folder {folder} ({error.strerror}); choose another "
                f"with {flag}."
            ) from error


def _run(
    spec: LoadTestSpec, how: "CommandStart | IdleStart | None", repeat: int
) -> "LoadTestResult":
    from visiondyno.api.listening import run
    from visiondyno.cli.loadtest_display import LoadTestDisplay
    from visiondyno.loadtest.run import run_cold_starts, run_load_test

    with LoadTestDisplay() as display:

        def work(stop: threading.Event) -> Coroutine[Any, Any, "LoadTestResult"]:
            show: OnProgress = display.show
            if how is not None:
                return run_cold_starts(spec, how, repeat, show, stop)
            return run_load_test(spec, show, stop)

        return run(_until_stopped(work, display.say))


def _check_strategies(urls: tuple[str, ...], *, cold_start: bool, others: tuple[Any, ...]) -> None:
    if urls:
        raise SpecError("--strategies starts servers of its own; leave the URL out.")
    if cold_start or any(others):
        raise SpecError(
            "--strategies is a test of its own; leave --cold-start, --config, --fail-if and "
            "--export-jmeter out."
        )


def _recorded(record: Path, others: tuple[Any, ...]) -> "LoadTestResult":
    if any(others):
        raise SpecError("--record shows a test that has been run; leave URLs and its flags out.")
    from visiondyno.report.load_test_files import read_load_test

    return read_load_test(record)


def _check_belongings(cold_start: bool, **of_others: float | None) -> None:
    """Flags that would have no effect are refused, not ignored."""
    for name, value in of_others.items():
        if value is not None and not (name == "repeat" and cold_start):
            where = "--cold-start and --strategies" if name == "repeat" else "--strategies"
            raise SpecError(f"--{name.replace('_', '-')} belongs to {where}; give it too.")


def _compare_strategies(plan: "StrategyPlan", out: Path, json_out: str | None) -> int:
    from visiondyno.api.listening import run
    from visiondyno.cli.loadtest_display import LoadTestDisplay
    from visiondyno.loadtest.strategy_test import run_strategy_test

    _make_room(out, json_out)
    with LoadTestDisplay() as display:
        result = run(
            _until_stopped(
                lambda _: run_strategy_test(plan, display.show, out), display.say, keeps=False
            )
        )
    _report(result, out, json_out)
    return 0


async def _until_stopped(
    work: Callable[[threading.Event], Coroutine[Any, Any, "LoadTestResult"]],
    say: Callable[[str], None],
    *,
    keeps: bool = True,
) -> "LoadTestResult":
    """Run it; a signal stops the sending, a second Ctrl-C (or not `keeps`) everything."""
    stop = threading.Event()
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work(stop))

    def interrupted(number: int) -> None:
        # `timeout` and the like send SIGTERM twice at once: no reason to lose what was measured.
        if not keeps or (stop.is_set() and number == signal.SIGINT):
            task.cancel()
        else:
            stop.set()
            say("Stopping; Ctrl-C again gives up what was measured.")

    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows
            loop.add_signal_handler(number, interrupted, number)
    try:
        return await task
    except asyncio.CancelledError as error:
        raise KeyboardInterrupt from error


def _report(result: "LoadTestResult", out: Path, json_out: str | None) -> None:
    from rich.console import Console

    from visiondyno.cli.loadtest_summary import print_load_test
    from visiondyno.report.load_test_files import load_test_json, write_load_test
    from visiondyno.whole_file import write_whole

    # What is shown first, and what goes elsewhere, isn't lost where the folder is full by now.
    is_aside = json_out == "-"
    if is_aside:
        click.echo(load_test_json(result), nl=False)
    print_load_test(result, Console(stderr=is_aside))
    try:
        files = write_load_test(result, out)
    finally:
        if json_out is not None and not is_aside:
            write_whole(Path(json_out), load_test_json(result).encode(), "The record")
    click.echo(f"\nReport: {files['html'].resolve()}", err=is_aside)


def _export(spec: LoadTestSpec, file: Path) -> int:
    from visiondyno.loadtest.jmeter import write_plan

    for written in write_plan(spec, file):
        click.echo(f"Wrote {written}")
    click.echo(f"Run it with: jmeter -n -t {file} -l results.jtl")
    return 0
