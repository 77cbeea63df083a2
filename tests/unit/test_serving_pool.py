"""The pool: order, batches, limits, and what happens to the images of a replica that dies."""

import asyncio

import pytest

from serving_stand_ins import MODEL, Launcher, ask, new_pool, settle, started_pool, told
from virtual_time import run_virtual
from visiondyno.errors import ChildDied, NotReady, RateLimited, TimeLimitExceeded
from visiondyno.serving.wire import Kind


def test_images_are_answered_in_the_order_they_came_in_and_each_with_its_own() -> None:
    async def scenario() -> None:
        launcher = Launcher()
        pool = await started_pool(launcher)
        first, second = ask(pool, "a", "b"), ask(pool, "c")
        await settle()
        order = []
        while launcher.all[0].given:
            order += launcher.all[0].answer()
        assert order == [b"a", b"b", b"c"]
        assert (told(await first), told(await second)) == (["A", "B"], ["C"])
        await pool.close()

    run_virtual(scenario())


def test_what_waits_becomes_one_batch_of_at_most_the_limit() -> None:
    async def scenario() -> None:
        launcher = Launcher()
        pool = await started_pool(launcher, max_batch=3)
        asked = [ask(pool, "a")]
        await settle()
        asked += [ask(pool, one) for one in "bcdefgh"]
        await settle()
        while launcher.all[0].given:
            launcher.all[0].answer()
        assert [len(batch) for batch in launcher.all[0].seen] == [1, 3, 3, 1]
        assert [told(await one) for one in asked] == [[letter] for letter in "ABCDEFGH"]
        await pool.close()

    run_virtual(scenario())


def test_free_replicas_share_what_waits_rather_than_one_taking_all() -> None:
    async def scenario() -> None:
        launcher = Launcher()
        pool = await started_pool(launcher, least=2, max_batch=8)
        task = ask(pool, *"abc")
        await settle()
        assert [one.seen for one in launcher.all] == [[[b"a", b"b"]], [[b"c"]]]
        for one in launcher.all:
            one.answer()
        assert told(await task) == ["A", "B", "C"]
        await pool.close()

    run_virtual(scenario())


def test_kinds_share_no_batch() -> None:
    async def scenario() -> None:
        launcher = Launcher()
        pool = await started_pool(launcher, max_batch=8)
        tasks = [ask(pool, "first")]
        await settle()
        tasks += [ask(pool, "a"), ask(pool, "t", kind=Kind.TENSORS), ask(pool, "b")]
        await settle()
        while launcher.all[0].given:
            launcher.all[0].answer()
        assert launcher.all[0].seen == [[b"first"], [b"a"], [b"t"], [b"b"]]
        await asyncio.gather(*tasks)
        await pool.close()

    run_virtual(scenario())


def test_batch_delay_waits_for_others_but_no_longer_than_it_says() -> None:
    async def scenario() -> None:
        launcher = Launcher()
        loop = asyncio.get_running_loop()
        pool = await started_pool(launcher, max_batch=3, batch_delay_s=0.05)
        replica = launcher.all[0]
        begin = loop.time()
        alone = ask(pool, "a")
        await settle()
        assert not replica.seen
        while not replica.seen:
            await asyncio.sleep(0.001)
        assert loop.time() - begin == pytest.approx(0.05, abs=0.0011)
        replica.answer()
        await alone
        three = [ask(pool, one) for one in "bcd"]
        await settle()
        assert replica.seen[1:] == [[b"b", b"c", b"d"]]  # full: at once
        replica.answer()
        await asyncio.gather(*three)
        await pool.close()

    run_virtual(scenario())


def test_a_busy_replica_is_given_more_only_when_enough_waits_for_the_others() -> None:
    async def scenario() -> None:
        launcher = Launcher()
        pool = await started_pool(launcher, least=2, max_batch=1)
        slow, quick = launcher.all
        tasks = [ask(pool, one) for one in "ab"]
        await settle()
        tasks.append(ask(pool, "c"))
        await settle()
        assert [len(one.given) for one in launcher.all] == [1, 1]  # c waits for whoever is first
        quick.answer()
        await settle()
        assert list(quick.given.values()) == [[b"c"]]
        tasks += [ask(pool, one) for one in "defg"]
        await settle()
        assert [len(one.given) for one in launcher.all] == [2, 2]  # two remain for two
        assert pool.depth == 2
        while slow.given or quick.given:
            for one in (slow, quick):
                if one.given:
                    one.answer()
        await asyncio.gather(*tasks)
        await pool.close()

    run_virtual(scenario())


def test_a_full_queue_refuses_and_says_when_to_come_again() -> None:
    async def scenario() -> None:
        launcher = Launcher()
        pool = await started_pool(launcher, queue=2)
        tasks = [ask(pool, one) for one in "abcd"]
        await settle()
        # one runs, one is handed out in advance, two wait
        with pytest.raises(RateLimited) as refused:
            await ask(pool, "e")
        assert refused.value.retry_after_s is not None
        assert refused.value.retry_after_s >= 1
        while launcher.all[0].given:
            launcher.all[0].answer()
        assert [told(await one) for one in tasks] == [[letter] for letter in "ABCD"]
        await pool.close()

    run_virtual(scenario())


def test_more_than_the_whole_queue_at_once_is_let_in_when_nothing_waits() -> None:
    async def scenario() -> None:
        launcher = Launcher()
        pool = await started_pool(launcher, queue=2)
        task = ask(pool, *"abcdef")
        await settle()
        while launcher.all[0].given:
            launcher.all[0].answer()
        assert told(await task) == list("ABCDEF")
        await pool.close()

    run_virtual(scenario())


def test_an_answer_that_takes_too_long_is_given_up_and_its_place_is_free() -> None:
    async def scenario() -> None:
        launcher = Launcher()
        pool = await started_pool(launcher, queue=1, time_limit_s=5.0)
        tasks = [ask(pool, one) for one in "abc"]
        await settle()
        assert pool.depth == 1
        for one in tasks:
            with pytest.raises(TimeLimitExceeded, match="5 s"):
                await one
        assert pool.depth == 0
        late = ask(pool, "d")
        await settle()
        while launcher.all[0].given:
            launcher.all[0].answer()
        assert told(await late) == ["D"]
        assert launcher.all[0].seen == [[b"a"], [b"b"], [b"d"]]
        await pool.close()

    run_virtual(scenario())


def test_what_waits_is_dropped_when_its_client_hangs_up() -> None:
    async def scenario() -> None:
        launcher = Launcher()
        pool = await started_pool(launcher)
        tasks = [ask(pool, one) for one in "abcd"]
        await settle()
        for one in tasks[:3]:
            one.cancel()
        await settle()
        assert pool.depth == 1
        while launcher.all[0].given:
            launcher.all[0].answer()
        assert told(await tasks[3]) == ["D"]
        assert launcher.all[0].seen == [[b"a"], [b"b"], [b"d"]]
        await pool.close()

    run_virtual(scenario())


def test_hang_up_lets_what_is_behind_it_through() -> None:
    async def scenario() -> None:
        launcher = Launcher()
        pool = await started_pool(launcher, max_batch=4)
        first = ask(pool, "a")
        await settle()
        prefetched, tensors, image = (
            ask(pool, "b"), ask(pool, "t", kind=Kind.TENSORS), ask(pool, "c"),
        )  # fmt: skip
        await settle()
        tensors.cancel()
        await settle()
        while launcher.all[0].given:
            launcher.all[0].answer()
        assert [told(await one) for one in (first, prefetched, image)] == [["A"], ["B"], ["C"]]
        assert await pool.drain(1.0)
        await pool.close()

    run_virtual(scenario())


def test_images_of_a_replica_that_dies_are_answered_by_another_before_later_ones() -> None:
    async def scenario() -> None:
        launcher = Launcher()
        pool = await started_pool(launcher, least=2, max_batch=2)
        tasks = [ask(pool, "a", "b"), ask(pool, "c", "d")]
        await settle()
        dying, other = launcher.all
        assert (dying.seen, other.seen) == ([[b"a"]], [[b"b"]])
        dying.die()
        await settle()
        while other.given:
            other.answer()
        assert other.seen == [[b"b"], [b"a"], [b"c", b"d"]]
        assert [told(await one) for one in tasks] == [["A", "B"], ["C", "D"]]
        await pool.close()

    run_virtual(scenario())


def test_an_image_that_two_replicas_die_of_fails_and_those_of_its_batch_do_not() -> None:
    async def scenario() -> None:
        launcher = Launcher()
        pool = await started_pool(launcher, max_batch=3, time_limit_s=1000)
        first = ask(pool, "x")
        await settle()
        good, poison, other = ask(pool, "a"), ask(pool, "poison"), ask(pool, "b")
        await settle()
        launcher.all[0].answer()
        deaths = 0
        while not (good.done() and poison.done() and other.done()):
            await asyncio.sleep(20)
            replica = launcher.alive[0]
            if not pool.can_answer:
                replica.ready()
            await settle()
            while replica.given and not replica.is_gone:
                if b"poison" in next(iter(replica.given.values())):
                    deaths += 1
                    replica.die("was killed by SIGSEGV")
                else:
                    replica.answer()
                await settle()
        assert deaths == 2
        assert (told(await good), told(await other), told(await first)) == (["A"], ["B"], ["X"])
        with pytest.raises(ChildDied, match="SIGSEGV while it had this image, twice"):
            await poison
        await pool.close()

    run_virtual(scenario())


def test_what_was_only_handed_out_in_advance_does_not_count_as_tried() -> None:
    async def scenario() -> None:
        launcher = Launcher()
        pool = await started_pool(launcher, time_limit_s=1000)
        tasks = [ask(pool, one) for one in "ab"]
        await settle()
        assert len(launcher.all[0].given) == 2
        for _ in range(2):  # a dies twice, b waits behind it both times
            launcher.alive[0].die()
            await asyncio.sleep(20)
            launcher.alive[0].ready()
            await settle()
        while launcher.alive[0].given:
            launcher.alive[0].answer()
        with pytest.raises(ChildDied):
            await tasks[0]
        assert told(await tasks[1]) == ["B"]
        await pool.close()

    run_virtual(scenario())


def test_drain_takes_no_more_and_finishes_what_was_accepted() -> None:
    async def scenario() -> None:
        launcher = Launcher()
        pool = await started_pool(launcher)
        tasks = [ask(pool, one) for one in "abc"]
        await settle()
        draining = asyncio.create_task(pool.drain(30.0))
        await settle()
        assert pool.draining
        assert not pool.can_answer
        with pytest.raises(NotReady, match="stopping"):
            await ask(pool, "late")
        while launcher.all[0].given:
            launcher.all[0].answer()
            await settle()
        assert await draining is True
        assert [told(await one) for one in tasks] == [["A"], ["B"], ["C"]]
        await pool.close()

    run_virtual(scenario())


def test_drain_gives_up_after_its_grace_and_close_answers_what_waits() -> None:
    async def scenario() -> None:
        launcher = Launcher()
        pool = await started_pool(launcher, time_limit_s=100.0)
        tasks = [ask(pool, one) for one in "abc"]
        await settle()
        assert await pool.drain(2.0) is False
        await pool.close()
        for one in tasks:
            with pytest.raises(NotReady):
                await one
        assert not launcher.alive

    run_virtual(scenario())


def test_largest_batch_is_the_models_own_where_nobody_chose() -> None:
    async def scenario(model: dict[str, object]) -> int:
        launcher = Launcher()
        pool = new_pool(launcher, max_batch=None)
        starting = asyncio.create_task(pool.start())
        await settle()
        launcher.all[0].ready(MODEL | model)
        await starting
        await pool.close()
        return pool.max_batch

    assert run_virtual(scenario({"batch_size": 4})) == 4
    assert run_virtual(scenario({})) == 1
    assert run_virtual(scenario({"device": "cuda:0"})) == 8


def test_an_answer_tells_how_long_it_waited_and_for_which_start() -> None:
    async def scenario() -> None:
        launcher = Launcher()
        pool = await started_pool(launcher, least=0, most=1, idle_timeout_s=5.0)
        await asyncio.sleep(10)
        assert pool.states() == {"starting": 0, "ready": 0, "stopping": 0}
        assert pool.can_answer
        task = ask(pool, "a")
        await asyncio.sleep(2)
        launcher.alive[0].ready()
        await asyncio.sleep(1)
        launcher.alive[0].answer()
        (cold,) = await task
        assert cold.start is not None
        assert cold.start.load_ms == 20.0
        assert cold.queue_ms == pytest.approx(2000)
        assert cold.total_ms == pytest.approx(3000)
        warm = ask(pool, "b")
        await settle()
        launcher.alive[0].answer()
        assert (await warm)[0].start is None
        await pool.close()

    run_virtual(scenario())
