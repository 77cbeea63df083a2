"""What `dyno deploy` shows: its steps on standard error, what came of them on standard output."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click
from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from visiondyno.deployments.planned import PlannedRequest
from visiondyno.deployments.record import Deployment
from visiondyno.errors import OperationFailed
from visiondyno.probes.cost import find_price

_LINE_CHARACTERS = 100


class Step:
    """One that is under way.

    Attributes:
        note: what is shown beside its mark when it is done.
    """

    def __init__(self, title: str, status: Status | None) -> None:
        self.note = ""
        self._title = title
        self._status = status

    def tell(self, line: str) -> None:
        """Show the newest line of what goes on; only on a terminal, where it is replaced."""
        if self._status is not None and line.strip():
            self._status.update(_line(f"{self._title} …", line.strip()[:_LINE_CHARACTERS]))


class Steps:
    """A line for each step with its time, and why one failed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = Console(stderr=True, highlight=False, markup=False)
        self._clock = clock

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Show a step until the end of the context; an error there is shown and goes on up."""
        begun_s = self._clock()
        try:
            if self._console.is_terminal:
                with self._console.status(Text(f"{title} …")) as status:
                    yield (step := Step(title, status))
            else:
                yield (step := Step(title, None))
        except BaseException as error:
            self._show("✗", "red", title, begun_s, "")
            if isinstance(error, OperationFailed) and error.traceback:
                self._console.print(error.traceback, style="dim", soft_wrap=True)
            raise
        self._show("✓", "green", title, begun_s, step.note)

    def say(self, sentence: str) -> None:
        """Show something that is no step."""
        self._console.print(f"  {sentence}", soft_wrap=True)

    def skip(self, title: str, why: str) -> None:
        """Show a step that isn't needed."""
        self._console.print(Text.assemble(("– ", "dim"), f"{title}: {why}"), soft_wrap=True)

    def _show(self, mark: str, style: str, title: str, begun_s: float, note: str) -> None:
        took_s = self._clock() - begun_s
        line = Text.assemble((f"{mark} ", style), f"{title} {took_s:.0f} s")
        self._console.print(line.append(f"  {note}", style="dim") if note else line, soft_wrap=True)


def show_console_settings(rows: Sequence[tuple[str, str]]) -> None:
    """Print the fields of RunPod's console."""
    table = Table("field of RunPod's console", "value")
    for name, value in rows:
        table.add_row(Text(name), Text(value, overflow="fold"))
    Console(markup=False).print(table)


def show_requests(url: str, requests: Sequence[PlannedRequest]) -> None:
    """Print requests whole, one after another."""
    for request in requests:
        click.echo(f"{request.method} {url}{request.path}")
        click.echo(json.dumps(request.body, indent=1))


def show_deployment(deployed: Deployment) -> None:
    """Print where the endpoint is, what it costs, and what comes next."""
    url = f"https://api.runpod.ai/v2/{deployed.endpoint_id}"
    click.echo(f"Endpoint: {deployed.endpoint_id}, '{deployed.name}'")
    click.echo(f"URL:      {url}")
    click.echo(f"Image:    {deployed.image}")
    for sentence in cost_sentences(deployed):
        click.echo(sentence)
    click.echo("For .env, beside RUNPOD_API_KEY:")
    click.echo(f"RUNPOD_ENDPOINT_ID={deployed.endpoint_id}")
    click.echo(f"Next: dyno doctor --endpoint {url}")


def cost_sentences(deployed: Deployment) -> list[str]:
    """What a worker costs, busy and idle; estimated by the price table."""
    price = find_price(deployed.gpu)
    most = " at most" if len(deployed.gpus) > 1 else ""
    idle_usd = price.usd_per_hour * deployed.idle_timeout_s / 3600
    kept_usd = price.usd_per_hour * deployed.workers_min
    kept = (
        f"{deployed.workers_min} always run: {kept_usd:.3g} USD an hour at that price"
        if deployed.workers_min
        else "none runs while there are no jobs, and none is paid for"
    )
    busy = (
        f"A worker costs {price.usd_per_hour:.3g} USD an hour{most} ({deployed.gpu}; "
        f"{price.source}), from its start to its stop; {kept}."
    )
    idle = (
        f"After its last job it waits for {deployed.idle_timeout_s:g} s: {idle_usd:.2g} USD each "
        f"time. At most {deployed.workers_max} run."
    )
    return [busy, idle]


def _line(title: str, rest: str) -> Text:
    return Text.assemble(title, (f"  {rest}", "dim"))
