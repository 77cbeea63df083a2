"""`dyno workers`."""

import json
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from visiondyno.cli.remote import as_json, connect, server_options, workers_argument
from visiondyno.executors.workers import WorkerCommand

_DONE = {
    WorkerCommand.DRAIN: "finishes its job and takes no other",
    WorkerCommand.RESUME: "takes jobs again",
    WorkerCommand.RESTART: "gets a new process after its job",
}


@click.group()
def command() -> None:
    """List a server's workers; drain, resume or restart one."""


@command.command("list")
@as_json
@server_options
def list_workers(as_json: bool, url: str, api_key: str | None) -> None:
    """The workers: state, job, processes lost, memory."""
    with connect(url, api_key) as server:
        workers = server.workers()
    if as_json:
        click.echo(json.dumps(workers, indent=1))
        return
    if not workers:
        click.echo(
            "No workers now: none were started, or all have scaled to zero. "
            "'dyno up' starts them, 'dyno worker' on other machines."
        )
        return
    table = Table()
    for column in ("name", "state", "job", "done", "restarts", "memory", "GPU", "share"):
        right = column in ("done", "restarts", "memory")
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    for worker in workers:
        table.add_row(
            worker["name"],
            worker["state"],
            worker.get("job_id") or "",
            f"{worker['jobs_done']:,}",
            f"{worker['restarts']:,}",
            _gigabytes(worker.get("rss_bytes")),
            _gpu(worker),
            _share(worker),
        )
    Console(markup=False).print(table)


def _make(worker_command: WorkerCommand, summary: str) -> click.Command:
    @workers_argument
    @server_options
    def tell(names: tuple[str, ...], url: str, api_key: str | None) -> None:
        with connect(url, api_key) as server:
            for name in names:
                server.command_worker(name, worker_command)
                click.echo(f"{name} {_DONE[worker_command]}.")

    tell.__doc__ = summary
    return click.command(worker_command.value)(tell)


command.add_command(_make(WorkerCommand.DRAIN, "Let workers finish their job and take no other."))
command.add_command(_make(WorkerCommand.RESUME, "Let drained workers take jobs again."))
command.add_command(_make(WorkerCommand.RESTART, "Replace workers' processes after their job."))


def _gigabytes(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 1e9:.2f} GB"


def _gpu(worker: dict[str, Any]) -> str:
    if not worker.get("gpu"):
        return "none"
    return f"{worker['gpu']}, {_gigabytes(worker.get('gpu_memory_used_bytes'))} in use"


def _share(worker: dict[str, Any]) -> str:
    fraction = worker.get("gpu_memory_fraction")
    if fraction is not None:
        return f"{fraction:g}"
    return "all" if worker.get("gpu") else ""
