"""Rounds by processes of their own: together they are the one round that was asked for."""

import asyncio
import os
import signal
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from answering_servers import OK, always, read_request, serving
from recording_factory import notes_of
from visiondyno.errors import ChildDied, SpecError
from visiondyno.loadtest.processes import FEWER, run_in_processes
from visiondyno.loadtest.progress import Progress
from visiondyno.loadtest.recording import Outcome
from visiondyno.loadtest.schedule import arrivals_s
from visiondyno.loadtest.targets import PreparedTarget, prepare_target
from visiondyno.specs.load_test import ClosedLoad, ConstantLoad, PoissonLoad, TargetSpec


def target_at(port: int, **fields: object) -> PreparedTarget:
    return prepare_target(TargetSpec.model_validate({"url": f"http://127.0.0.1:{port}/", **fields}))


def children() -> list[int]:
    """Processes of this one that still run."""
    found = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text()
    return [int(pid) for pid in found.split()]


def test_several_processes_keep_the_schedule_of_one(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.bmp").write_bytes(b"BM%d" % number)
    bodies: Counter[bytes] = Counter()

    async def noting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await read_request(reader):
            bodies[request[1]] += 1
            writer.write(OK)

    load = PoissonLoad(rate_per_s=150, duration_s=0.6)
    told: list[Progress] = []
    with serving(noting) as port:
        recording = run_in_processes(
            target_at(port, images=[str(tmp_path)]),
            load,
            seed=5,
            generators=2,
            on_progress=told.append,
        )
    due_s = arrivals_s(load, 5)
    assert recording.having(Outcome.GOOD).all()
    gaps_s = (recording.scheduled_ns - recording.scheduled_ns[0]) / 1e9
    assert gaps_s == pytest.approx(due_s - due_s[0], abs=1e-6)
    assert sum(bodies.values()) == len(due_s)
    assert max(bodies.values()) - min(bodies.values()) <= 1
    assert told[-1].begun == told[-1].good == told[-1].total == len(due_s)
    assert sum(len(progress.latencies_ms) for progress in told) == len(due_s)


def test_users_and_requests_of_a_closed_loop_are_divided() -> None:
    with serving(always(OK)) as port:
        load = ClosedLoad(concurrency=3, requests=31)
        recording = run_in_processes(target_at(port), load, generators=2)
    assert len(recording) == 31
    assert recording.connected.sum() == 3
    assert (np.diff(recording.scheduled_ns) >= 0).all()
    assert not notes_of(recording)


def test_no_process_is_started_for_nobody() -> None:
    with serving(always(OK)) as port:
        load = ClosedLoad(concurrency=1, requests=5)
        recording = run_in_processes(target_at(port), load, generators=2)
    assert len(recording) == 5
    assert notes_of(recording) == {FEWER.format("users"): 1}


def test_a_stop_reaches_every_process() -> None:
    stop = threading.Event()

    def when_begun(progress: Progress) -> None:
        if progress.good:
            stop.set()

    with serving(always(OK)) as port:
        load = ConstantLoad(rate_per_s=100, duration_s=300)
        recording = run_in_processes(
            target_at(port), load, generators=2, stop=stop, on_progress=when_begun
        )
    assert len(recording) == 30_000
    assert 0 < recording.having(Outcome.GOOD).sum() < 29_000
    assert recording.elapsed_s < 290


def test_a_stop_before_the_begin_sends_next_to_nothing() -> None:
    stop = threading.Event()
    stop.set()
    with serving(always(OK)) as port:
        load = ConstantLoad(rate_per_s=100, duration_s=300)
        recording = run_in_processes(target_at(port), load, stop=stop)
    assert recording.having(Outcome.NOT_SENT).sum() > 29_000


def test_a_process_that_is_killed_voids_the_round_and_ends_the_others() -> None:
    before = set(children())

    def kill_one(_: Progress) -> None:
        for pid in sorted(set(children()) - before)[:1]:
            os.kill(pid, signal.SIGKILL)

    load = ConstantLoad(rate_per_s=100, duration_s=300)
    with (
        serving(always(OK)) as port,
        pytest.raises(ChildDied, match=r"-9 before its recording was complete"),
    ):
        run_in_processes(target_at(port), load, generators=2, on_progress=kill_one)
    assert set(children()) <= before


def test_an_error_in_a_process_is_the_error_here() -> None:
    with pytest.raises(SpecError, match="shorten the duration"):
        run_in_processes(target_at(9), ConstantLoad(rate_per_s=1e6, duration_s=86_400))
