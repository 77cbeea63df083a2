"""`predict` of images: which scores count, and how many images are in memory."""

import base64
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from visiondyno.errors import DatasetError, SpecError
from visiondyno.operations import predict
from visiondyno.operations.context import OperationContext
from visiondyno.operations.predicted import lowest_score
from visiondyno.runtimes.base import LoadOptions
from visiondyno.specs.operations import PredictInput
from visiondyno.worker import run as run_job

IMAGES = [
    cv2.imencode(".png", np.full((12, 16, 3), grey, np.uint8))[1].tobytes() for grey in (9, 99, 199)
]


def predictions(model: str = "fake:detection", **given: Any) -> list[dict[str, Any]]:
    images = [base64.b64encode(one).decode() for one in IMAGES]
    job = {"operation": "predict", "model": model, "images": images, **given}
    found: list[dict[str, Any]] = run_job(job, OperationContext())["predictions"]
    return found


def test_a_classifier_answers_its_best_classes_unless_a_score_is_asked_for() -> None:
    everything = predictions("fake:classification", confidence=0)
    assert predictions("fake:classification") == everything
    scores = everything[0]["scores"]
    assert scores[-1] < 0.25
    cut = predictions("fake:classification", confidence=scores[0] - 1e-5)
    assert cut[0]["names"] == everything[0]["names"][:1]
    assert predictions("fake:classification", confidence=1)[0]["names"] == []
    assert predictions() == predictions(confidence=0.25)
    with OperationContext().model("fake:detection", LoadOptions()) as model:
        card = model.description.card
    assert [lowest_score(asked, card) for asked in (None, 0.0)] == [0.25, 0.0]


def test_few_images_are_in_memory_and_all_are_looked_at_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = predictions()
    monkeypatch.setattr(predict, "_KEPT_BYTES", 12 * 16 * 3)  # of one image
    assert predictions() == expected
    images = predict._Images([base64.b64encode(one).decode() for one in IMAGES], OperationContext())
    assert [one is not None for one in images._kept] == [True, False, False]
    for image, before in zip(images, IMAGES, strict=True):
        assert image.tolist() == cv2.imdecode(np.frombuffer(before, np.uint8), 1).tolist()
        assert images._kept == [None] * 3
    job = {"operation": "predict", "model": "no-such.onnx"}
    with pytest.raises(DatasetError, match="image 2"):
        run_job({**job, "images": [base64.b64encode(IMAGES[0]).decode(), ""]}, OperationContext())
    with pytest.raises(SpecError, match="Image 1 is neither base64"):
        run_job({**job, "images": ["!"]}, OperationContext())


def test_files_are_predicted_one_by_one(tmp_path: Path) -> None:
    paths = [tmp_path / f"{n}.png" for n in range(5)]
    for path, image in zip(paths[1:4], IMAGES, strict=True):
        path.write_bytes(image)
    paths[4].write_bytes(IMAGES[0][:50])

    def found(*given: Path, model: str = "fake:detection") -> list[tuple[Path, dict[str, Any]]]:
        spec = PredictInput(model=model, images=("-",))
        return list(predict.predict_files(spec, given, OperationContext()))

    gone, *good, damaged = found(*paths)
    assert [answer for _, answer in good] == predictions()
    assert [path for path, _ in (gone, *good, damaged)] == paths
    assert gone[1]["error"]["message"].endswith("No such file or directory. Check the path.")
    assert damaged[1]["error"]["code"] == DatasetError.code
    # Nothing is loaded for nothing.
    assert all("error" in answer for _, answer in found(paths[0], paths[4], model="no-such.onnx"))
    with pytest.raises(DatasetError, match="No such file"):
        found(paths[0], model="no-such.onnx")
