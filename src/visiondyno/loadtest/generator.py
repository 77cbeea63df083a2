"""Sends a load to one target and records what became of every request; one process, one thread.

Open loop: each request is sent when it is due, on the idle connection that was used last or on a
new one, whether or not earlier ones were answered. Closed loop: users who wait for answers. Nothing
is sent through a proxy, and redirects aren't followed.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visiondyno.loadtest.dialling import Dialler
from visiondyno.loadtest.loops import ClosedLoop, OpenLoop
from visiondyno.loadtest.progress import Progress
from visiondyno.loadtest.recording import Recording
from visiondyno.loadtest.rows import Rows
from visiondyno.loadtest.schedule import arrivals_s
from visiondyno.loadtest.sending import Sender, Share
from visiondyno.loadtest.starvation import STARVED, Starvation
from visiondyno.loadtest.targets import PreparedTarget
from visiondyno.loadtest.timer import IMPRECISE, least_slack
from visiondyno.specs.load_test import ClosedLoad, Load

_LEAD_NS = 20_000_000
"""From being ready to the first request."""
_PROGRESS_S = 0.25
_MOST_TOLD = 1000
"""Latencies at a time: telling must not hold up sending."""


async def run_round(  # noqa: PLR0913 - all but two by name
    target: PreparedTarget,
    load: Load,
    *,
    seed: int = 0,
    timeout_s: float = 30.0,
    connections: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    stop: asyncio.Event | None = None,
    share: Share = Share(),  # noqa: B008 - frozen
    begin: Callable[[], Awaitable[int]] | None = None,
) -> Recording:
    """Put the target under the load once. Meant for uvloop, and a process with nothing else to do.

    A target that can't be reached makes failed requests, not an error. Cancelling the task closes
    all connections and records nothing; `stop` keeps what was recorded.

    Args:
        target: whom to ask, and what.
        load: open or closed.
        seed: of a Poisson load.
        timeout_s: of each request, from its sending (or the begin of connecting) to the whole
            answer.
        connections: the most at once; a request that finds none free waits in line, and the wait
            is part of its latency. None: no limit.
        on_progress: called some times a second; what it raises ends the round.
        stop: set it, and nothing more is sent; answers are waited for a second longer.
        share: of an open load's schedule, and of the bodies in turn.
        begin: awaited once everything is ready; gives the moment at which the round begins, in ns
            of CLOCK_MONOTONIC. None: very soon.

    Raises:
        SpecError: the load is more than a round holds.
    """
    loop = asyncio.get_running_loop()
    dialler = Dialler(target, loop)
    await dialler.look_up()
    due_ns = _due_ns(load, seed, share)
    start_ns = time.monotonic_ns() + _LEAD_NS if begin is None else await begin()
    rows = Rows(start_ns + due_ns)
    common = {"timeout_s": timeout_s, "connections": connections, "share": share, "loop": loop}
    sender: Sender
    if isinstance(load, ClosedLoad):
        sender = ClosedLoop(load, start_ns, target, rows, dialler, **common)
    else:
        sender = OpenLoop(target, rows, dialler, **common)
    if not sender.timer.is_precise:
        rows.note(IMPRECISE)
    total = load.requests if isinstance(load, ClosedLoad) else rows.count
    with (
        least_slack(),
        _defects_end(sender),
        _told(sender, total, on_progress, start_ns),
        _stopped_by(stop, sender),
    ):
        cpu_begin_s, starvation = time.process_time(), Starvation()
        try:
            sender.begin()
            await sender.finished
        finally:
            await sender.close()
        if isinstance(load, ClosedLoad) and starvation.is_seen():
            rows.note(STARVED)
        return rows.recording(time.process_time() - cpu_begin_s, sender.stopped_ns)


def _due_ns(load: Load, seed: int, share: Share) -> NDArray[np.int64]:
    """This process's arrivals from the round's start on; a closed loop has none beforehand."""
    if isinstance(load, ClosedLoad):
        return np.zeros(0, np.int64)
    return np.rint(arrivals_s(load, seed)[share.index :: share.count] * 1e9).astype(np.int64)


@contextlib.contextmanager
def _defects_end(sender: Sender) -> Iterator[None]:
    """What a callback raises would only be logged, and the round would never end."""
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()

    def handle(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, Exception) and not isinstance(error, OSError):
            sender.fail(error)
        else:
            loop.default_exception_handler(context)

    loop.set_exception_handler(handle)
    try:
        yield
    finally:
        loop.set_exception_handler(before)


@contextlib.contextmanager
def _stopped_by(stop: asyncio.Event | None, sender: Sender) -> Iterator[None]:
    if stop is None:
        yield
        return

    async def wait() -> None:
        await stop.wait()
        sender.stop()

    waiting = asyncio.get_running_loop().create_task(wait())
    try:
        yield
    finally:
        waiting.cancel()


@contextlib.contextmanager
def _told(
    sender: Sender, total: int | None, tell: Callable[[Progress], None] | None, start_ns: int
) -> Iterator[None]:
    if tell is None:
        yield
        return
    rows = sender.rows
    rows.latest_ms = []

    def progress() -> Progress:
        latest_ms, rows.latest_ms = rows.latest_ms or [], []
        elapsed_s = max(0, time.monotonic_ns() - start_ns) / 1e9
        some_ms = tuple(latest_ms[:: len(latest_ms) // _MOST_TOLD + 1])
        return Progress(elapsed_s, total, sender.begun, rows.good, rows.failed, some_ms)

    async def repeat() -> None:
        try:
            while True:
                await asyncio.sleep(_PROGRESS_S)
                tell(progress())
        except Exception as error:
            sender.fail(error)

    telling = asyncio.get_running_loop().create_task(repeat())
    try:
        yield
        tell(progress())
    finally:
        telling.cancel()
