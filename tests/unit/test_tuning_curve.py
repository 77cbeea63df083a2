"""The curve of a training that a study keeps: bounded, whole, in order."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from visiondyno.tuning.body import TrainingCurve


@given(st.lists(st.integers(1, 300), max_size=200), st.integers(2, 20))
def test_a_curve_is_bounded_in_order_and_has_both_its_ends(told: list[int], most: int) -> None:
    history = TrainingCurve(most)
    for epoch in told:
        history.add({"epoch": epoch, "train_metrics": {"loss": float(epoch)}})
        kept = [one["epoch"] for one in history.to_json()]
        assert len(kept) <= most
    kept = [one["epoch"] for one in history.to_json()]
    assert kept == sorted(set(kept))
    assert set(kept) <= set(told)
    if told:
        assert kept[-1] == max(told)


def test_a_long_training_is_thinned_evenly() -> None:
    history = TrainingCurve()
    for epoch in range(1, 5001):
        history.add({"epoch": epoch, "train_metrics": {"loss": 1.0}, "health": {"x": epoch}})
    kept = history.to_json()
    assert 500 <= len(kept) <= 1000
    assert (kept[0]["epoch"], kept[-1]["epoch"]) == (1, 5000)
    steps = {b["epoch"] - a["epoch"] for a, b in itertools.pairwise(kept[:-1])}
    assert len(steps) == 1
    assert all(one["x"] == one["epoch"] for one in kept)
    assert TrainingCurve().to_json() == []
