"""Training Ultralytics' detectors keeps the contract of trainers."""

import pytest

from contracts.trainer_contract import Target, TrainerContract

pytest.importorskip("ultralytics")

from visiondyno.training.vision.ultralytics import UltralyticsTrainer

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
