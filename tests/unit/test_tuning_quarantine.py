"""Which workers get no more trials."""

from visiondyno.tuning.quarantine import WorkerWatch


def test_a_worker_that_fails_while_others_succeed_is_quarantined_once() -> None:
    watch = WorkerWatch()
    assert not watch.failed("broken")
    watch.succeeded("well")
    assert [watch.failed("broken") for _ in range(4)] == [False, True, False, False]
    assert watch.quarantined == {"broken"}


def test_failures_everywhere_speak_against_no_worker() -> None:
    watch = WorkerWatch()
    watch.succeeded("b")
    assert not any(watch.failed(name) for _ in range(9) for name in ("a", "b", "c"))
    assert not watch.quarantined


def test_a_success_of_its_own_begins_the_count_anew() -> None:
    watch = WorkerWatch()
    for _ in range(5):
        assert not watch.failed("a")
        assert not watch.failed("a")
        watch.succeeded("b")
        watch.succeeded("a")
    assert not watch.quarantined


def test_the_only_worker_is_never_quarantined() -> None:
    watch = WorkerWatch()
    watch.succeeded("a")
    assert not any(watch.failed("a") for _ in range(20))
