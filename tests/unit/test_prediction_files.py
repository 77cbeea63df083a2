"""Predictions survive their file exactly, those of images without any too."""

import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from visiondyno.measuring.prediction_files import load_predictions, save_predictions
from visiondyno.predictions import Classification, DepthMap, Detections, Predictions

floats = st.floats(-1e6, 1e6, width=32)


@st.composite
def detections(draw: st.DrawFn) -> Detections:
    count = draw(st.integers(0, 5))
    return Detections(
        draw(hnp.arrays(np.float32, (count, 4), elements=floats)),
        draw(hnp.arrays(np.float32, count, elements=st.floats(0, 1, width=32))),
        draw(hnp.arrays(np.int64, count, elements=st.integers(0, 90))),
    )


relaxed = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@given(found=st.lists(detections(), min_size=1, max_size=6))
@relaxed
def test_detections(found: list[Predictions], tmp_path: Path) -> None:
    file = tmp_path / "predictions.npz"
    save_predictions(file, found)
    back = load_predictions(file)
    assert len(back) == len(found)
    for ours, theirs in zip(found, back, strict=True):
        assert isinstance(ours, Detections)
        assert isinstance(theirs, Detections)
        np.testing.assert_array_equal(ours.boxes_xyxy, theirs.boxes_xyxy)
        np.testing.assert_array_equal(ours.scores, theirs.scores)
        np.testing.assert_array_equal(ours.class_ids, theirs.class_ids)
        assert theirs.class_ids.dtype == np.int64


@given(rows=hnp.arrays(np.float32, (3, 7), elements=st.floats(0, 1, width=32)))
@relaxed
def test_classifications(rows: np.ndarray, tmp_path: Path) -> None:
    file = tmp_path / "predictions.npz"
    save_predictions(file, [Classification(row) for row in rows])
    back = load_predictions(file)
    assert all(isinstance(found, Classification) for found in back)
    np.testing.assert_array_equal(rows, [found.probabilities for found in back])  # type: ignore[union-attr]


shapes = st.tuples(st.integers(1, 4), st.integers(1, 5))


@given(maps=st.lists(shapes.flatmap(lambda s: hnp.arrays(np.float32, s)), min_size=1, max_size=4))
@relaxed
def test_depth_maps_of_any_size(maps: list[np.ndarray], tmp_path: Path) -> None:
    file = tmp_path / "predictions.npz"
    save_predictions(file, iter([DepthMap(depth) for depth in maps]))
    back = load_predictions(file)
    # What is open may be deleted: the folder of a child's predictions is gone before they are read.
    file.unlink()
    assert len(back) == len(maps)
    for ours, theirs in zip([*maps, maps[-1]], [*back, back[-1]], strict=True):
        assert isinstance(theirs, DepthMap)
        assert theirs.depth.dtype == np.float32
        np.testing.assert_array_equal(ours, theirs.depth)
    assert len(back[:1]) == 1
    with pytest.raises(IndexError):
        back[len(maps)]


def test_depth_maps_are_written_one_at_a_time(tmp_path: Path) -> None:
    """A map is let go before the next but one is made."""
    alive: list[weakref.ref[np.ndarray]] = []

    def made() -> object:
        for value in range(8):
            assert sum(one() is not None for one in alive) <= 2
            depth = np.full((3, 3), value, np.float32)
            alive.append(weakref.ref(depth))
            yield DepthMap(depth)

    save_predictions(tmp_path / "predictions.npz", made())  # type: ignore[arg-type]
    assert len(load_predictions(tmp_path / "predictions.npz")) == 8
