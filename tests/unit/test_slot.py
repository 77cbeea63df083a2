"""A worker's place: what it may be given while its process comes and goes."""

import pytest

from visiondyno.executors.slot import Slot
from visiondyno.executors.worker_pipe import Ending, WorkerPipe
from visiondyno.executors.workers import WorkerState


class Pipe:
    """A process that takes its time to die."""

    pid = 7

    def kill(self) -> None:
        pass

    def reap(self) -> Ending:
        return Ending("was killed by SIGKILL", by_kill=True)


def test_a_process_that_is_being_killed_gets_no_job() -> None:
    slot = Slot("w", Pipe, 0.0)  # type: ignore[arg-type]
    slot.start(0.0)
    slot.became_ready(1.0)
    assert slot.is_free
    slot.kill()
    assert not slot.is_free
    slot.died(2.0)
    assert slot.start_at_s == 2.0


def test_a_machine_without_processes_is_asked_less_and_less(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def launch() -> WorkerPipe:
        raise BlockingIOError("no process to be had")

    slot, now_s, pauses_s = Slot("w", launch, 0.0), 0.0, []
    for _ in range(5):
        assert slot.start(now_s) is None
        assert slot.state == WorkerState.BACKING_OFF
        pauses_s.append(slot.start_at_s - now_s)
        now_s = slot.start_at_s
    assert pauses_s == [0.5, 2.0, 5.0, 10.0, 10.0]
    assert "no process to be had" in caplog.text
