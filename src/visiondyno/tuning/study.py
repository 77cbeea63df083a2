"""A study from its beginning, or from where an earlier run of it ended, to its result."""

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ValidationError

from visiondyno.client.attachments import Attaching, as_progress_of
from visiondyno.client.client import Client
from visiondyno.errors import Conflict, SpecError, TransportDown, VisionDynoError
from visiondyno.job import JobEvent
from visiondyno.places import Place
from visiondyno.settings import Settings, load_settings
from visiondyno.specs.tuning import StudySpec
from visiondyno.tuning.body import Body, JobBody
from visiondyno.tuning.book import Book, Space
from visiondyno.tuning.data_parts import Wire, study_data
from visiondyno.tuning.importances import parameter_importances, searched
from visiondyno.tuning.jobs_left import stop_jobs_left
from visiondyno.tuning.journal import Journal
from visiondyno.tuning.lane_plan import LanePlan
from visiondyno.tuning.lanes import LaneReading, Lanes
from visiondyno.tuning.memory import FreeMemory
from visiondyno.tuning.objectives import Objective, parse_objectives
from visiondyno.tuning.optuna_store import NAME, OptunaStore
from visiondyno.tuning.progress import ProgressBoard
from visiondyno.tuning.pruning import make_pruner
from visiondyno.tuning.runner import Limits, StudyRunner
from visiondyno.tuning.samplers import make_sampler
from visiondyno.tuning.space import study_space
from visiondyno.tuning.subscribers import CallbackReading
from visiondyno.tuning.trial import Json, State, TrialRecord
from visiondyno.tuning.trial_job import trial_job

_MAY_CHANGE = frozenset({"trials", "timeout_s", "trial_timeout_s"})
"""What a run that goes on may ask otherwise."""

OnEvent = Callable[[JobEvent], None]


def _ignore(_: JobEvent) -> None:
    """Nobody listens."""


@dataclass(frozen=True, slots=True)
class StudyResult:
    """What a study came to.

    Attributes:
        spec: what it was asked.
        objectives: parsed.
        trials: every one, by number.
        best: the best one; of several objectives those that no other one dominates.
        stopped: why it ended before its last trial, in a sentence; None if it didn't.
        lanes: how the lanes stood at the end.
        callbacks: what each callback was told, and what it cost.
        cost: as `executors.cost.Cost.to_json`; None where nothing is paid, or it isn't known.
        notes: what a reader must know.
        began_at: of this run, seconds since the epoch.
        seconds: that this run took.
        taken_up: trials that had ended in earlier runs.
        test: the best one's metrics on the test data; see `tested.with_test`. None before it.
        importances: of the parameters; see `importances.parameter_importances`.
        searched: what each parameter was drawn from; see `importances.searched`.
    """

    spec: StudySpec
    objectives: tuple[Objective, ...]
    trials: tuple[TrialRecord, ...]
    best: tuple[TrialRecord, ...]
    stopped: str | None
    lanes: tuple[LaneReading, ...]
    callbacks: tuple[CallbackReading, ...] = ()
    cost: Json | None = None
    notes: tuple[str, ...] = ()
    began_at: float = 0.0
    seconds: float = 0.0
    taken_up: int = 0
    test: Json | None = None
    importances: Json = field(default_factory=dict)
    searched: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is known before the first trial: what is searched, what a trial does, notes.

    Where trials are trainings, `job_of` is the job of each, and `test` the untouched data.
    """

    space: Space
    body: Body
    notes: tuple[str, ...] = ()
    job_of: Callable[[TrialRecord], Json] | None = None
    test: Wire | None = None


class Study:
    """One run of a study. Make it, subscribe to its `board`, and `run` it once.

    Args:
        spec: what is searched; on `resume` what differs from the study that is gone on with.
        place: where trials run; see `lane_plan.LanePlan`.
        workers: trials at once.
        folder: where its journal is kept; None keeps the study in memory alone.
        resume: go on with the study in `folder`.
        settings: addresses and keys; None reads them.

    Attributes:
        board: how it stands, for any thread; subscribe before `run`.
        spec: as it is run.
        prepared: what was found out before the first trial; None before `run`.

    Raises:
        SpecError: a name in it is none, or there is nothing to go on with.
        Conflict: the folder holds another study, or one that was asked otherwise.
        MissingExtra: Optuna isn't installed.
    """

    spec_class: ClassVar[type[StudySpec]] = StudySpec
    queues_ahead: ClassVar[bool] = True
    """Whether a trial more than run may lie ready in a queue."""

    def __init__(
        self,
        spec: StudySpec | Mapping[str, Any],
        place: Place,
        *,
        workers: int = 1,
        folder: Path | None = None,
        resume: bool = False,
        settings: Settings | None = None,
    ) -> None:
        self._settings = settings or load_settings()
        self._plan = LanePlan(place, workers, self._settings, ahead=self.queues_ahead)
        self._folder = folder
        self._journal: Journal | None = None
        kept: list[Json] = []
        if resume:
            if folder is None:
                raise SpecError("Which study? Give its folder with --out.")
            self._journal, asked, kept = Journal.go_on(folder)
        try:
            kind = self.spec_class
            self.spec = _gone_on_with(asked, spec, kind) if resume else _as_spec(spec, kind)
            self.objectives = parse_objectives(self.spec.objectives)
            self._kept = kept
            self._sampler = make_sampler(
                self.spec.sampler, self.spec.sampler_arguments, self.spec.seed, len(kept)
            )
            self._pruner = make_pruner(
                self.spec.pruner or "none", self.spec.pruner_arguments, self.objectives
            )
        except BaseException:
            if self._journal is not None:
                self._journal.close()
            raise
        self.limits = self._limits()
        self._lanes: Lanes | None = None
        self._book: Book | None = None
        self._notes: tuple[str, ...] = ()
        self._began_at = self._began_s = 0.0
        self.prepared: Prepared | None = None
        self._earlier = _ended(kept, len(self.objectives))
        self.board = ProgressBoard(
            self.objectives,
            self.limits,
            workers,
            lanes=lambda: () if self._lanes is None else self._lanes.readings(),
            spent=self._plan.cost,
            taken_up=self._earlier,
        )

    def run(self, on_event: OnEvent = _ignore) -> StudyResult:
        """Run it to its end, in this thread; an interrupt stops what runs and is raised.

        Args:
            on_event: told of what is done before the first trial: data opened, packed, sent.

        Raises:
            TransportDown: nothing answers at the only place there is.
            VisionDynoError: the data can't be used, or the study can't be kept. Of what trials do
                wrong the result tells.
        """
        self._began_at, self._began_s = time.time(), time.monotonic()
        try:
            self._look_at_place()
            prepared = self.prepared = self._prepare(on_event)
            self._notes = prepared.notes
            self._begin_journal()
            self._begin_optuna_store(prepared.space)
            self._book = self._make_book(prepared.space)
            stopped = self._run(self._book, prepared.body)
        finally:
            if self._journal is not None:
                self._journal.close()
        return self._ended(self._book, stopped)

    def left_behind(self, why: str) -> StudyResult | None:
        """What a run that raised leaves: the trials that had ended are in it, others are open.

        Args:
            why: it ended, in a sentence.

        Returns:
            None where it came to no trial.
        """
        return None if self._book is None else self._ended(self._book, why)

    def _ended(self, book: Book, stopped: str | None) -> StudyResult:
        self.board.finish(stopped)
        callbacks = self.board.close()
        cost = self._plan.cost()
        return StudyResult(
            spec=self.spec,
            objectives=self.objectives,
            trials=tuple(book.all()),
            best=tuple(book.best()),
            stopped=stopped,
            lanes=() if self._lanes is None else tuple(self._lanes.readings()),
            callbacks=callbacks,
            cost=None if cost is None else cost.to_json(),
            notes=self._notes,
            began_at=self._began_at,
            seconds=time.monotonic() - self._began_s,
            taken_up=len(self._earlier),
            importances=parameter_importances(book.study, self.objectives),
            searched=searched(book.study),
        )

    def place_of(self, lane: str | None) -> Place:
        """The place that a lane is of; the first one where there is no such lane."""
        return self._plan.place_of(lane)

    # ---- before the first trial

    def _limits(self) -> Limits:
        spec = self.spec
        return Limits(spec.trials, spec.timeout_s, trial_timeout_s=spec.trial_timeout_s)

    def _look_at_place(self) -> None:
        """Ask the only place before anything is done: trials would each find out for minutes."""
        place = self._plan.only_place
        if place is None or not place.is_remote:
            return
        with Client(place) as client:
            try:
                client.health()
            except TransportDown:
                raise
            except VisionDynoError:
                return  # it is there; its lane tells what trials meet

    def _prepare(self, on_event: OnEvent) -> Prepared:
        tell = as_progress_of(on_event)
        tell({"stage": "looking at the data"})
        data = study_data(
            self.spec,
            on_progress=lambda done, total: tell(
                {"stage": "preparing the data", "done": done, "total": total}
            ),
        )
        space = study_space(self.spec, data)
        with Client(self._plan.places[0]) as client:
            sent = Attaching(client).attach(
                {
                    "operation": "train",
                    "training_data": data.training,
                    "validation_data": data.validation,
                },
                tell,
                inline_bytes=0,
            )
        data = replace(data, training=sent["training_data"], validation=sent["validation_data"])
        attachments = {name: value for name, value in sent.items() if name == "attachments"}

        def job_of(record: TrialRecord) -> Json:
            return {**trial_job(self.spec, data, space, record), **attachments}

        return Prepared(space, self._body(job_of), data.notes, job_of, data.test)

    def _begin_journal(self) -> None:
        if self._folder is not None and self._journal is None:
            asked = self.spec.model_dump(mode="json", exclude_defaults=True)
            self._journal = Journal.begin(self._folder, {"spec": asked})

    def _begin_optuna_store(self, space: Space) -> None:
        if self._folder is not None:
            about: Json = {"asked": self.spec.model_dump(mode="json", exclude_defaults=True)}
            store = OptunaStore(self._folder, self.objectives, space, about, self._earlier)
            self.board.subscribe(store, NAME)

    def _make_book(self, space: Space) -> Book:
        book = Book(
            self.objectives, space, self._sampler, self._pruner, self.spec.seed, self._journal
        )
        book.take_up(self._kept)
        return book

    # ---- trials

    def _body(self, job_of: Callable[[TrialRecord], Json]) -> Body:
        return JobBody(
            self.objectives,
            job_of,
            time_limit_s=self.spec.trial_timeout_s,
            allow_estimated=self.spec.allow_estimated,
        )

    def _run(self, book: Book, body: Body) -> str | None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(self._run_trials(book, body))
        with ThreadPoolExecutor(1, thread_name_prefix="study") as thread:  # as in a notebook
            work = self._run_trials(book, body)
            return thread.submit(asyncio.run, work).result()

    async def _run_trials(self, book: Book, body: Body) -> str | None:
        lanes = self._plan.lanes()
        self._lanes = Lanes(lanes, self._plan.at_once, memory_share=FreeMemory())
        runner = StudyRunner(book, body, self._lanes, self.limits, [self.board])
        async with AsyncExitStack() as sessions:  # one that can't be closed keeps no other open
            for lane in lanes:
                sessions.push_async_callback(lane.session.close)
            await stop_jobs_left(self._kept, lanes)
            await runner.run()
        return runner.stopped


def _as_spec(spec: StudySpec | Mapping[str, Any], kind: type[StudySpec]) -> StudySpec:
    from visiondyno.specs.operations import parse

    if isinstance(spec, StudySpec):
        return spec
    parsed: StudySpec = parse(kind, dict(spec), "The study is wrong")
    return parsed


def _gone_on_with(
    asked: Json, given: StudySpec | Mapping[str, Any], kind: type[StudySpec]
) -> StudySpec:
    """The study of the journal, with what may be asked otherwise now."""
    if isinstance(given, StudySpec):
        given = given.model_dump(exclude_unset=True)
    before = _asked_before(asked, kind)
    now = _as_spec({**before.model_dump(exclude_unset=True), **given}, kind)
    for name in type(now).model_fields:
        if name not in _MAY_CHANGE and getattr(now, name) != getattr(before, name):
            raise Conflict(
                f"The study was begun with {name} {getattr(before, name)!r}, and now it is asked "
                f"with {getattr(now, name)!r}; leave it out, or begin a new study in another "
                "folder."
            )
    return now


def _asked_before(asked: Json, kind: type[StudySpec]) -> StudySpec:
    spec = asked.get("spec")
    if isinstance(spec, dict) and ("function" in spec) != ("function" in kind.model_fields):
        whose = f"of the function '{spec['function']}'" if "function" in spec else "of a space"
        raise Conflict(
            f"The study in this folder is {whose}; go on with it as it was begun, or begin a new "
            "one in another folder."
        )
    try:
        return kind.model_validate(spec)
    except ValidationError as error:
        raise SpecError(
            "The study's journal doesn't say what was asked; begin a new study in another folder."
        ) from error


def _ended(kept: list[Json], objectives: int) -> list[TrialRecord]:
    last: dict[int, TrialRecord] = {}
    for one in kept:
        try:
            record = TrialRecord.from_json(one)
        except ValueError:
            continue  # `Book.take_up` says what is wrong
        if record.state is not State.COMPLETED or len(record.values) == objectives:
            last[record.number] = record
    return [record for record in last.values() if record.state.has_ended]
