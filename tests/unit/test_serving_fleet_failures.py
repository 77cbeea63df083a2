"""The fleet where starts fail: what is said, what is refused, and how it recovers."""

import asyncio
import logging

import pytest

from serving_stand_ins import MODEL, Launcher, ask, new_pool, settle, started_pool, told
from virtual_time import run_virtual
from visiondyno.errors import ModelError, NotReady
from visiondyno.job import JobError

CANNOT = JobError(code=ModelError.code, message="The model is damaged.")


def test_a_fleet_that_scales_to_zero_is_not_ready_before_its_model_was_once_loaded() -> None:
    async def scenario() -> None:
        launcher = Launcher()
        pool = new_pool(launcher, least=0)
        starting = asyncio.create_task(pool.start())
        await settle()
        assert not pool.can_answer
        launcher.all[0].ready()
        await starting
        assert pool.can_answer
        await asyncio.sleep(61)
        assert not launcher.alive
        assert pool.can_answer
        await pool.close()

    run_virtual(scenario())


def test_a_stated_reason_is_said_once_and_without_an_exit_code(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        launcher = Launcher()
        pool = new_pool(launcher)
        starting = asyncio.create_task(pool.start())
        await settle()
        launcher.all[0].die("ended with exit code 1", CANNOT)
        with pytest.raises(ModelError, match="damaged"):
            await starting
        await pool.close()
        assert not caplog.messages  # whoever started it says the sentence
        launcher = Launcher()
        pool = await started_pool(launcher)
        launcher.alive[0].die()
        await asyncio.sleep(1)
        launcher.alive[0].die("ended with exit code 1", CANNOT)
        await pool.close()

    with caplog.at_level(logging.WARNING):
        run_virtual(scenario())
    assert caplog.messages == [
        "replica 1 (process 100) was killed by SIGKILL",
        "replica 1 couldn't start: The model is damaged.",
    ]


@pytest.mark.parametrize("load_s", [1.0, 20.0])
def test_a_fleet_scaled_to_zero_recovers_from_a_start_that_failed(load_s: float) -> None:
    async def scenario() -> None:
        launcher = Launcher()
        pool = await started_pool(launcher, least=0, most=1, idle_timeout_s=5.0)
        await asyncio.sleep(6)
        refused = ask(pool, "a")
        await asyncio.sleep(load_s)
        launcher.alive[0].die("ended with exit code 1", CANNOT)
        with pytest.raises(NotReady, match="damaged"):
            await refused
        assert not pool.can_answer
        assert not launcher.alive  # a while passes, however long the start took
        await asyncio.sleep(1)
        launcher.alive[0].ready()  # the file was put right
        assert pool.can_answer
        task = ask(pool, "b")
        await settle()
        launcher.alive[0].answer()
        assert told(await task) == ["B"]
        await asyncio.sleep(6)
        assert not launcher.alive
        await pool.close()

    run_virtual(scenario())


def test_a_replica_of_another_model_answers_nothing_and_others_go_on() -> None:
    async def scenario() -> None:
        launcher = Launcher()
        pool = await started_pool(launcher, least=2)
        kept, lost = launcher.all
        await asyncio.sleep(10)
        lost.die()
        await settle()
        launcher.alive[1].ready({**MODEL, "digest": "another"})
        tasks = [ask(pool, one) for one in "ab"]
        await settle()
        assert pool.processes() == {"1": kept.pid}
        kept.answer()
        await settle()
        kept.answer()
        assert [told(await one) for one in tasks] == [["A"], ["B"]]
        kept.die()
        refused = ask(pool, "c")
        while not refused.done():
            await asyncio.sleep(0.5)
            for one in launcher.alive:
                one.ready({**MODEL, "digest": "another"})
        with pytest.raises(NotReady, match="isn't the one that this server started with"):
            await refused
        await settle()
        while not launcher.alive:
            await asyncio.sleep(0.5)
        launcher.alive[0].ready()  # it was put back
        task = ask(pool, "d")
        await settle()
        launcher.alive[0].answer()
        assert told(await task) == ["D"]
        await pool.close()

    run_virtual(scenario())
