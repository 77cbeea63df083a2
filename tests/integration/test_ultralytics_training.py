"""Training Ultralytics' detectors keeps the contract of trainers."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from contracts.trainer_contract import (
    CLASSES,
    RISING,
    Stop,
    Target,
    TrainerContract,
    labelled_images,
    pixels,
    run,
    same_state,
)
from trained_model_factory import trained_record
from visiondyno.errors import SpecError
from visiondyno.predictions import Detections
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.pytorch.trained import TrainedRuntime
from visiondyno.runtimes.trained_models import write_trained
from visiondyno.training.vision.base import TrainingPlan
from visiondyno.training.vision.ultralytics import UltralyticsTrainer
from visiondyno.training.vision.ultralytics_names import architecture
from visiondyno.training.vision.ultralytics_predict import predict

pytest.importorskip("ultralytics")

pytestmark = pytest.mark.torch


class TestUltralyticsTrainer(TrainerContract):
    @pytest.fixture(scope="class")
    @classmethod
    def target(cls) -> Target:
        return Target(
            UltralyticsTrainer(),
            name="yolov8n",
            missing="yolov8q",
            batch_size=3,
            # A step every two of three batches: gradients wait across the end of an epoch.
            arguments={"nbs": 6, "warmup_epochs": 0.4, "optimizer": "SGD"},
            diverging={"arguments": {"box": 1e39}},
        )

    def test_the_trained_models_runtime_finds_what_its_epoch_found(
        self,
        target: Target,
        plan_in: Callable[[Path], TrainingPlan],
        tmp_path: Path,
    ) -> None:
        (tmp_path / "own").mkdir()
        rising = run(target, plan_in(tmp_path / "own"), RISING)
        record = trained_record(
            family="ultralytics",
            name=target.name,
            arguments=rising.trained.arguments,
            task="detection",
            classes=CLASSES,
            image_size=target.image_size,
        )
        write_trained(tmp_path / "model", record, rising.trained.state)
        model = TrainedRuntime().load(str(tmp_path / "model"), LoadOptions())
        found = model.predict([pixels(1), pixels(2), pixels(5)])
        model.close()
        for trained, loaded in zip(rising.predictions[-1], found, strict=True):
            assert isinstance(trained, Detections)
            assert isinstance(loaded, Detections)
            assert len(trained) == len(loaded) > 0
            # The runtime fuses normalisations into convolutions.
            np.testing.assert_allclose(loaded.scores, trained.scores, atol=1e-5)
            np.testing.assert_array_equal(loaded.class_ids[:5], trained.class_ids[:5])
            np.testing.assert_allclose(loaded.boxes_xyxy[:5], trained.boxes_xyxy[:5], atol=0.05)


def test_an_end_to_end_detector_resumes_with_the_weights_of_its_losses(tmp_path: Path) -> None:
    def plan(name: str) -> TrainingPlan:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return TrainingPlan(
            name="yolo26n",
            classes=CLASSES,
            images=images,
            image_size=64,
            epochs=3,
            batch_size=4,
            learning_rate=None,
            seed=1,
            device="cpu",
            threads=1,
            initial=None,
            folder=folder,
            arguments={"nbs": 4},
        )

    images = labelled_images(tmp_path)
    target = Target(UltralyticsTrainer(), name="yolo26n", missing="")
    whole = run(target, plan("whole"))
    with pytest.raises(Stop):
        run(target, plan("cut"), stop_at_epoch=2)
    resumed = run(target, plan("cut"))
    assert resumed.numbers == [2, 3]
    assert resumed.losses == {number: whole.losses[number] for number in (2, 3)}
    assert same_state(resumed.trained, whole.trained)


def test_a_detector_with_a_coarser_level_pads_to_its_own_stride(tmp_path: Path) -> None:
    from ultralytics.nn.tasks import DetectionModel

    target = Target(UltralyticsTrainer(), name="yolov8n-p6", missing="")
    plan = TrainingPlan(
        name=target.name,
        classes=CLASSES,
        images=labelled_images(tmp_path),
        image_size=96,
        epochs=1,
        batch_size=4,
        learning_rate=None,
        seed=1,
        device="cpu",
        threads=1,
        initial=None,
        folder=tmp_path,
    )
    with pytest.raises(SpecError, match="multiples of 64, and image_size is 96; take 64 or 128"):
        run(target, plan)
    model = DetectionModel(architecture(target.name), ch=3, nc=2, verbose=False).eval()
    # 128 × 85 pixels: to 128 × 96 by a stride of 32.
    (found,) = predict(model, [np.zeros((80, 120, 3), np.uint8)], CLASSES, 128, lambda: None)
    assert isinstance(found, Detections)
