"""How a study is said to stand: counts, what is best, callbacks."""

import logging
import math
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from study_cases import Clock, a_board, end, epoch_event, told, trial

from visiondyno.errors import SpecError
from visiondyno.executors.cost import Cost
from visiondyno.job import JobEvent, JobState
from visiondyno.probes.cost import Price
from visiondyno.tuning.objectives import pareto_front, parse_objectives
from visiondyno.tuning.progress import AggregatedProgress, ProgressBoard
from visiondyno.tuning.trial import Failure, State

TWO = parse_objectives(["val_accuracy", "latency_ms"])


def test_counts_follow_each_trial_through_its_states() -> None:
    board = a_board(9)
    for number in range(5):
        board.on_trial(trial(number))
    board.on_trial(trial(0, State.RUNNING, attempts=1))
    board.on_trial(trial(1, State.RUNNING, attempts=1))
    end(board, 2, 0.5)
    end(board, 3, state=State.PRUNED)
    end(board, 4, state=State.FAILED, failures=(Failure("x", "At 3.", "a"),))
    now = board.progress()
    assert (now.total_trials, now.queued_trials, now.running_trials) == (9, 0, 2)
    assert (now.completed_trials, now.pruned_trials, now.failed_trials) == (1, 1, 1)
    assert now.ended_trials == 3
    assert now.failures == (("x: At #", 1),)
    assert (now.current_best_value, now.best_trial) == (0.5, 2)
    assert now.current_best_params == {"x": 2}
    board.finish("It was enough.")
    assert (board.progress().is_over, board.progress().stopped) == (True, "It was enough.")
    assert board.progress().estimated_time_remaining is None


@given(st.lists(st.tuples(st.integers(0, 4).map(float), st.integers(0, 4).map(float))))
def test_the_front_is_the_same_as_of_all_at_once(values: list[tuple[float, float]]) -> None:
    board = a_board(objectives=TWO)
    for number, pair in enumerate(values):
        end(board, number, *pair)
    now = board.progress()
    assert [record.number for record in now.front] == pareto_front(TWO, values)
    assert (now.current_best_value, now.best_trial, now.current_best_params) == (None,) * 3
    if values:
        assert now.current_best_values == (max(a for a, _ in values), min(b for _, b in values))


def test_of_equally_good_trials_the_first_is_best() -> None:
    board = a_board()
    for number, value in enumerate((0.2, 0.8, 0.8, 0.1)):
        end(board, number, value)
    assert board.progress().best_trial == 1


def test_requests_count_attempts_retries_and_redeliveries() -> None:
    clock = Clock()
    board = a_board(now=clock)
    assert board.progress().requests.submissions_per_minute is None
    clock.at += 30
    board.on_trial(trial(0))
    board.on_trial(trial(0, State.RUNNING, attempts=1))
    board.on_event(0, epoch_event(1))
    board.on_event(0, JobEvent(job_id="a", number=2, state=JobState.IN_QUEUE))
    board.on_event(0, JobEvent(job_id="a", number=3, state=JobState.IN_PROGRESS))
    board.on_trial(trial(0, State.QUEUED, attempts=1))
    board.on_trial(trial(0, State.RUNNING, attempts=2))
    board.on_trial(trial(1, State.QUEUED, attempts=1))  # its place was never reached
    requests = board.progress().requests
    assert (requests.submissions, requests.retries, requests.redeliveries) == (3, 1, 1)
    assert requests.submissions_per_minute == 6.0
    assert board.progress().running[0].epoch == 0  # another attempt begins anew


def test_trials_of_earlier_runs_count_and_their_requests_do_not() -> None:
    clock = Clock()
    done = trial(0, State.COMPLETED, started_at=1.0, ended_at=11.0, values=(0.9,), attempts=3)
    board = a_board(4, taken_up=[done], now=clock)
    clock.at += 60
    now = board.progress()
    assert (now.completed_trials, now.best_trial, now.requests.submissions) == (1, 0, 0)
    assert now.trials_per_minute == 0.0
    assert now.estimated_time_remaining == pytest.approx(30.0)


def test_a_study_that_goes_on_with_fewer_trials_than_it_has_counts_those_it_has() -> None:
    done = [trial(number, State.COMPLETED, values=(0.5,)) for number in range(3)]
    now = a_board(2, taken_up=done).progress()
    assert (now.ended_trials, now.total_trials) == (3, 3)


def test_a_running_trial_shows_epoch_values_and_what_it_does() -> None:
    board = a_board()
    board.on_trial(trial(3, State.RUNNING, attempts=1, started_at=1000.0))
    board.on_event(3, told({"stage": "loading data"}))
    assert board.progress().running[0].stage == "loading data"
    board.on_event(3, told({"stage": "training", "epoch": 1, "epochs": 4, "done": 1, "total": 2}))
    assert board.progress().running[0].done == pytest.approx(0.125)
    board.on_event(3, epoch_event(2, 4))
    (one,) = board.progress().running
    assert (one.epoch, one.epochs, one.done, one.values) == (2, 4, 0.5, {"val_accuracy": 0.1})
    board.on_event(3, told({"stage": "resumed", "epoch": 3, "epochs": 4}))
    assert board.progress().running[0].done_before == 0.75


@pytest.mark.parametrize(
    "said",
    [{}, {"stage": 3}, {"stage": "epoch"}, {"stage": "epoch", "epoch": "1", "epochs": 2},
     {"stage": "epoch", "epoch": 3, "epochs": 2}, {"stage": "epoch", "epoch": 1, "epochs": 2,
      "val_metrics": {"accuracy": "high"}, "health": 4},
     {"stage": "training", "epoch": 1, "epochs": 2, "done": 5, "total": 0},
     {"stage": "training", "epoch": 1, "epochs": 2, "done": 5, "total": 2}],
    ids=str,
)  # fmt: skip
def test_what_a_worker_tells_wrongly_harms_nothing(said: dict[str, object]) -> None:
    board = a_board()
    board.on_trial(trial(0, State.RUNNING, attempts=1))
    board.on_event(0, told(said))
    board.on_event(99, told(said))
    assert 0 <= board.progress().running[0].done <= 1
    assert board.progress().running[0].values == {}


def test_health_is_kept_by_epoch_and_what_is_not_finite_is_named() -> None:
    board = a_board()
    health = {"gradient_norm_mean": 1.5, "gradient_norm_max": 9.0, "nonfinite_steps": 0}
    for number in range(3):
        board.on_trial(trial(number, State.RUNNING, attempts=1))
    board.on_event(0, epoch_event(1, health=health))
    board.on_event(0, epoch_event(2))
    board.on_event(1, epoch_event(1, health={**health, "nonfinite_steps": 2}))
    board.on_event(2, epoch_event(1, train_metrics={"loss": math.nan}))
    first, second = board.health(0)
    assert (first.epoch, first.train_loss, first.val_loss) == (1, 1.0, 2.0)
    assert (first.gradient_norm_mean, first.gradient_norm_max, first.nonfinite_steps) == (1.5, 9, 0)
    assert second.gradient_norm_max is None
    assert board.health(77) == ()
    assert board.progress().nonfinite_trials == (1, 2)
    board.on_trial(trial(2, State.RUNNING, attempts=2))
    assert board.progress().nonfinite_trials == (1,)
    assert board.health(2) == ()


def test_cost_is_the_trials_own_or_the_places() -> None:
    cost = Cost(10, 20, Price(3600.0, None, "the test"))
    board = a_board()
    assert board.progress().usd_at_least is None
    end(board, 0, 0.5, cost=cost.to_json())
    end(board, 1, 0.5, cost=cost.to_json())
    end(board, 2, 0.5)
    assert (board.progress().usd_at_least, board.progress().usd_at_most) == (20.0, 40.0)
    spent = a_board(spent=lambda: cost)
    end(spent, 0, 0.5)
    assert (spent.progress().usd_at_least, spent.progress().usd_at_most) == (10.0, 20.0)

    def unknown() -> Cost:
        raise SpecError("The price isn't known.")

    for other in (unknown, lambda: None):
        board = a_board(spent=other)
        end(board, 0, 0.5)
        assert board.progress().usd_at_most is None


# ---- callbacks


def hammer(board: ProgressBoard, trials: int, workers: int, epochs: int) -> None:
    """So many threads tell the board of their trials as fast as they can."""
    start = threading.Barrier(workers)

    def work(worker: int) -> None:
        start.wait()
        for number in range(worker, trials, workers):
            board.on_trial(trial(number))
            board.on_trial(trial(number, State.RUNNING, attempts=1, started_at=1000.0))
            for epoch in range(1, epochs + 1):
                board.on_event(number, epoch_event(epoch, epochs))
            end(board, number, 0.5, attempts=1)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_16_trials_on_4_workers_lose_no_update_and_keep_their_order() -> None:
    board = a_board(16)
    heard: list[AggregatedProgress] = []
    board.subscribe(heard.append, "list")
    hammer(board, trials=16, workers=4, epochs=50)
    (reading,) = board.close()
    assert [one.sequence for one in heard] == list(range(1, 16 * 53 + 1))
    for number in range(16):
        mine = [one.change for one in heard if one.change and one.change.trial == number]
        states = [change.record.state for change in mine if change.record]
        assert states == [State.QUEUED, State.RUNNING, State.COMPLETED]
        epochs = [change.said["epoch"] for change in mine if change.said]
        assert epochs == list(range(1, 51))
    assert heard[-1].completed_trials == 16
    assert (reading.name, reading.calls, reading.pending, reading.errors) == ("list", 848, 0, 0)
    assert reading.p50_s is not None
    assert reading.p99_s is not None
    assert 0 < reading.p50_s <= reading.p99_s <= reading.seconds


def test_a_slow_callback_holds_up_nobody_and_hears_everything() -> None:
    board = a_board(16)
    gate = threading.Event()
    slow: list[int] = []
    quick: list[int] = []

    def waits(progress: AggregatedProgress) -> None:
        gate.wait()
        slow.append(progress.sequence)

    board.subscribe(waits)
    board.subscribe(lambda progress: quick.append(progress.sequence), "quick")
    hammer(board, trials=16, workers=4, epochs=2)  # returns though `waits` hasn't
    readings = board.close(patience_s=0.01)
    assert readings[0].pending > 0
    assert readings[0].p50_s is None or readings[0].calls
    gate.set()
    assert board.close()[0].pending == 0
    assert slow == quick == list(range(1, 16 * 5 + 1))


def test_a_callback_that_raises_is_logged_once_counted_and_told_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    board = a_board()

    def broken(progress: AggregatedProgress) -> None:
        raise ValueError(progress.sequence)

    board.subscribe(broken)
    with caplog.at_level(logging.ERROR):
        for number in range(5):
            board.on_trial(trial(number))
        (reading,) = board.close()
    assert (reading.calls, reading.errors) == (5, 5)
    assert len(caplog.records) == 1
    assert "broken" in caplog.text
    assert board.callbacks() == (reading,)
    assert board.progress().queued_trials == 5


def test_a_callback_may_close_the_board_and_read_it() -> None:
    board = a_board()
    seen: list[int] = []

    def closes(progress: AggregatedProgress) -> None:
        seen.append(board.progress().queued_trials)
        board.close()

    board.subscribe(closes)
    board.on_trial(trial(0))
    board.close()
    assert seen == [1]
