from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")

from contracts.trainer_contract import CLASSES, Target, Told, TrainerContract, pixels, run
from trained_model_factory import trained_record
from visiondyno.errors import SpecError
from visiondyno.predictions import Classification, Predictions
from visiondyno.runtimes.registry import load_model
from visiondyno.runtimes.trained_models import write_trained
from visiondyno.training.vision.classifier import ImageLevelTrainer, positive_weights
from visiondyno.training.vision.torchvision import TorchvisionTrainer, architecture_arguments

pytestmark = pytest.mark.torch


def assert_answers_alike(told: Told, target: Target, task: str, folder: Path) -> None:
    """The folder that a training leaves answers as the trainer did at its best epoch, the first."""
    record = trained_record(
        name=target.name,
        arguments=told.trained.arguments,
        task=task,
        level=None if task == "detection" else "image",
        classes=CLASSES,
        image_size=target.image_size,
    )
    write_trained(folder, record, told.trained.state)
    with load_model(str(folder)) as model:
        answers = model.predict([pixels(1), pixels(2), pixels(5)])
    for ours, theirs in zip(answers, told.predictions[0], strict=True):
        if isinstance(ours, Classification):
            np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-4)
            continue
        assert len(ours) == len(theirs) > 0
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-4)
        np.testing.assert_allclose(ours.boxes_xyxy, theirs.boxes_xyxy, atol=0.1)
        np.testing.assert_array_equal(ours.class_ids, theirs.class_ids)


class TestTorchvisionTrainer(TrainerContract):
    @pytest.fixture(scope="class")
    @classmethod
    def target(cls) -> Target:
        return Target(
            TorchvisionTrainer(),
            "ssdlite320_mobilenet_v3_large",
            missing="ssdlite321",
            image_size=320,
        )

    def test_the_trained_folder_answers_as_the_trainer_did(
        self, target: Target, falling: Told, tmp_path: Path
    ) -> None:
        assert_answers_alike(falling, target, "detection", tmp_path / "model")

    def test_a_faster_rcnn_learns_at_any_size(
        self, target: Target, plan_in, tmp_path: Path
    ) -> None:
        name = "fasterrcnn_mobilenet_v3_large_320_fpn"
        told = run(target, replace(plan_in(tmp_path), name=name, image_size=64, epochs=1))
        self.check_prediction(told.predictions[0][1])
        assert told.trained.arguments == {
            "num_classes": 3,
            "box_score_thresh": 0.001,
            "min_size": 64,
            "max_size": 64,
        }
        metrics = told.epochs[0].train_metrics
        parts = [value for part, value in metrics.items() if part != "loss"]
        assert len(parts) == 4
        assert sum(parts) == pytest.approx(metrics["loss"], rel=1e-4)

    @pytest.mark.parametrize(
        ("name", "changed", "said"),
        [
            ("ssd300_vgg16", {}, "300 pixels only"),
            ("fcos_resnet50_fpn", {"arguments": {"centre": 1}}, "'centre'"),
            ("fcos_resnet50_fpn", {"arguments": {"box_nms_thresh": 0.4}}, "'nms_thresh'"),
        ],
    )
    def test_what_an_architecture_does_not_take_is_named(
        self, plan_in, tmp_path: Path, name, changed, said
    ) -> None:
        with pytest.raises(SpecError, match=said):
            architecture_arguments(replace(plan_in(tmp_path), name=name, **changed))

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ({"optimizer": "adam"}, "adam"),
            ({"momentum": "much"}, "momentum"),
            ({"freeze_norms": 1}, "freeze_norms"),
            ({"weight_decay": True}, "weight_decay"),
            ({"flip": 2}, "flip"),
            ({"gradient_clip_norm": 0}, "gradient_clip_norm"),
            ({"norm_layer": 5}, "ssdlite320"),
            ({"weights": "DEFAULT"}, "weights"),
        ],
    )
    def test_a_wrong_setting_is_named(
        self, target: Target, plan_in, tmp_path: Path, arguments, said
    ) -> None:
        with pytest.raises(SpecError, match=said):
            run(target, replace(plan_in(tmp_path), arguments=arguments))

    def test_begins_anew_beside_the_checkpoint_of_another_training(
        self, target: Target, plan_in, tmp_path: Path
    ) -> None:
        plan = replace(plan_in(tmp_path), epochs=1)
        run(target, plan)
        again = run(target, replace(plan, arguments={"optimizer": "sgd"}))
        assert again.trained.resumed_from_epoch == 0
        assert any("another training" in note for note in again.trained.notes)

    def test_weights_of_another_model_are_refused(
        self, target: Target, plan_in, tmp_path: Path, falling: Told
    ) -> None:
        few = dict(list(falling.trained.state.items())[:3])
        with pytest.raises(SpecError, match="another model"):
            run(target, replace(plan_in(tmp_path), initial=few))


class TestImageLevelTrainer(TrainerContract):
    @pytest.fixture(scope="class")
    @classmethod
    def target(cls) -> Target:
        return Target(ImageLevelTrainer("torchvision"), "mobilenet_v3_small", missing="mobilenet_x")

    def check_prediction(self, prediction: Predictions) -> None:
        assert isinstance(prediction, Classification)
        assert prediction.probabilities.shape == (len(CLASSES),)
        assert prediction.probabilities.dtype == np.float32
        assert np.all((prediction.probabilities >= 0) & (prediction.probabilities <= 1))

    def test_the_trained_folder_answers_as_the_trainer_did(
        self, target: Target, falling: Told, tmp_path: Path
    ) -> None:
        assert_answers_alike(falling, target, "classification", tmp_path / "model")

    def test_few_images_with_a_class_count_more(self, plan_in, tmp_path: Path) -> None:
        plan = plan_in(tmp_path)
        # Of eight images four hold a car, three a sign.
        assert positive_weights(plan).tolist() == [1.0, pytest.approx(5 / 3)]
        alike = replace(plan, images=plan.images[1:2] * 3)
        assert positive_weights(alike).tolist() == [1.0, 1.0]

    def test_tells_what_cannot_be_learned(self, target: Target, plan_in, tmp_path: Path) -> None:
        plan = plan_in(tmp_path)
        signs = [one for one in plan.images if 1 not in one.class_ids]
        told = run(target, replace(plan, images=signs, epochs=1))
        assert any("No image" in note and "'sign'" in note for note in told.trained.notes)

    def test_a_size_that_it_does_not_take_is_told_first(
        self, target: Target, plan_in, tmp_path: Path
    ) -> None:
        with pytest.raises(SpecError, match="64 pixels"):
            run(target, replace(plan_in(tmp_path), name="vit_b_32"))

    def test_an_image_that_is_left_over_joins_a_batch(
        self, target: Target, plan_in, tmp_path: Path
    ) -> None:
        plan = replace(plan_in(tmp_path), image_size=32, epochs=1)
        # At 32 pixels its last batch norms see one pixel; 7 is two threes and one.
        told = run(target, replace(plan, images=plan.images[:7], batch_size=3))
        assert np.isfinite(told.losses[1])
        with pytest.raises(SpecError, match="one image of 32 pixels"):
            run(target, replace(plan, batch_size=1))

    def test_timm_learns_alike(self, plan_in, tmp_path: Path) -> None:
        pytest.importorskip("timm")
        target = Target(ImageLevelTrainer("timm"), "test_efficientnet", missing="")
        told = run(target, replace(plan_in(tmp_path), name=target.name, epochs=1))
        self.check_prediction(told.predictions[0][0])
        assert "timm" in told.trained.versions
        assert told.trained.arguments == {"num_classes": 2}
