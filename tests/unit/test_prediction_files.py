"""Predictions survive their file exactly, those of images without any too."""

from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from visiondyno.measuring.prediction_files import load_predictions, save_predictions
from visiondyno.predictions import Classification, Detections, Predictions

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
