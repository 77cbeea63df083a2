"""Scaling strategies compared for real: `always-warm` against `scale-to-zero`, on this machine.

Each strategy is one `dyno serve` of the same model, started by the same command but for
`--replicas`. One after the other they go through the same pattern:

1. cold starts of the whole server: from its process to its first good answer;
2. a steady rate;
3. left alone until it has idled, then one request, several times: what a first visitor waits;
4. left alone once more, for what idling costs;
5. a burst out of idleness, open loop: what many visitors at once see;

with processor, memory and ready replicas watched all the time.
"""

import asyncio
import shlex
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from visiondyno.loadtest.cold_start import (
    CommandStart,
    IdleStart,
    measure_cold_start,
    measure_cold_starts,
)
from visiondyno.loadtest.generator import run_round
from visiondyno.loadtest.recording import Outcome, Recording
from visiondyno.loadtest.rounds import RoundSetting, round_result
from visiondyno.loadtest.started_command import StartedCommand
from visiondyno.loadtest.strategy_measures import (
    Moments,
    Pattern,
    strategy_measures,
    with_replicas,
)
from visiondyno.loadtest.targets import PreparedTarget, prepare_target
from visiondyno.loadtest.watching.choosing import metrics_url
from visiondyno.loadtest.watching.pid import PidWatcher
from visiondyno.loadtest.watching.prometheus import PrometheusWatcher
from visiondyno.measurements.measure import Measure
from visiondyno.report.load_test import ColdStart, StrategyRow
from visiondyno.specs.load_test import ConstantLoad, TargetSpec

Strategy = Literal["always-warm", "scale-to-zero"]
STRATEGIES: tuple[Strategy, ...] = ("always-warm", "scale-to-zero")

_WATCH_EVERY_S = 0.25
_IDLE_GRACE_S = 15.0
_STOP_S = 20.0
_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class StrategyPlan:
    """What both strategies go through.

    Attributes:
        model: model reference.
        replicas: always-warm keeps so many, scale-to-zero starts at most so many.
        idle_timeout_s: after which scale-to-zero ends an idle replica.
        rate_per_s, steady_s: of the steady part.
        burst_rate_per_s, burst_s: of the burst out of idleness.
        cold_starts: how often the server is started, and a first visitor comes.
        idle_s: how long idling is watched.
        images: files that are sent in turn; none: a scene of the built-in street data.
        serve_options: more options of `dyno serve`, the same for both.
        usd_per_replica_hour: what a replica costs while it is there; None: no cost.
    """

    model: str
    replicas: int = 2
    idle_timeout_s: float = 5.0
    rate_per_s: float = 10.0
    steady_s: float = 20.0
    burst_rate_per_s: float = 40.0
    burst_s: float = 5.0
    cold_starts: int = 3
    idle_s: float = 5.0
    images: tuple[str, ...] = ()
    serve_options: tuple[str, ...] = ("--threads", "1")
    usd_per_replica_hour: float | None = None


async def run_strategies(
    plan: StrategyPlan,
    on_progress: Callable[[str], None] = lambda _: None,
    logs: Path | None = None,
) -> tuple[StrategyRow, ...]:
    """Both strategies, one after the other; minutes.

    Args:
        plan: what both go through.
        on_progress: told of each step.
        logs: folder that keeps what the servers write, `STRATEGY.log`; None: nothing is kept.

    Raises:
        SpecError: the model or an option is wrong, or no server could be started.
        OperationFailed: a server ended by itself.
        TimeLimitExceeded: a server gave no good answer in time.
    """
    with tempfile.TemporaryDirectory(prefix="dyno-strategies-") as folder:
        images = plan.images or (_street_scene(Path(folder)),)
        rows = []
        for strategy in STRATEGIES:
            run = _Run(plan, strategy, images, logs or Path(folder), on_progress)
            rows.append(await run.row())
        return tuple(rows)


def _street_scene(folder: Path) -> str:
    from visiondyno.datasets.registry import open_dataset

    sample = open_dataset("street:val:1").sample(0)
    path = folder / "street.jpg"
    path.write_bytes(Path(sample.path).read_bytes())
    return str(path)


class _Run:
    """One strategy's way through the pattern."""

    def __init__(
        self,
        plan: StrategyPlan,
        strategy: Strategy,
        images: Sequence[str],
        folder: Path,
        on_progress: Callable[[str], None],
    ) -> None:
        self._plan = plan
        self._strategy = strategy
        self._scales = strategy == "scale-to-zero"
        self._replicas = f"0-{plan.replicas}" if self._scales else str(plan.replicas)
        port = _free_port()
        url = f"http://127.0.0.1:{port}/predict"
        self._target = prepare_target(TargetSpec(url=url, images=tuple(images)))
        self._log = folder / f"{strategy}.log"
        self._command = shlex.join(
            [
                *(sys.executable, "-m", "visiondyno", "serve", plan.model),
                *("--host", "127.0.0.1", "--port", str(port), "--replicas", self._replicas),
                *("--idle-timeout", f"{plan.idle_timeout_s:g}"),
                *plan.serve_options,
            ]
        )
        self._metrics = metrics_url(url)
        self._on_progress = on_progress

    def _say(self, what: str) -> None:
        self._on_progress(f"{self._strategy} ({self._replicas} replicas): {what}")

    async def row(self) -> StrategyRow:
        plan = self._plan
        starts = await measure_cold_starts(
            self._target, CommandStart(self._command, self._log), plan.cold_starts, self._say
        )
        server = await StartedCommand.start(self._command, self._log)
        try:
            return await self._pattern(server, starts)
        finally:
            await server.end(_STOP_S)

    async def _pattern(self, server: StartedCommand, starts: Sequence[ColdStart]) -> StrategyRow:
        plan = self._plan
        process = PidWatcher(server.pid, _WATCH_EVERY_S)
        page = PrometheusWatcher(self._metrics, _WATCH_EVERY_S)
        moments = Moments()
        self._say("starting")
        await measure_cold_start(self._target, IdleStart(0.0))
        await page.start()
        await process.start()
        moments.start()
        try:
            self._say(f"{plan.rate_per_s:g} requests/s for {plan.steady_s:g} s")
            with moments.of("steady"):
                steady = await _round(self._target, plan.rate_per_s, plan.steady_s)
            firsts = [await self._first_visitor(n) for n in range(1, plan.cold_starts + 1)]
            self._say(f"left alone for {plan.idle_timeout_s + plan.idle_s:g} s and more")
            await self._until_idle()
            with moments.of("idle"):
                await asyncio.sleep(plan.idle_s)
            self._say(f"a burst of {plan.burst_rate_per_s:g} requests/s for {plan.burst_s:g} s")
            with moments.of("burst"):
                burst = await _round(self._target, plan.burst_rate_per_s, plan.burst_s)
        finally:
            watched = await process.stop()
            seen = await page.stop()
        samples = with_replicas(watched.samples, seen.samples)
        pattern = Pattern(
            starts=starts,
            firsts=firsts,
            steady=_measures(steady, plan.rate_per_s, plan.steady_s),
            burst=_measures(burst, plan.burst_rate_per_s, plan.burst_s),
            samples=samples,
            memory_method=watched.peak_memory_bytes.method,
            moments=moments,
            good_requests=_good(steady) + _good(burst) + len(firsts),
        )
        return StrategyRow(
            strategy=self._strategy,
            replicas=self._replicas,
            cold_starts=(*starts, *firsts),
            measures=strategy_measures(pattern, plan.usd_per_replica_hour),
            samples=samples,
        )

    async def _first_visitor(self, number: int) -> ColdStart:
        """One request after idling; of scale-to-zero once it says that no replica is left."""
        self._say(f"first visitor after idling, {number} of {self._plan.cold_starts}")
        wait_s = self._plan.idle_timeout_s + (_IDLE_GRACE_S if self._scales else 0.0)
        metrics = self._metrics if self._scales else None
        return await measure_cold_start(self._target, IdleStart(wait_s, metrics))

    async def _until_idle(self) -> None:
        """As long as for the first visitors, but nobody comes."""
        await asyncio.sleep(self._plan.idle_timeout_s + 2.0)


async def _round(target: PreparedTarget, rate_per_s: float, duration_s: float) -> Recording:
    load = ConstantLoad(rate_per_s=rate_per_s, duration_s=duration_s)
    return await run_round(target, load, timeout_s=_TIMEOUT_S)


def _measures(recording: Recording, rate_per_s: float, duration_s: float) -> dict[str, Measure]:
    load = ConstantLoad(rate_per_s=rate_per_s, duration_s=duration_s)
    setting = RoundSetting(load, _TIMEOUT_S)
    return round_result(recording, setting, number=1, started_at="").measures


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def _good(recording: Recording) -> int:
    return int(recording.having(Outcome.GOOD).sum())
