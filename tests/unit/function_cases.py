"""Studies of a function whose jobs run in this process."""

import asyncio
from pathlib import Path
from typing import Any

from client_cases import inline
from tuning_cases import Clock, Notes, a_lane

from visiondyno.client.async_client import AsyncClient
from visiondyno.job import JobEvent
from visiondyno.tuning.book import Book
from visiondyno.tuning.function_body import FunctionBody
from visiondyno.tuning.function_study import AskedLater
from visiondyno.tuning.journal import Journal
from visiondyno.tuning.lanes import Lanes
from visiondyno.tuning.objectives import parse_objectives
from visiondyno.tuning.pruning import make_pruner
from visiondyno.tuning.runner import Limits, StudyRunner
from visiondyno.tuning.samplers import make_sampler
from visiondyno.tuning.session import SharedClient


class Events(Notes):
    """Hears jobs too."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[int, JobEvent]] = []

    def on_event(self, number: int, event: JobEvent) -> None:
        self.events.append((number, event))


def study(
    function: Any,
    folder: Path,
    trials: int = 4,
    *,
    at_once: int = 2,
    limits: Limits | None = None,
    pruner: str = "none",
    journal: Journal | None = None,
    kept: Any = (),
    leave_s: float = 0.05,
) -> tuple[Book, StudyRunner, Events]:
    """A study of a function whose jobs run in this process."""
    objectives = parse_objectives(["score:maximize"])
    sampler = make_sampler("tpe", {}, 0, len(kept))
    book = Book(objectives, AskedLater(), sampler, make_pruner(pruner, {}, objectives), 0, journal)
    book.take_up(kept)
    body = FunctionBody(function, objectives, lambda n: folder / str(n), leave_s=leave_s)
    notes = Events()

    async def main() -> StudyRunner:
        clock = Clock()
        lane = a_lane(
            "here", at_once, clock, session=SharedClient(AsyncClient(inline()), is_here=True)
        )
        control = Lanes([lane], at_once, sleep=clock.sleep)
        runner = StudyRunner(book, body, control, limits or Limits(trials), [notes])
        try:
            await asyncio.wait_for(runner.run(), 60)
        finally:
            await lane.session.close()
        return runner

    return book, asyncio.run(main()), notes
