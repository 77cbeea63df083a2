"""Sampling: moments, rates, means from first to last counter, and readings that fail."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepped_clock import SteppedClock
from visiondyno.errors import OperationFailed
from visiondyno.loadtest.watching.base import CounterSum, Reading, SamplingWatcher
from visiondyno.loadtest.watching.pid import PidWatcher
from visiondyno.report.load_test import Resources


class ScriptedWatcher(SamplingWatcher):
    """Gives readings one after another; the last one for ever."""

    cpu_method = "the script's counter"

    def __init__(self, clock, readings, took_s=0.0):
        super().__init__(1.0, clock.clock)
        self.stepped, self.readings, self.took_s = clock, list(readings), took_s
        self.closed = 0

    async def check(self):
        """Nothing to see."""

    async def _open(self):
        self.at = -1

    async def _read(self):
        self.at += 1
        self.stepped.now_s += self.took_s
        return self.readings[min(self.at, len(self.readings) - 1)]

    async def _close(self):
        self.closed += 1

    def _source(self):
        return "a script"

    def _peak(self, highest_bytes, readings):
        return highest_bytes, f"highest of {readings}"


def watched(readings, seconds, took_s=0.0) -> Resources:
    async def main():
        clock = SteppedClock()
        watcher = ScriptedWatcher(clock, readings, took_s)
        await watcher.start()
        await clock.advance(seconds)
        found = await watcher.stop()
        assert watcher.closed == 1
        assert len(asyncio.all_tasks()) == 1
        return found

    return asyncio.run(main())


def steady(count, cores=2.0, memory=100):
    return [Reading(cores * at, memory + at, replicas=at) for at in range(count)]


def test_a_sample_is_taken_at_the_start_every_second_and_at_the_end():
    found = watched(steady(5), 3.7)
    assert [sample.at_s for sample in found.samples] == [0, 1, 2, 3, 3.7]
    assert [sample.memory_bytes for sample in found.samples] == [100, 101, 102, 103, 104]
    assert [sample.replicas for sample in found.samples] == [0, 1, 2, 3, 4]
    assert [sample.cpu_cores for sample in found.samples[:4]] == [None, 2, 2, 2]
    assert found.source == "a script"
    assert found.peak_memory_bytes.value == 104
    assert found.peak_memory_bytes.n == 5


def test_the_mean_is_from_the_first_counter_to_the_last():
    counters = [0.0, 0.1, 0.2, 6.0]
    found = watched([Reading(value, 1) for value in counters], 2.5)
    assert found.cpu_cores_mean.value == pytest.approx(6 / 2.5)
    assert found.cpu_cores_mean.unit == "cores"
    assert found.cpu_cores_mean.method == "the script's counter; from first to last reading, 2.5 s"


def test_the_end_right_after_a_tick_takes_the_ticks_place():
    counters = [0.0, 1.0, 2.0, 2.01]
    found = watched([Reading(value, 1) for value in counters], 2.001)
    assert [sample.at_s for sample in found.samples] == [0, 1, 2.001]
    assert found.samples[-1].cpu_cores == pytest.approx(1.01 / 1.001)


def test_moments_missed_by_a_slow_reading_are_left_out():
    found = watched(steady(9), 6.0, took_s=1.6)
    moments = [sample.at_s for sample in found.samples]
    assert moments == sorted(moments)
    # After 1.6 s the moment of 1 s is past, so the next is that of 2 s.
    assert moments[:3] == [pytest.approx(1.6), pytest.approx(3.6), pytest.approx(5.6)]


def test_a_reading_that_fails_is_a_sample_of_none_and_is_told():
    gone = Reading(cpu_problem="no answer", memory_problem="no answer")
    found = watched([Reading(0.0, 5), gone, Reading(3.0, 7)], 2.0)
    assert [sample.memory_bytes for sample in found.samples] == [5, None, 7]
    # The rate after the gap is over all of it.
    assert [sample.cpu_cores for sample in found.samples] == [None, None, 1.5]
    assert found.cpu_cores_mean.value == 1.5
    assert "1 of 4 readings failed: no answer" in found.cpu_cores_mean.method
    assert "1 of 4 readings failed: no answer" in found.peak_memory_bytes.method


def test_nothing_read_is_no_value_with_the_reason_and_never_0():
    gone = Reading(cpu_problem="no counter there", memory_problem="no size there")
    found = watched([gone], 3.0)
    assert found.cpu_cores_mean.value is None
    assert found.cpu_cores_mean.reason == "5 of 5 readings failed: no counter there"
    assert found.peak_memory_bytes.value is None
    assert found.peak_memory_bytes.reason == "5 of 5 readings failed: no size there"


def test_one_reading_of_the_counter_makes_no_mean():
    gone = Reading(memory_bytes=1, cpu_problem="it ended")
    found = watched([Reading(4.0, 1), gone], 2.0)
    assert found.cpu_cores_mean.value is None
    assert found.cpu_cores_mean.reason.startswith("only one reading of the counter worked; ")
    assert found.peak_memory_bytes.value == 1


def test_a_window_without_length_has_no_mean():
    found = watched([Reading(1.0, 1)], 0.0)
    assert found.cpu_cores_mean.value is None
    assert "too short" in found.cpu_cores_mean.reason


def test_windows_stand_for_themselves_and_come_one_at_a_time():
    async def main():
        clock = SteppedClock()
        watcher = ScriptedWatcher(clock, steady(4))
        with pytest.raises(OperationFailed, match="needs a start"):
            await watcher.stop()
        for _ in range(2):
            await watcher.start()
            with pytest.raises(OperationFailed, match="already"):
                await watcher.start()
            await clock.advance(2.0)
            found = await watcher.stop()
            assert [sample.at_s for sample in found.samples] == [0, 1, 2]
            assert found.cpu_cores_mean.value == pytest.approx(3.0)

    asyncio.run(main())


def test_an_interval_of_nothing_is_refused():
    with pytest.raises(ValueError, match="above 0"):
        PidWatcher(1, interval_s=0.0)


@given(st.lists(st.lists(st.floats(0.1, 100), min_size=1, max_size=5), min_size=1, max_size=6))
def test_counters_that_begin_again_are_added_up(lives):
    """Each list is one life of the process behind a counter: what it counts, step by step."""
    counter = CounterSum()
    counter.read({"cpu": 0.0})
    grown = 0.0
    for life in lives:
        # Seen at 0: one that is first seen above the last life's end can't be told from it.
        grown = counter.read({"cpu": 0.0})
        total = 0.0
        for step in life:
            total += step
            before = grown
            grown = counter.read({"cpu": total})
            assert grown == pytest.approx(before + step)
    assert grown == pytest.approx(sum(map(sum, lives)))


def test_a_counter_that_falls_counts_from_0_a_new_one_in_whole_and_one_that_is_gone_stays():
    counter = CounterSum()
    assert counter.read({"a": 100.0, "b": 10.0}) == 0
    assert counter.read({"a": 101.0, "b": 12.0}) == 3
    assert counter.read({"a": 0.5, "b": 12.0}) == 3.5
    assert counter.read({"a": 1.0}) == 4.0
    assert counter.read({"a": 1.0, "c": 2.0}) == 6.0
