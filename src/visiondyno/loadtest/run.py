"""A whole load test: targets in turns, round by round, then what they differ by."""

import asyncio
import datetime
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from visiondyno import __version__
from visiondyno.errors import ChildDied, SpecError
from visiondyno.loadtest.cold_start import CommandStart, IdleStart, measure_cold_start
from visiondyno.loadtest.differences import target_differences, turns
from visiondyno.loadtest.pricing import cost_usd_per_1000_requests
from visiondyno.loadtest.processes import run_in_processes
from visiondyno.loadtest.progress import Progress
from visiondyno.loadtest.reaching import prepared_targets, reach
from visiondyno.loadtest.recording import Outcome, Recording
from visiondyno.loadtest.redaction import (
    public_spec,
    require_secrets,
    secrets_of,
    without_secrets,
)
from visiondyno.loadtest.rounds import RoundSetting, round_length_s, round_result
from visiondyno.loadtest.search import find_rate, search_notes
from visiondyno.loadtest.starvation import STARVED
from visiondyno.loadtest.targets import PreparedTarget
from visiondyno.loadtest.together import target_result
from visiondyno.loadtest.watching.base import Watcher
from visiondyno.loadtest.watching.choosing import watcher_for
from visiondyno.loadtest.watching.window import watched
from visiondyno.measurements.measure import Measures
from visiondyno.probes.machine import capture_environment
from visiondyno.probes.quiet import check_quiet
from visiondyno.report.load_test import (
    ColdStart,
    LoadTestResult,
    RateSearch,
    RoundResult,
)
from visiondyno.specs.load_test import (
    ClosedLoad,
    ConstantLoad,
    Load,
    LoadTestSpec,
    PoissonLoad,
    TargetSpec,
)

_QUIET_S = 0.5
_LOOK_S = 0.1
_STAGGER = 1_000_003
"""Between the seeds of rounds, so that no two rounds of a Poisson load are the same draw."""


@dataclass(frozen=True, slots=True)
class RunProgress:
    """What a load test is at.

    Attributes:
        stage: in words.
        target: whose turn it is; empty where it is nobody's.
        progress: of the round; None outside a round.
    """

    stage: str
    target: str = ""
    progress: Progress | None = None


OnProgress = Callable[[RunProgress], None]


@dataclass(slots=True)
class _Turn:
    """One target and what came of it so far."""

    spec: TargetSpec
    prepared: PreparedTarget
    watcher: Watcher | None
    secrets: frozenset[str]
    rounds: list[RoundResult]
    notes: dict[str, None]
    told: Measures = field(default_factory=dict)
    search: RateSearch | None = None


async def run_load_test(
    spec: LoadTestSpec,
    on_progress: OnProgress = lambda _: None,
    stop: threading.Event | None = None,
) -> LoadTestResult:
    """Put the targets under the load, and say what was seen.

    Several targets take turns, in an order that every second round turns around. With `find_rate`
    each is searched for its highest rate instead, and the round in its result is the one at that
    rate.

    Args:
        spec: secrets in it reach no record.
        on_progress: told some times a second, from other threads too.
        stop: set it, and nothing more is sent; what was measured comes back.

    Raises:
        SpecError: a target, a file or what is to be watched can't be used.
        Unavailable: a target can't be reached, or what is to be watched can't be read.
        ChildDied: a generator process was killed in the first round.
    """
    stop = stop or threading.Event()
    run = _Run(spec, on_progress, stop)
    await run.check()
    if spec.find_rate:
        await run.search()
    else:
        await run.rounds()
    return run.result()


async def run_cold_starts(
    spec: LoadTestSpec,
    how: CommandStart | IdleStart,
    repeat: int = 1,
    on_progress: OnProgress = lambda _: None,
    stop: threading.Event | None = None,
) -> LoadTestResult:
    """Measure cold starts of the one target of a spec; no load is put on it.

    Args:
        spec: with one target.
        how: by a command, or by leaving the service alone.
        repeat: how often.
        on_progress: told before each.
        stop: set it, and no further one is begun.

    Raises:
        SpecError: several targets, or one that can't be used.
        OperationFailed, Unavailable, Conflict: as `measure_cold_start`, at the first one.
    """
    if len(spec.targets) != 1:
        raise SpecError("A cold start is measured of one target; give one URL.")
    stop = stop or threading.Event()
    run = _Run(spec, on_progress, stop)
    (turn,) = run.turns
    await run.look_at_machine()
    starts: list[ColdStart] = []
    for number in range(1, repeat + 1):
        if stop.is_set():
            break
        on_progress(RunProgress(f"cold start {number} of {repeat}", turn.prepared.name))
        start = await _unless_stopped(measure_cold_start(turn.prepared, how), stop)
        starts += [start] if start is not None else []
    return run.result(tuple(starts))


class _Run:
    """The state of one load test."""

    def __init__(self, spec: LoadTestSpec, tell: OnProgress, stop: threading.Event) -> None:
        require_secrets(spec.targets)
        self._spec, self._tell, self._stop = spec, tell, stop
        self._created_at = _now()
        self._notes: list[str] = []
        self.turns = [
            _Turn(one, prepared, None, secrets_of(one), [], {})
            for one, prepared in zip(spec.targets, prepared_targets(spec.targets), strict=True)
        ]

    async def check(self) -> None:
        """Find out what can't work before anything is sent."""
        for turn in self.turns:
            self._tell(RunProgress("reaching", turn.prepared.name))
            await reach(turn.prepared)
            turn.watcher = watcher_for(turn.spec, lambda text: self._tell(RunProgress(text)))
            if turn.watcher is not None:
                await turn.watcher.check()
        await self.look_at_machine()

    async def look_at_machine(self) -> None:
        """Its description, and whether it is quiet."""
        self._tell(RunProgress("looking at this machine"))
        self._quietness = await asyncio.to_thread(check_quiet, _QUIET_S)
        self._environment = await asyncio.to_thread(capture_environment)

    # ---- rounds

    async def rounds(self) -> None:
        """All rounds, the targets in turns."""
        for number in range(1, self._spec.rounds + 1):
            for place in turns(len(self.turns), number):
                if self._stop.is_set():
                    return
                try:
                    await self._round(self.turns[place], number)
                except ChildDied as error:
                    if not any(turn.rounds for turn in self.turns):
                        raise
                    # What was measured before is worth keeping.
                    self._notes.append(f"The test ended in round {number}: {error.message}")
                    self._stop.set()
                    return
        if not any(turn.rounds for turn in self.turns) and not self._stop.is_set():
            raise SpecError(
                f"The schedule holds no request in {self._spec.load.duration_s:g} s; make it "
                "longer, or the rate higher."
            )

    async def _round(self, turn: _Turn, number: int) -> None:
        is_first = number == 1 and not any(one.rounds for one in self.turns)
        if not is_first and self._spec.pause_s:
            self._tell(RunProgress("pausing"))
            await asyncio.to_thread(self._stop.wait, self._spec.pause_s)
        stage = f"round {number} of {self._spec.rounds}"
        _, result = await self._measured(turn, self._spec.load, number, stage)
        if result is not None:
            turn.rounds.append(result)

    async def _measured(
        self, turn: _Turn, load: Load, number: int, stage: str
    ) -> tuple[Recording | None, RoundResult | None]:
        """One round with its warm-up; None where nothing was sent."""
        await self._warm_up(turn)
        if self._stop.is_set():
            return None, None
        started_at = _now()
        seed = self._spec.seed + _STAGGER * (number - 1)
        async with watched(turn.watcher) as window:
            recording = await self._send(turn, load, seed, stage, window.open)
        resources = window.resources
        if turn.watcher is not None and resources is not None:
            turn.told |= turn.watcher.measures()
        if not len(recording):
            if not self._stop.is_set():
                turn.notes[f"The random schedule of round {number} held no request"] = None
            return None, None
        result = round_result(
            recording, self._setting(load), number=number, started_at=started_at,
            resources=resources,
        )  # fmt: skip
        for note in recording.notes.keys() - {STARVED}:  # said with the generator's facts
            turn.notes[_note(note, recording.notes[note])] = None
        cost = cost_usd_per_1000_requests(
            turn.spec.pricing, recording, resources, round_length_s(recording, load)
        )
        errors = {without_secrets(text, turn.secrets): n for text, n in result.errors.items()}
        return recording, result.model_copy(
            update={"cost_usd_per_1000_requests": cost, "errors": errors}
        )

    async def _warm_up(self, turn: _Turn) -> None:
        count = self._spec.warmup_requests
        if not count or self._stop.is_set():
            return
        load = ClosedLoad(concurrency=1, requests=count,
                          duration_s=min(7 * 86_400, count * self._spec.timeout_s))  # fmt: skip
        recording = await self._send(turn, load, self._spec.seed, "warming up")
        good = int(recording.having(Outcome.GOOD).sum())
        if good < len(recording) and not self._stop.is_set():
            statuses = sorted({str(status) for status in recording.status.tolist() if status})
            said = f" (status {', '.join(statuses)})" if statuses else ""
            turn.notes[f"Of {len(recording)} warm-up requests {good} had a good answer{said}"] = (
                None
            )

    async def _send(
        self,
        turn: _Turn,
        load: Load,
        seed: int,
        stage: str,
        when_ready: Callable[[], None] | None = None,
    ) -> Recording:
        alone = when_ready is None  # a warm-up

        def tell(progress: Progress) -> None:
            self._tell(RunProgress(stage, turn.prepared.name, progress))

        return await asyncio.to_thread(
            run_in_processes,
            turn.prepared,
            load,
            seed=seed,
            timeout_s=self._spec.timeout_s,
            connections=self._spec.connections,
            generators=1 if alone else self._spec.generators,
            when_ready=when_ready or (lambda: None),
            on_progress=None if alone else tell,
            stop=self._stop,
        )

    def _setting(self, load: Load) -> RoundSetting:
        spec = self._spec
        return RoundSetting(load, spec.timeout_s, spec.connections, spec.generators)

    # ---- the search

    async def search(self) -> None:
        """The highest rate of each target, one after the other."""
        for turn in self.turns:
            if not self._stop.is_set():
                await self._search(turn)
        if len(self.turns) > 1:
            self._notes.append(
                "Each target's latencies are those at its own highest rate, so they aren't compared"
            )

    async def _search(self, turn: _Turn) -> None:
        load, limit_ms = self._spec.load, self._spec.latency_limit_ms
        assert isinstance(load, ConstantLoad | PoissonLoad)
        assert limit_ms is not None
        results: dict[float, RoundResult] = {}

        async def run_at(at: ConstantLoad | PoissonLoad) -> Recording | None:
            number = len(results) + 1
            stage = f"try {number}, {at.rate_per_s:.4g} requests/s"
            recording, result = await self._measured(turn, at, number, stage)
            if result is not None:
                results[at.rate_per_s] = result
            return recording

        turn.search = await find_rate(
            load,
            limit_ms,
            run_at,
            processes=self._spec.generators,
            connections=self._spec.connections,
            is_stopped=self._stop.is_set,
        )
        best = turn.search.best_rate_per_s
        kept = results.get(best) if best is not None else next(reversed(results.values()), None)
        if kept is not None:
            turn.rounds.append(kept.model_copy(update={"number": 1}))
            turn.notes |= dict.fromkeys(search_notes(turn.search))

    # ---- what came of it

    def result(self, cold_starts: Sequence[ColdStart] = ()) -> LoadTestResult:
        """The record."""
        targets = [
            target_result(
                turn.prepared, turn.rounds, told=turn.told, search=turn.search,
                cold_starts=cold_starts, notes=tuple(turn.notes),
            )
            for turn in self.turns
        ]  # fmt: skip
        is_compared = not self._spec.find_rate and all(target.rounds for target in targets)
        return LoadTestResult(
            version=__version__,
            created_at=self._created_at,
            spec=public_spec(self._spec),
            environment=self._environment.model_dump(mode="json"),
            targets=tuple(targets),
            differences=target_differences(targets) if is_compared else (),
            quiet=self._quietness.quiet,
            quiet_reasons=self._quietness.reasons,
            was_stopped=self._stop.is_set(),
            notes=tuple(self._notes),
        )


async def _unless_stopped(
    work: Coroutine[Any, Any, ColdStart], stop: threading.Event
) -> ColdStart | None:
    """What it gives; None where the user stopped it, and then what it started was ended."""
    task = asyncio.ensure_future(work)
    while not task.done():
        await asyncio.wait({task}, timeout=_LOOK_S)
        if stop.is_set() and not task.done():
            task.cancel()
            await asyncio.wait({task})
    return None if task.cancelled() else task.result()


def _note(text: str, count: int) -> str:
    return text if count == 1 else f"{count:,} times: {text}"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
