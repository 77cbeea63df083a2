"""How long a target takes from nothing to its first good answer, and what that time is made of."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from visiondyno.errors import (
    Conflict,
    OperationFailed,
    SpecError,
    TimeLimitExceeded,
    Unavailable,
)
from visiondyno.loadtest.cold_start_request import Asked, Asker
from visiondyno.loadtest.started_command import StartedCommand
from visiondyno.loadtest.targets import PreparedTarget
from visiondyno.loadtest.watching.choosing import metrics_url
from visiondyno.loadtest.watching.prometheus import (
    MetricsPage,
    metrics_client,
    public_address,
    read_page,
)
from visiondyno.report.load_test import ColdStart

_POLL_S = 0.005
"""Between attempts; the total is at most so much too long, and one request."""
_SLOWEST_POLL_S = 0.05
"""Requests that are answered with a refusal cost the starting server something."""
_LOOK_EVERY_S = 0.5
_WARM_LIMIT_S = 60.0
_PHASES = ("process", "load", "first_inference")
_STAGES = ("start-process", "start-load", "start-first-inference")


@dataclass(frozen=True, slots=True)
class CommandStart:
    """A cold start of a command: it is started, asked until it answers, and ended.

    Attributes:
        command: as for a shell, without its operators: words and quotes only.
        log: what it writes is appended there.
        time_limit_s: to its first good answer.
        stop_s: that it gets to end by itself.
    """

    command: str
    log: Path
    time_limit_s: float = 120.0
    stop_s: float = 15.0


@dataclass(frozen=True, slots=True)
class IdleStart:
    """A cold start of a service that scales to zero: it is left alone, then asked.

    Attributes:
        idle_wait_s: left alone for so long; with `metrics` at most.
        metrics: address of metrics in which `visiondyno_replicas` says when it is at zero. None:
            nobody asks, since asking wakes a service whose metrics are its instances' own.
        time_limit_s: to the first good answer.
    """

    idle_wait_s: float
    metrics: str | None = None
    time_limit_s: float = 120.0


Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Parts:
    process_ms: float
    load_ms: float
    first_inference_ms: float
    told_by: str

    @property
    def sum_ms(self) -> float:
        return self.process_ms + self.load_ms + self.first_inference_ms


async def measure_cold_starts(
    target: PreparedTarget,
    how: CommandStart | IdleStart,
    repeat: int = 1,
    on_progress: Callable[[str], None] | None = None,
) -> tuple[ColdStart, ...]:
    """Several cold starts, one after another; as `measure_cold_start`."""
    found = []
    for number in range(1, repeat + 1):
        if on_progress is not None:
            on_progress(f"cold start {number} of {repeat}")
        found.append(await measure_cold_start(target, how))
    return tuple(found)


async def measure_cold_start(
    target: PreparedTarget, how: CommandStart | IdleStart, sleep: Sleep = asyncio.sleep
) -> ColdStart:
    """Measure one cold start.

    The total of a command runs from just before its process is made to the last byte of the first
    good answer; that of an idle service from before the first connection is opened. Requests that
    fail until then are repeated, and their time counts. Each has a connection of its own, and so
    has the warm one afterwards.

    Args:
        target: its first request is sent.
        how: a command, or a service that is left alone.
        sleep: pauses between attempts.

    Raises:
        SpecError: the command can't be started.
        Conflict: something answers there before the command is started.
        TimeLimitExceeded: no good answer, or not idle, within the limit.
        OperationFailed: the command ended before its first good answer.
        Unavailable: the metrics that should tell of idleness can't be read.
    """
    asker = Asker(target)
    await asker.prepare()
    if isinstance(how, CommandStart):
        return await _of_command(asker, target, how, sleep)
    return await _of_idle(asker, how, sleep)


async def _of_command(
    asker: Asker, target: PreparedTarget, how: CommandStart, sleep: Sleep
) -> ColdStart:
    if await asker.is_answered():
        raise Conflict(
            f"Something answers at {target.host}:{target.port} already, so a start of the command "
            "couldn't be told from it; end it first, or give the command another port."
        )
    command = await StartedCommand.start(how.command, how.log)
    try:
        first = await _first_good(asker, command.began_ns, how.time_limit_s, sleep, command)
        warm = await asker.ask(_WARM_LIMIT_S)
        page = await _page(metrics_url(target.url)) if _told(first) is None else None
    finally:
        await command.end(how.stop_s)
    total_ms = (first.done_ns - command.began_ns) / 1e6
    parts = _told(first) or (_of_metrics(page, None) if page is not None else None)
    return _cold_start("process", total_ms, parts, warm)


async def _of_idle(asker: Asker, how: IdleStart, sleep: Sleep) -> ColdStart:
    before = await _until_idle(how, sleep)
    began_ns = time.monotonic_ns()
    first = await _first_good(asker, began_ns, how.time_limit_s, sleep, None)
    warm = await asker.ask(_WARM_LIMIT_S)
    parts = _told(first)
    if parts is None and how.metrics is not None:
        page = await _page(how.metrics)
        parts = None if page is None else _of_metrics(page, before)
    return _cold_start("idle", (first.done_ns - began_ns) / 1e6, parts, warm)


async def _until_idle(how: IdleStart, sleep: Sleep) -> MetricsPage | None:
    """Wait; with metrics until they say that no replica is there. They are the page then."""
    if how.metrics is None:
        await sleep(how.idle_wait_s)
        return None
    waited_s = 0.0
    async with metrics_client(how.metrics) as client:
        while True:
            page = await read_page(client, how.metrics)
            if not page.replicas:
                raise SpecError(
                    f"The page {public_address(how.metrics)} has no visiondyno_replicas, so it "
                    "can't tell when the service is at zero; leave the address out to wait for a "
                    "fixed time."
                )
            if not any(page.replicas.values()):
                return page
            if waited_s >= how.idle_wait_s:
                raise TimeLimitExceeded(
                    f"The service still has {sum(page.replicas.values())} replicas after "
                    f"{waited_s:.0f} s without requests; see that it scales to zero, and wait for "
                    "longer than its idle timeout.",
                    "cold_start",
                )
            pause_s = min(_LOOK_EVERY_S, how.idle_wait_s - waited_s)
            await sleep(pause_s)
            waited_s += pause_s


async def _first_good(
    asker: Asker,
    began_ns: int,
    limit_s: float,
    sleep: Sleep,
    command: StartedCommand | None,
) -> Asked:
    pause_s = _POLL_S
    while True:
        left_s = limit_s - (time.monotonic_ns() - began_ns) / 1e9
        asked = await asker.ask(max(0.001, left_s))
        if asked.why_not is None:
            return asked
        if command is not None and command.status is not None:
            raise OperationFailed(
                f"The command ended with status {command.status} before its first good answer. "
                f"{command.last_words()}",
                "cold_start",
            )
        if (asked.done_ns - began_ns) / 1e9 >= limit_s:
            log = "" if command is None else f" {command.last_words()}"
            raise TimeLimitExceeded(
                f"No good answer within {limit_s:g} s; the last try: {asked.why_not}.{log}",
                "cold_start",
            )
        if command is not None:
            command.look()
        await sleep(pause_s)
        pause_s = min(2 * pause_s, _SLOWEST_POLL_S) if asked.status else _POLL_S


async def _page(url: str) -> MetricsPage | None:
    """The metrics, if the target has any; a target needn't."""
    try:
        async with metrics_client(url) as client:
            return await read_page(client, url)
    except (Unavailable, SpecError):
        return None


def _told(first: Asked) -> _Parts | None:
    """The parts, where the answer's `Server-Timing` has all three."""
    if not all(stage in first.stages_ms for stage in _STAGES):
        return None
    process_ms, load_ms, first_inference_ms = (first.stages_ms[stage] for stage in _STAGES)
    return _Parts(process_ms, load_ms, first_inference_ms, "Server-Timing")


def _of_metrics(page: MetricsPage, before: MetricsPage | None) -> _Parts | None:
    """The parts by the histogram of starts: mean of those since `before` (None: since ever)."""
    means_ms: dict[str, float] = {}
    starts = 0
    for phase in _PHASES:
        total_s, count = page.cold_starts.get(phase, (0.0, 0))
        earlier_s, earlier = (0.0, 0) if before is None else before.cold_starts.get(phase, (0.0, 0))
        starts = count - earlier
        if starts <= 0:
            return None
        means_ms[phase] = 1000 * (total_s - earlier_s) / starts
    of_how_many = "" if starts == 1 else f", mean of {starts} replicas' starts"
    return _Parts(
        means_ms["process"],
        means_ms["load"],
        means_ms["first_inference"],
        f"metrics (visiondyno_cold_start_seconds){of_how_many}",
    )


def _cold_start(kind: str, total_ms: float, parts: _Parts | None, warm: Asked) -> ColdStart:
    # Parts longer than the whole were of another start, of a replica that nobody waited for.
    known = parts if parts is not None and parts.sum_ms <= total_ms else None
    return ColdStart.model_validate(
        {
            "kind": kind,
            "total_ms": total_ms,
            "process_start_ms": None if known is None else known.process_ms,
            "model_load_ms": None if known is None else known.load_ms,
            "first_inference_ms": None if known is None else known.first_inference_ms,
            "rest_ms": None if known is None else total_ms - known.sum_ms,
            "warm_ms": warm.took_ms if warm.why_not is None else None,
            "told_by": None if known is None else known.told_by,
        }
    )
