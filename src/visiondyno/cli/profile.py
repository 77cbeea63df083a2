"""`dyno profile`."""

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from visiondyno.cli import options
from visiondyno.cli.place import place_options
from visiondyno.cli.progress import ProgressDisplay
from visiondyno.errors import StorageFull
from visiondyno.places import Place
from visiondyno.python_face import run_operation
from visiondyno.report.format import number, plural
from visiondyno.report.profile import between_text, limit_text, profile_html, work_text
from visiondyno.report.profile_result import Profile
from visiondyno.specs.model_changes import ProfileInput
from visiondyno.specs.operations import parse
from visiondyno.whole_file import write_whole

_MOST_ROWS = 15


@click.command(
    epilog="Example: dyno profile yolox.onnx --threads 1, then open dyno-profile/profile.html."
)
@click.argument("model")
@click.option(
    "--data",
    metavar="REF",
    help="Run the first images of it: a folder, or a name such as street:demo. [default: noise]",
)
@click.option("--batch", "batch_size", type=int, metavar="N", help="Images a run. [default: 1]")
@click.option("--runs", type=int, metavar="N", help="Measured ones. [default: 50]")
@click.option("--warm-up", "warm_up_runs", type=int, metavar="N", help="Before them. [default: 5]")
@options.device
@options.threads
@options.offline
@place_options
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("dyno-profile"),
    show_default=True,
    metavar="DIR",
    help="Where profile.html and profile.json go.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the profile as JSON; write no files.")
def command(model: str, place: Place, out: Path, as_json: bool, **given: Any) -> None:
    """Find out where a model's time goes, operator by operator.

    Each operator's time, work and memory traffic beside the most that this machine computes and
    moves, the same inference without the profiler, and what to do next.
    """
    given = {"model": model, **options.given(given)}
    spec = parse(ProfileInput, given, "The profile's options are wrong")
    if not as_json:
        _make(out)
    with ProgressDisplay() as display:
        output, job = run_operation(spec, display.show, place)
    profile = Profile.model_validate(output["profile"])
    record = json.dumps(output["profile"], indent=1)
    if as_json:
        click.echo(record)
        return
    write_whole(out / "profile.json", record.encode(), "The profile")
    write_whole(out / "profile.html", profile_html(profile).encode(), "The profile's page")
    _print(profile)
    for name, text in () if job is None else job.lines():
        click.echo(f"{name}: {text}")
    click.echo(f"Page: {out / 'profile.html'}")


def _make(folder: Path) -> None:
    """Before anything is measured: so that nothing measured is lost."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageFull(
            f"The folder {folder} can't be made ({error.strerror}); give another --out."
        ) from error


def _print(profile: Profile) -> None:
    # What stands in brackets or between colons in a name is no markup.
    console = Console(markup=False, emoji=False, highlight=False)
    times = profile.times_ms
    console.print(_operators(profile))
    console.print(_kinds(profile))
    lines = [
        f"{profile.runtime}, {profile.precision}, {profile.machine}; {profile.data}",
        profile.sum_text,
        (
            f"Between operators: {between_text(profile)}. With the profiler a run took "
            f"{number(times.profiled)} ms. Preprocessing {number(times.preprocess)} ms, "
            f"postprocessing {number(times.postprocess)} ms."
        ),
        f"Work: {work_text(profile)}. {profile.counted_text}",
        _peaks(profile),
        *(
            f"At {plural(threads, 'thread')}: {number(ms)} ms."
            for threads, ms in profile.other_threads.items()
        ),
        *(f"The machine wasn't quiet: {reason}" for reason in profile.disturbances),
        *(f"Note: {note}" for note in profile.notes),
    ]
    for line in lines:
        console.print(line, soft_wrap=True)
    for place, advice in enumerate(profile.advice, start=1):
        console.print(f"\n{place}. {advice.title}", style="bold")
        console.print(f"   {advice.reason}", soft_wrap=True)
        console.print(f"   $ {advice.command}", soft_wrap=True)


def _peaks(profile: Profile) -> str:
    peaks = profile.peaks
    memory = f"memory {number(peaks.gigabytes_per_s)} GB/s"
    if peaks.gflop_per_s is None:
        return f"Measured here: {memory}; computing: {peaks.compute_method}."
    return f"Measured here at best: {number(peaks.gflop_per_s)} GFLOP/s in fp32, {memory}."


def _operators(profile: Profile) -> Table:
    rows = sorted(profile.operators, key=lambda row: -row.ms)
    more = f", the slowest {_MOST_ROWS}" if len(rows) > _MOST_ROWS else ""
    table = Table(title=f"{profile.model}: {plural(len(rows), 'operator')}{more}")
    for heading, right in (
        ("operator", False), ("type", False), ("ms", True), ("share", True), ("GFLOP/s", True),
        ("limit reached", False),
    ):  # fmt: skip
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for row in rows[:_MOST_ROWS]:
        table.add_row(
            row.label, row.kind, number(row.ms), f"{row.share:.1%}", _or_dash(row.gflop_per_s),
            limit_text(row),
        )  # fmt: skip
    return table


def _kinds(profile: Profile) -> Table:
    table = Table(title="By type")
    for heading in ("type", "operators", "ms", "share", "GFLOP", "GFLOP/s"):
        table.add_column(heading, justify="left" if heading == "type" else "right")
    for row in profile.kinds:
        table.add_row(
            row.kind, str(row.count), number(row.ms), f"{row.share:.1%}",
            "not counted" if row.gflop is None else number(row.gflop), _or_dash(row.gflop_per_s),
        )  # fmt: skip
    return table


def _or_dash(value: float | None) -> str:
    return "–" if value is None else number(value)
