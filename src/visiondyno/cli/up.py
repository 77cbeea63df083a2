"""`dyno up`."""

import asyncio
import contextlib
import signal
from pathlib import Path
from typing import Any

import click

from visiondyno.api.listening import run
from visiondyno.cli import options
from visiondyno.server import Started, serve
from visiondyno.settings import Settings, load_settings
from visiondyno.telemetry.logs import configure_logging
from visiondyno.wiring import make_queue_executor

_EPILOG = (
    "Example: dyno up --workers 0-3 --idle-timeout 5. Every option is also a variable: "
    "VISIONDYNO_HOME, VISIONDYNO_DATABASE_URL, VISIONDYNO_REDIS_URL and so on; .env is read."
)


@click.command(epilog=_EPILOG)
@click.option("--host", metavar="ADDRESS", help="Where to listen. [default: 127.0.0.1]")
@click.option("--port", type=int, metavar="N", help="0: any free one. [default: 8000]")
@click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of everything kept. [default: ~/.local/share/visiondyno]",
)
@click.option(
    "--workers", callback=options.process_range, metavar="N[-M]", help="Processes. [default: 1]"
)
@click.option(
    "--idle-timeout",
    "idle_timeout_s",
    type=float,
    metavar="S",
    help="Workers above the least end after S idle seconds. [default: 60]",
)
@click.option(
    "--gpu-memory-fraction",
    type=float,
    metavar="F",
    help="Each worker's share of the GPU's memory.",
)
@click.option("--database-url", metavar="URL", help="PostgreSQL instead of SQLite in the home.")
@click.option("--redis", "redis_url", metavar="URL", help="Queue on Redis, for `dyno worker`s.")
@click.option("--blobs-url", metavar="URL", help="s3://BUCKET/PREFIX instead of a folder.")
@click.option(
    "--keys/--no-keys",
    "require_keys",
    default=None,
    help="Whether requests need an API key. [default: only when listening beyond loopback]",
)
@click.option(
    "--cors-origin", "cors_origins", multiple=True, metavar="URL", help="Browsers may call from."
)
@click.option(
    "--tasks",
    "tasks_dir",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of evaluation tasks (YAML) beside the built-in ones.",
)
@options.log_format
@options.access_log
def command(workers: tuple[int, int] | None, **given: Any) -> None:
    """Start the server: job API, dashboard, submissions, and workers on this machine.

    Jobs are kept in a database and run again when a worker dies; `dyno up` after a crash goes on
    where it was. Ctrl-C stops it; jobs that run then are run again at the next start.
    """
    flags = options.given({**given, "cors_origins": given["cors_origins"] or None})
    if workers is not None:
        flags["workers_min"], flags["workers_max"] = workers
    settings = load_settings(**flags)
    configure_logging(settings.log_format)
    own_workers = settings.queue_url is None or workers is not None
    # Whether a signal ends it as an interrupt or by a return is a matter of when it comes.
    with contextlib.suppress(KeyboardInterrupt):
        run(_serve(settings, own_workers=own_workers))
    click.echo("Stopped. What was accepted is kept; what ran is run again at the next start.")


async def _serve(settings: Settings, *, own_workers: bool) -> None:
    # While it starts, a signal must end it as an interrupt does; uvicorn's own come after that.
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    # Not the loop's own handlers: those would go on beside uvicorn's, and cut requests off.
    signal.signal(signal.SIGTERM, lambda *_: loop.call_soon_threadsafe(task.cancel))
    executor = make_queue_executor(settings, own_workers=own_workers)
    try:
        await serve(
            settings, executor, lambda started: _tell(settings, started, own_workers=own_workers)
        )
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _tell(settings: Settings, started: Started, *, own_workers: bool) -> None:
    least, most = settings.workers_min, max(settings.workers_min, settings.workers_max)
    count = str(least) if least == most else f"{least} to {most}"
    if not own_workers:
        count = "none; start them with `dyno worker`"
    where = "Redis" if settings.queue_url else "this machine"
    click.echo(f"VisionDyno is up at {started.url} (dashboard; the API's pages are at /docs)")
    click.echo(f"Queue on {where}; workers of this server: {count}; kept in {settings.folder}")
    if started.new_key is not None:
        click.echo(
            f"API key, shown this once: {started.new_key}\n"
            "Send it as 'Authorization: Bearer KEY'; `dyno keys` makes and revokes keys."
        )
    elif not settings.keys_required:
        click.echo("No API key is needed: only this machine can reach the server.")
    click.echo("Ctrl-C stops it.")
