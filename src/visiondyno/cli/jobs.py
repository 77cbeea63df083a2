"""`dyno jobs`."""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from visiondyno.cli.progress import ProgressDisplay
from visiondyno.cli.remote import as_json, connect, job_argument, server_options
from visiondyno.job import JobEvent, JobState
from visiondyno.store.records import JobKind

_WIDE = 130
"""Columns of a terminal from which a list shows everything; a narrower one shows what matters."""


@click.group()
def command() -> None:
    """List, show, follow, cancel and retry a server's jobs; print their logs."""


@command.command("list")
@click.option("--state", type=click.Choice([state.value for state in JobState]), help="Only these.")
@click.option("--kind", type=click.Choice([kind.value for kind in JobKind]), help="Only these.")
@click.option(
    "--limit", type=click.IntRange(1, 500), default=20, show_default=True, help="At most so many."
)
@click.option(
    "--before",
    type=float,
    metavar="SECONDS",
    help="Only those submitted before (seconds since 1970): the next page.",
)
@as_json
@server_options
def list_jobs(
    state: str | None,
    kind: str | None,
    limit: int,
    before: float | None,
    as_json: bool,
    url: str,
    api_key: str | None,
) -> None:
    """The server's jobs, newest first."""
    with connect(url, api_key) as server:
        found = server.find_jobs(state=state, kind=kind, limit=limit, before=before)
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    jobs = found["jobs"]
    if not jobs:
        click.echo("No such jobs.")
        return
    _print_list(jobs)
    if found["next_before"] is not None:
        click.echo(f"Older ones: --before {found['next_before']}")


@command.command("show")
@job_argument
@as_json
@server_options
def show(job_id: str, as_json: bool, url: str, api_key: str | None) -> None:
    """What is known of a job, with its output or its error."""
    with connect(url, api_key) as server:
        job = server.job(job_id)
    if as_json:
        click.echo(json.dumps(job, indent=1))
        return
    _print_facts(job)
    answer = job.get("answer") or {}
    if answer.get("error"):
        click.echo(f"Error ({answer['error']['code']}): {answer['error']['message']}")
        if answer["error"].get("traceback"):
            click.echo("The worker's traceback is in --json.")
    elif answer.get("output") is not None:
        click.echo(json.dumps(answer["output"], indent=1))


@command.command("follow")
@job_argument
@click.option("--json", "as_json", is_flag=True, help="Print each event as a line of JSON.")
@server_options
def follow(job_id: str, as_json: bool, url: str, api_key: str | None) -> None:
    """Show a job's progress until it ends.

    The exit code is 0 where it is COMPLETED.
    """
    last: JobEvent | None = None
    with connect(url, api_key) as server:
        if as_json:
            for last in server.events(job_id):
                click.echo(last.model_dump_json(by_alias=True))
        else:
            with ProgressDisplay() as display:
                for last in server.events(job_id):
                    display.show(last)
    if last is None or last.answer is None:
        return
    if not as_json:
        click.echo(f"{job_id}: {last.state}")
    if last.state != JobState.COMPLETED:
        last.answer.result()  # raises the job's error


@command.command("cancel")
@job_argument
@server_options
def cancel(job_id: str, url: str, api_key: str | None) -> None:
    """Stop a job that waits or runs."""
    with connect(url, api_key) as server:
        job = server.cancel_job(job_id)
    click.echo(f"{job_id}: {job['state']}{_asked(job)}")


@command.command("retry")
@job_argument
@server_options
def retry(job_id: str, url: str, api_key: str | None) -> None:
    """Start a failed or timed out job again."""
    with connect(url, api_key) as server:
        job = server.retry_job(job_id)
    click.echo(f"{job_id}: {job['state']}. Watch it: dyno jobs follow {job_id}")


@command.command("logs")
@job_argument
@click.option("--follow", "-f", "goes_on", is_flag=True, help="Go on until the job ends.")
@server_options
def logs(job_id: str, goes_on: bool, url: str, api_key: str | None) -> None:
    """What a job's operation printed, since its last retry."""
    with connect(url, api_key) as server:
        if not goes_on:
            for line in server.job_logs(job_id)["lines"]:
                click.echo(line["text"])
            return
        for event in server.events(job_id):
            text = (event.progress or {}).get("log")
            if text is not None:
                click.echo(text)


def _print_list(jobs: list[dict[str, Any]]) -> None:
    # What jobs say of themselves isn't ours: a bracket in it is no markup.
    console = Console(markup=False)
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "id": lambda job: job["id"],
        "operation": lambda job: job["operation"] or "?",
        "state": lambda job: job["state"],
        "submitted": lambda job: _moment(job["created_at"])[5:16],  # no year, no seconds
    }
    if console.width >= _WIDE:
        columns |= {
            "submitted": lambda job: _moment(job["created_at"]),
            "kind": lambda job: job["kind"],
            "took": _took,
            "worker": lambda job: job.get("worker_id") or "",
            "last word": _last_word,
        }
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=column in ("id", "state"), overflow="fold")
    for job in jobs:
        table.add_row(*(text(job) for text in columns.values()))
    console.print(table)


def _print_facts(job: dict[str, Any]) -> None:
    facts = {
        "id": job["id"],
        "operation": job["operation"] or "?",
        "kind": job["kind"],
        "state": f"{job['state']}{_asked(job)}",
        "submitted": _moment(job["created_at"]),
        "took": _took(job),
        "attempts": str(job["attempts"]),
        "worker": job.get("worker_id") or "",
        "last word": _last_word(job),
    }
    table = Table(show_header=False, box=None, padding=(0, 1))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value:
            table.add_row(name, value)
    Console(markup=False).print(table)


def _asked(job: dict[str, Any]) -> str:
    waits = job.get("cancel_requested") and not JobState(job["state"]).is_terminal
    return ", to be cancelled" if waits else ""


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _took(job: dict[str, Any]) -> str:
    if job.get("started_at") is None:
        return ""
    ended_at = job.get("ended_at")
    seconds = (time.time() if ended_at is None else ended_at) - job["started_at"]
    return f"{max(0.0, seconds):,.1f} s"


def _last_word(job: dict[str, Any]) -> str:
    """What the operation said last."""
    said = job.get("progress") or {}
    counted = f" {said['done']}/{said['total']}" if "done" in said and "total" in said else ""
    return f"{said.get('stage', said.get('log', ''))}{counted}"
