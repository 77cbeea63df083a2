"""The fleet: how many replicas there are, and what comes of those that die, hang or can't start."""

import asyncio

import pytest

from serving_stand_ins import (
    FakeReplica,
    Launcher,
    ask,
    new_pool,
    settle,
    started_pool,
    told,
)
from virtual_time import run_virtual
from visiondyno.errors import ModelError, NotReady
from visiondyno.job import JobError
from visiondyno.serving.pool import Pool

CANNOT = JobError(code=ModelError.code, message="The model is damaged.")


def ready_all(launcher: Launcher, pool: Pool) -> None:
    for one in pool.fleet.members:
        replica = one.replica
        assert isinstance(replica, FakeReplica)
        if one.readiness is None:
            replica.ready()


def test_the_least_replicas_are_started_and_the_first_that_is_ready_is_enough() -> None:
    async def scenario() -> None:
        launcher = Launcher()
        pool = new_pool(launcher, 2, 3)
        starting = asyncio.create_task(pool.start())
        await settle()
        assert pool.states() == {"starting": 2, "ready": 0, "stopping": 0}
        assert not pool.can_answer
        launcher.all[1].ready()
        assert (await starting).load_ms == 20.0
        assert pool.can_answer
        assert pool.processes() == {"1": 100, "2": 101}
        await pool.close()
        assert not launcher.alive

    run_virtual(scenario())


def test_more_are_started_while_more_waits_and_end_when_they_have_idled() -> None:
    async def scenario() -> None:
        launcher = Launcher()
        pool = await started_pool(launcher, least=1, most=3, idle_timeout_s=5.0)
        tasks = [ask(pool, one) for one in "abcdef"]
        await settle()
        assert len(launcher.alive) == 3
        ready_all(launcher, pool)
        while any(one.given for one in launcher.alive):
            for one in launcher.alive:
                if one.given:
                    one.answer()
        assert [told(await one) for one in tasks] == [[letter] for letter in "ABCDEF"]
        await asyncio.sleep(4)
        assert len(launcher.alive) == 3
        await asyncio.sleep(2)
        assert len(launcher.alive) == 1
        await asyncio.sleep(100)
        assert len(launcher.alive) == 1
        await pool.close()

    run_virtual(scenario())


def test_a_fleet_scaled_to_zero_starts_for_a_request() -> None:
    async def scenario() -> None:
        launcher = Launcher()
        pool = await started_pool(launcher, least=0, most=1, idle_timeout_s=5.0)
        await asyncio.sleep(6)
        assert not launcher.alive
        task = ask(pool, "a")
        await settle()
        assert len(launcher.alive) == 1
        launcher.alive[0].ready()
        launcher.alive[0].answer()
        assert told(await task) == ["A"]
        await pool.close()

    run_virtual(scenario())


def test_a_model_that_cannot_be_loaded_ends_the_start_with_its_reason() -> None:
    async def scenario() -> None:
        launcher = Launcher()
        pool = new_pool(launcher)
        starting = asyncio.create_task(pool.start())
        await settle()
        launcher.all[0].die("ended with exit code 1", CANNOT)
        with pytest.raises(ModelError, match="damaged"):
            await starting
        await asyncio.sleep(30)
        assert len(launcher.all) == 1  # not tried again
        await pool.close()

    run_virtual(scenario())


def test_a_killed_replica_is_replaced_at_once_and_one_that_keeps_dying_ever_later() -> None:
    async def scenario() -> None:
        launcher = Launcher()
        loop = asyncio.get_running_loop()
        pool = await started_pool(launcher)
        await asyncio.sleep(10)
        launcher.alive[0].die()
        await settle()
        assert len(launcher.alive) == 1  # it had lived for a while
        pauses = []
        for _ in range(5):
            launcher.alive[0].ready()
            launcher.alive[0].die("was killed by SIGSEGV")
            died_s = loop.time()
            while not launcher.alive:
                await asyncio.sleep(0.05)
            pauses.append(loop.time() - died_s)
        assert pauses == pytest.approx([0.5, 2.0, 5.0, 10.0, 10.0], abs=0.2)
        await pool.close()

    run_virtual(scenario())


def test_requests_are_refused_while_no_replica_can_be_started_and_accepted_after() -> None:
    async def scenario() -> None:
        launcher = Launcher()
        pool = await started_pool(launcher)
        waiting = ask(pool, "a")
        await settle()
        launcher.alive[0].die()
        await asyncio.sleep(1)
        launcher.alive[0].die("ended with exit code 1", CANNOT)
        with pytest.raises(NotReady, match="damaged"):
            await waiting
        assert not pool.can_answer
        with pytest.raises(NotReady) as refused:
            await ask(pool, "b")
        assert refused.value.retry_after_s is not None
        assert refused.value.retry_after_s >= 1
        await asyncio.sleep(30)
        launcher.alive[0].ready()
        assert pool.can_answer
        task = ask(pool, "c")
        await settle()
        launcher.alive[0].answer()
        assert told(await task) == ["C"]
        await pool.close()

    run_virtual(scenario())


def test_a_machine_without_a_process_to_give_is_asked_again() -> None:
    async def scenario() -> None:
        launcher = Launcher()
        launcher.refuses = True
        pool = new_pool(launcher, 0, 1)
        starting = asyncio.create_task(pool.start())
        await asyncio.sleep(5)
        assert not starting.done()
        launcher.refuses = False
        await asyncio.sleep(15)
        launcher.alive[0].ready()
        await starting
        await pool.close()

    run_virtual(scenario())


def test_a_replica_that_hangs_in_a_batch_is_killed_and_replaced() -> None:
    async def scenario() -> None:
        launcher = Launcher()
        pool = await started_pool(launcher, time_limit_s=5.0)
        loop = asyncio.get_running_loop()
        begin = loop.time()
        hung = ask(pool, "a")
        while not launcher.all[0].was_killed:
            await asyncio.sleep(0.1)
        assert loop.time() - begin == pytest.approx(15.0, abs=0.3)
        assert hung.done()
        assert hung.exception() is not None
        await settle()
        launcher.alive[0].ready()
        task = ask(pool, "b")
        await settle()
        launcher.alive[0].answer()
        assert told(await task) == ["B"]
        await pool.close()

    run_virtual(scenario())


def test_a_replica_that_is_slow_batch_after_batch_is_not_taken_for_hanging() -> None:
    async def scenario() -> None:
        launcher = Launcher()
        pool = await started_pool(launcher, time_limit_s=5.0)
        tasks = []
        for _ in range(10):
            tasks.append(ask(pool, "a"))
            await asyncio.sleep(4)
            launcher.all[0].answer()
        await asyncio.gather(*tasks)
        assert not launcher.all[0].was_killed
        await pool.close()

    run_virtual(scenario())


def test_a_replica_that_never_becomes_ready_is_killed() -> None:
    async def scenario() -> None:
        launcher = Launcher()
        pool = await started_pool(launcher, least=1, most=2)
        tasks = [ask(pool, one) for one in "abcd"]
        await settle()
        stuck = launcher.all[1]
        while launcher.all[0].given:
            launcher.all[0].answer()
        await asyncio.gather(*tasks)
        await asyncio.sleep(299)
        assert not stuck.was_killed
        await asyncio.sleep(2)
        assert stuck.was_killed
        await pool.close()

    run_virtual(scenario())


def test_names_are_used_again_so_that_metrics_do_not_grow() -> None:
    async def scenario() -> None:
        launcher = Launcher()
        pool = await started_pool(launcher, least=2)
        for _ in range(3):
            await asyncio.sleep(30)
            launcher.alive[0].die()
            await asyncio.sleep(30)
            ready_all(launcher, pool)
        assert {one.name for one in launcher.all} == {"1", "2"}
        await pool.close()

    run_virtual(scenario())


def test_a_replica_killed_while_it_starts_refuses_nobody_but_several_in_a_row_do() -> None:
    async def scenario() -> None:
        launcher = Launcher()
        pool = await started_pool(launcher)
        await asyncio.sleep(10)
        launcher.alive[0].die()
        await settle()
        launcher.alive[0].die()  # its replacement, which was starting
        waiting = ask(pool, "a")
        await asyncio.sleep(5)
        launcher.alive[0].ready()
        await settle()
        launcher.alive[0].answer()
        assert told(await waiting) == ["A"]
        await asyncio.sleep(10)
        launcher.alive[0].die()
        refused = ask(pool, "b")
        for _ in range(3):
            await asyncio.sleep(6)
            launcher.alive[0].die("was killed by SIGSEGV")
        with pytest.raises(NotReady, match="SIGSEGV while it started"):
            await refused
        await pool.close()

    run_virtual(scenario())


def test_a_replica_whose_socket_is_closed_is_given_nothing_until_its_end_is_known() -> None:
    async def scenario() -> None:
        launcher = Launcher()
        pool = await started_pool(launcher)
        await asyncio.sleep(10)
        dying = launcher.alive[0]
        dying.is_lost = True
        assert not pool.can_answer
        task = ask(pool, "a")
        await asyncio.sleep(1)
        assert not dying.seen
        dying.die()
        await settle()
        launcher.alive[0].ready()
        launcher.alive[0].answer()
        assert told(await task) == ["A"]
        await pool.close()

    run_virtual(scenario())
