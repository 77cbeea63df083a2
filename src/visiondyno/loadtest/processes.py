"""A round by generator processes of its own: one or several, each with its share of the requests.

A process of its own has an event loop, an interpreter lock and a processor time that nothing else
is in. Several begin at one moment of CLOCK_MONOTONIC, which all processes of a machine share; every
k-th arrival is one process's. A process that dies is an error, never a smaller test.
"""

import contextlib
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from visiondyno.errors import ChildDied, VisionDynoError
from visiondyno.loadtest.progress import Progress
from visiondyno.loadtest.recording import Recording
from visiondyno.loadtest.sending import Share
from visiondyno.loadtest.targets import PreparedTarget
from visiondyno.specs.load_test import ClosedLoad, Load

STAGE = "load"
FEWER = "fewer generator processes, since there are no more {}"
_LEAD_S = 0.05
"""From the moment that all are ready to the first request."""
_LOOK_S = 0.05
_END_S = 5.0


@dataclass(frozen=True, slots=True)
class Work:
    """What one generator process does.

    Attributes:
        target, load, seed, timeout_s, connections, share: of `run_round`.
        tells: whether progress is told.
    """

    target: PreparedTarget
    load: Load
    seed: int
    timeout_s: float
    connections: int | None
    share: Share
    tells: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Child:
    process: "subprocess.Popen[bytes]"
    orders: Connection
    answers: Connection


def run_in_processes(  # noqa: PLR0913 - all but two by name
    target: PreparedTarget,
    load: Load,
    *,
    seed: int = 0,
    timeout_s: float = 30.0,
    connections: int | None = None,
    generators: int = 1,
    when_ready: Callable[[], None] = lambda: None,
    on_progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
) -> Recording:
    """Put the target under the load once, from processes of their own; blocks until it is over.

    Users of a closed loop, its number of requests and the connections are divided. With fewer of
    them than `generators` there are fewer processes, and a note says so.

    Args:
        target: whom to ask, and what.
        load: open or closed; its rate or users are those of all processes together.
        seed: of a Poisson load.
        timeout_s: of each request, as in `run_round`.
        connections: the most at once, of all processes together; None: no limit.
        generators: processes.
        when_ready: called here just before the round begins: the processes have started by then.
        on_progress: called some times a second, here; what it raises ends the round.
        stop: set it, and nothing more is sent; what was recorded comes back.

    Returns:
        One recording, in order of schedule.

    Raises:
        SpecError: the load is more than a round holds.
        ChildDied: a generator process ended without its recording.
    """
    works, note = _divided(
        Work(target, load, seed, timeout_s, connections, Share(), on_progress is not None),
        generators,
    )
    with _children(works) as children:
        _await_ready(children, stop)
        when_ready()
        start_ns = time.monotonic_ns() + round(_LEAD_S * 1e9)
        for child in children:
            _send(child, ("begin", start_ns))
        recording = merged(_follow(children, on_progress, stop))
    if note:
        recording.notes[note] = 1
    return recording


def merged(recordings: Sequence[Recording]) -> Recording:
    """One recording of several of the same round, in order of schedule."""
    if len(recordings) == 1:
        return recordings[0]
    scheduled_ns = np.concatenate([each.scheduled_ns for each in recordings])
    order = np.argsort(scheduled_ns, kind="stable")
    ends_ns = [
        int(each.scheduled_ns[0]) + round(each.elapsed_s * 1e9) for each in recordings if len(each)
    ]
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(each, name) for each in recordings])[order]
        for name in (
            *("sent_ns", "first_byte_ns", "done_ns", "status", "outcome", "answer_bytes"),
            *("connected", "begun_ns"),
        )
    }
    return Recording(
        scheduled_ns=scheduled_ns[order],
        stages_ms=_stages(recordings, order),
        errors=_added([each.errors for each in recordings]),
        cpu_s=sum(each.cpu_s for each in recordings),
        elapsed_s=(max(ends_ns) - int(scheduled_ns.min())) / 1e9 if ends_ns else 0.0,
        notes=_added([each.notes for each in recordings]),
        **columns,
    )


def _stages(recordings: Sequence[Recording], order: Any) -> dict[str, Any]:
    names = dict.fromkeys(stage for each in recordings for stage in each.stages_ms)
    return {
        stage: np.concatenate(
            [each.stages_ms.get(stage, np.full(len(each), np.nan)) for each in recordings]
        )[order]
        for stage in names
    }


def _added(counts: Sequence[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for each in counts:
        for message, count in each.items():
            total[message] = total.get(message, 0) + count
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def _divided(whole: Work, generators: int) -> tuple[list[Work], str | None]:
    """The work of each process, and what a reader must know of the division."""
    load, note = whole.load, None
    shared = {"connections": whole.connections}
    if isinstance(load, ClosedLoad):
        shared |= {"users": load.concurrency, "requests": load.requests}
    for what, number in shared.items():
        if number is not None and number < generators:
            generators, note = number, FEWER.format(what)
    works = []
    for index in range(generators):
        share = Share(index, generators)
        mine: Load = load
        if isinstance(load, ClosedLoad):
            mine = load.model_copy(
                update={
                    "concurrency": _part(load.concurrency, share),
                    "requests": _part(load.requests, share),
                }
            )
        connections = _part(whole.connections, share)
        works.append(
            Work(whole.target, mine, whole.seed, whole.timeout_s, connections, share, whole.tells)
        )
    return works, note


def _part(number: int | None, share: Share) -> int | None:
    if number is None:
        return None
    return number // share.count + (share.index < number % share.count)


@contextlib.contextmanager
def _children(works: Sequence[Work]) -> Iterator[list[_Child]]:
    children: list[_Child] = []
    try:
        for work in works:
            child = _started()
            children.append(child)
            _send(child, work)
        yield children
    finally:
        for child in children:
            child.orders.close()  # its end ends the process
            child.answers.close()
        for child in children:
            try:
                child.process.wait(_END_S)
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()


def _started() -> _Child:
    # Two pipes: waiting for orders in an event loop makes a pipe non-blocking, both ways.
    their_orders, orders = multiprocessing.Pipe(duplex=False)
    answers, their_answers = multiprocessing.Pipe(duplex=False)
    fds = (their_orders.fileno(), their_answers.fileno())
    with their_orders, their_answers:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", "visiondyno.loadtest.generator_process", *map(str, fds)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=fds,
            start_new_session=True,  # Ctrl-C is for this process, which stops the others
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
    return _Child(process, orders, answers)


def _send(child: _Child, message: object) -> None:
    with contextlib.suppress(BrokenPipeError):  # reading tells why
        child.orders.send(message)


def _receive(child: _Child) -> tuple[str, Any]:
    """What a process says next: ("ready" | "progress" | "done", what).

    Raises:
        ChildDied: it is gone.
        VisionDynoError: what it raised.
    """
    try:
        kind, content = child.answers.recv()
    except (EOFError, OSError) as error:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.process.wait(_END_S)
        raise ChildDied(
            f"A generator process ended with {child.process.returncode} before its recording was "
            "complete, so the round is void; look for what killed it (memory?) and run it again.",
            stage=STAGE,
        ) from error
    if kind == "error":
        assert isinstance(content, VisionDynoError)
        raise content
    return kind, content


def _await_ready(children: Sequence[_Child], stop: threading.Event | None) -> None:
    """Until each has imported everything and looked the name up."""
    for child in children:
        while not child.answers.poll(_LOOK_S):
            if stop is not None and stop.is_set():
                return  # they begin, are told to stop, and have sent nothing
        _receive(child)


def _follow(
    children: Sequence[_Child],
    on_progress: Callable[[Progress], None] | None,
    stop: threading.Event | None,
) -> list[Recording]:
    """The recordings, in the order of the processes."""
    running = {child.answers: child for child in children}
    recordings: dict[Connection, Recording] = {}
    latest: dict[Connection, Progress] = {}
    told_stop = False
    while running:
        if stop is not None and stop.is_set() and not told_stop:
            told_stop = True
            for child in children:
                _send(child, ("stop", None))
        for pipe in wait(list(running), _LOOK_S):
            assert isinstance(pipe, Connection)
            kind, content = _receive(running[pipe])
            if kind == "done":
                recordings[pipe] = content
                del running[pipe]
            elif kind == "progress" and on_progress is not None:
                latest[pipe] = content
                on_progress(_together(content, list(latest.values())))
    return [recordings[child.answers] for child in children]


def _together(new: Progress, each: Sequence[Progress]) -> Progress:
    """Of all processes; the latencies are the news, so none is told twice."""
    totals = [one.total for one in each if one.total is not None]
    return Progress(
        elapsed_s=new.elapsed_s,
        total=sum(totals) if len(totals) == len(each) else None,
        begun=sum(one.begun for one in each),
        good=sum(one.good for one in each),
        failed=sum(one.failed for one in each),
        latencies_ms=new.latencies_ms,
    )
