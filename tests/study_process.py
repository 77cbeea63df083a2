"""A study in a process of its own: `study_process.py FOLDER TRIALS AT_ONCE`; goes on with it."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from visiondyno.client.async_client import AsyncClient
from visiondyno.errors import VisionDynoError
from visiondyno.tuning.body import Body, Result, Told
from visiondyno.tuning.book import Book
from visiondyno.tuning.journal import NAME, Journal
from visiondyno.tuning.lanes import Lane, Lanes
from visiondyno.tuning.objectives import parse_objectives
from visiondyno.tuning.runner import Limits, StudyRunner
from visiondyno.tuning.samplers import make_sampler
from visiondyno.tuning.session import Session
from visiondyno.tuning.trial import TrialRecord

SEED = 11


class Space:
    def suggest(self, trial: Any) -> dict[str, Any]:
        return {
            "x": trial.suggest_float("x", 0.0, 1.0),
            "kind": trial.suggest_categorical("kind", ["a", "b"]),
        }


class Here(Session):
    """This process itself."""

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[AsyncClient]:
        yield cast("AsyncClient", self)


class NotesItsRuns(Body):
    """A trial of some tenths of a second, whose value its parameters and seed decide."""

    def __init__(self, folder: Path) -> None:
        self._runs = os.open(folder / "runs", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def run(self, record: TrialRecord, client: AsyncClient, told: Told) -> Result:
        told.started(f"job-{record.number}")
        os.write(self._runs, f"{record.number}\n".encode())
        for step in range(1, 4):
            await asyncio.sleep(0.1)
            told.report(step, (record.params["x"] * step,))
        return Result(values=(value_of(record),))


def value_of(record: TrialRecord) -> float:
    return float(record.params["x"]) + record.seed / 2**40


async def study(folder: Path, trials: int, at_once: int) -> None:
    kept: list[dict[str, Any]] = []
    if (folder / NAME).exists():
        journal, _, kept = Journal.go_on(folder)
    else:
        journal = Journal.begin(folder, {})
    numbers = {trial["number"] for trial in kept}
    sampler = make_sampler("tpe", {}, SEED, len(numbers))
    book = Book(parse_objectives(["score:maximize"]), Space(), sampler, None, SEED, journal)
    book.take_up(kept)
    lanes = Lanes([Lane("here", Here(), at_once)], at_once)
    await StudyRunner(book, NotesItsRuns(folder), lanes, Limits(trials)).run()
    book.close()


if __name__ == "__main__":
    try:
        asyncio.run(study(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
    except VisionDynoError as error:
        sys.exit(f"{error.code}: {error.message}")
