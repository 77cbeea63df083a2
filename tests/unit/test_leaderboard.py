"""Ranks and ties."""

import base64
from datetime import UTC, datetime
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.measurements.half_samples import half_samples
from visiondyno.service.leaderboard import Scored, is_tie, make_leaderboard
from visiondyno.service.submission_results import as_scored, as_shown
from visiondyno.service.tasks import load_tasks
from visiondyno.specs.evaluation_task import Split
from visiondyno.store.records import SubmissionRecord, SubmissionState

N = 60
WEIGHTS = half_samples(N, 300, 0)
EASE = np.random.default_rng(3).uniform(0.2, 0.9, N)  # of each image, for every model


def scored(name: str, values: Any, *, at: float = 0.0, paired: bool = True) -> Scored:
    """A submission whose score of each image is `values`."""
    values = np.broadcast_to(values, N)
    spread = 1.96 * values.std() / np.sqrt(N)
    half = WEIGHTS @ values / WEIGHTS.sum(axis=1)
    return Scored(
        submission_id=f"sub_{name}_{at:g}",
        group=name,
        name=name,
        score=float(values.mean()),
        low=float(values.mean() - spread),
        high=float(values.mean() + spread),
        n_images=N,
        submitted_at=at,
        paired=half.astype(np.float32) if paired else None,
    )


def ranks(*entries: Scored, metric: str = "delta1") -> list[tuple[str, int, tuple[str, ...]]]:
    return [(row.name, row.rank, row.tied_with) for row in make_leaderboard(entries, metric)]


def test_an_empty_board_is_empty() -> None:
    assert make_leaderboard([], "delta1") == []


def test_only_the_best_of_each_name_shows() -> None:
    rows = make_leaderboard(
        [scored("a", EASE, at=1), scored("a", EASE + 0.05, at=2), scored("a", EASE - 0.1, at=3)],
        "delta1",
    )
    assert [(row.rank, row.submission_id, row.submitted_at) for row in rows] == [(1, "sub_a_2", 2)]


def test_pairing_tells_apart_what_the_intervals_do_not() -> None:
    better, worse = EASE + 0.02, EASE
    assert ranks(scored("a", worse), scored("b", better)) == [("b", 1, ()), ("a", 2, ())]
    unpaired = ranks(scored("a", worse, paired=False), scored("b", better))
    assert unpaired == [("b", 1, ("a",)), ("a", 1, ("b",))]


def test_chance_is_a_tie_and_the_next_rank_counts_all_above() -> None:
    noise = np.random.default_rng(1).normal(0, 0.1, (2, N))
    board = ranks(
        scored("a", EASE + noise[0]), scored("b", EASE + noise[1]), scored("c", EASE - 0.15)
    )
    assert sorted(board[:2]) == [("a", 1, ("b",)), ("b", 1, ("a",))]
    assert board[2] == ("c", 3, ())


def test_equal_models_tie_and_the_earlier_comes_first() -> None:
    board = ranks(scored("late", EASE, at=9), scored("early", EASE, at=1))
    assert board == [("early", 1, ("late",)), ("late", 1, ("early",))]


def test_a_constant_gap_is_no_chance() -> None:
    assert [row[1] for row in ranks(scored("a", 0.5), scored("b", 0.25))] == [1, 2]


def test_less_error_ranks_higher() -> None:
    board = ranks(scored("a", EASE + 0.1), scored("b", EASE), metric="abs_rel")
    assert board == [("b", 1, ()), ("a", 2, ())]


def test_scores_of_other_images_or_without_intervals_are_never_told_apart() -> None:
    a, b = scored("a", EASE + 0.3), scored("b", EASE)
    fewer = Scored("sub_c", "c", "c", 0.1, None, None, N - 1, 0.0)
    assert is_tie(a, fewer, "delta1")
    unknown = Scored("sub_d", "d", "d", 0.1, None, None, N, 0.0)
    assert is_tie(b, unknown, "delta1")


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(-0.2, 0.2)), max_size=12))
def test_ranks_rise_ties_share_and_every_name_shows_once(given: list[tuple[int, float]]) -> None:
    entries = [scored(str(name), EASE + shift, at=i) for i, (name, shift) in enumerate(given)]
    rows = make_leaderboard(entries, "delta1")
    assert len(rows) == len({name for name, _ in given})
    assert [row.score for row in rows] == sorted((row.score for row in rows), reverse=True)
    for place, row in enumerate(rows):
        same = [other.name for other in rows if other.rank == row.rank]
        assert set(row.tied_with) == set(same) - {row.name}
        assert row.rank == 1 + sum(other.rank < row.rank for other in rows)
        assert row.rank <= place + 1


def test_the_private_part_is_kept_and_shown_after_the_deadline_only() -> None:
    split = Split(public=0.5, seed=0)
    task = load_tasks()["task2"].model_copy(update={"split": split})
    half = base64.b64encode(np.ones(3, "<f4").tobytes()).decode()
    part = {"images": 40, "score": 0.5, "low": 0.4, "high": 0.6, "measures": {"delta1": {}}}
    record = SubmissionRecord(
        id="sub_1_00000000",
        task="task2",
        name="n",
        model_sha256="",
        file_name="",
        state=SubmissionState.COMPLETED,
        created_at=0.0,
        metrics={
            "splits": {
                "public": {**part, "paired": half},
                "private": {**part, "score": 0.1, "paired": "no base64!"},
            },
            "predict_s": 1.0,
        },
    )
    shown = as_shown(record, task, 0.0)
    assert (shown.score, shown.low, shown.high) == (0.5, 0.4, 0.6)
    expected = {"delta1": {}, "split": "public", "images": 40, "predict_s": 1.0}
    assert shown.metrics == expected
    found = as_scored(record, task, 0.0)
    assert found is not None
    assert found.paired is not None
    assert len(found.paired) == 3

    over = task.model_copy(update={"deadline": datetime.fromtimestamp(9, UTC)})
    assert as_shown(record, over, 10.0).score == 0.1
    private = as_scored(record, over, 10.0)
    assert private is not None
    assert private.paired is None
    # Scored when the task had no split: nothing of it may be shown now.
    whole = task.model_copy(update={"split": None})
    assert as_scored(record, whole, 0.0) is None
    assert as_shown(record, whole, 0.0).score is None
