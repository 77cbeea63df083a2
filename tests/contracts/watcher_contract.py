"""What every watcher must do: subclass `WatcherContract` and give it a `target`."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from visiondyno.errors import InputError, OperationFailed, Unavailable
from visiondyno.loadtest.watching.base import Watcher
from visiondyno.report.load_test import Resources


async def _two_tenths() -> None:
    await asyncio.sleep(0.2)


@dataclass(frozen=True)
class Target:
    """What a contract suite runs against.

    Attributes:
        make: a watcher of something that can be watched.
        broken: one of something that can't.
        passes: lets the time of a window pass.
        tells_memory: whether memory can be read here.
    """

    make: Callable[[], Watcher]
    broken: Callable[[], Watcher]
    passes: Callable[[], Awaitable[None]] = _two_tenths
    tells_memory: bool = True


async def window(watcher: Watcher, target: Target) -> Resources:
    await watcher.start()
    await target.passes()
    return await watcher.stop()


def run(scenario: Awaitable[Resources | None]) -> Resources:
    async def main() -> Resources | None:
        found = await asyncio.wait_for(scenario, 60)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks left behind: {left}"
        return found

    found = asyncio.run(main())
    assert found is not None
    return found


class WatcherContract:
    """The contract of `loadtest.watching.base.Watcher`."""

    def test_a_window_has_samples_and_measures(self, target):
        found = run(window(target.make(), target))
        assert found.source
        moments = [sample.at_s for sample in found.samples]
        assert moments
        assert moments == sorted(moments)
        assert min(moments) >= 0
        cpu, memory = found.cpu_cores_mean, found.peak_memory_bytes
        assert (cpu.unit, memory.unit) == ("cores", "bytes")
        assert cpu.value >= 0
        assert cpu.method
        assert cpu.reason is None
        if target.tells_memory:
            assert memory.value > 0
            sizes = [sample.memory_bytes for sample in found.samples if sample.memory_bytes]
            assert memory.value >= max(sizes) > 0

    def test_the_check_passes_and_refuses_in_a_sentence(self, target):
        asyncio.run(target.make().check())
        with pytest.raises((InputError, Unavailable)) as caught:
            asyncio.run(target.broken().check())
        assert len(caught.value.message) > 20
        assert caught.value.message.endswith(".")

    def test_what_cant_be_read_raises_nothing_and_is_never_0(self, target):
        found = run(window(target.broken(), target))
        for measure in (found.cpu_cores_mean, found.peak_memory_bytes):
            assert measure.value is None
            assert len(measure.reason) > 10
        for sample in found.samples:
            assert sample.cpu_cores is None
            assert sample.memory_bytes is None
            assert sample.replicas is None

    def test_windows_stand_for_themselves(self, target):
        async def both():
            watcher = target.make()
            first = await window(watcher, target)
            second = await window(watcher, target)
            assert len(second.samples) < 2 * len(first.samples) + 3
            return second

        again = run(both())
        # A first whole minute ends within two.
        assert again.samples[0].at_s <= 120
        assert again.cpu_cores_mean.value is not None

    def test_start_and_stop_belong_together(self, target):
        async def scenario():
            watcher = target.make()
            with pytest.raises(OperationFailed):
                await watcher.stop()
            await watcher.start()
            with pytest.raises(OperationFailed):
                await watcher.start()
            await target.passes()
            found = await watcher.stop()
            with pytest.raises(OperationFailed):
                await watcher.stop()
            return found

        run(scenario())

    def test_what_else_is_told_has_a_unit_and_a_method(self, target):
        async def scenario():
            watcher = target.make()
            found = await window(watcher, target)
            for name, measure in watcher.measures().items():
                assert name
                assert measure.unit
                assert measure.method
                assert measure.value is not None
            return found

        run(scenario())
