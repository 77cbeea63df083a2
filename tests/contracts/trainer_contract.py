"""What every trainer of vision models must do: subclass `TrainerContract` and give it a `target`.

The trainings are tiny: eight images, three epochs. They show that promises are kept, not that
anything is learned.
"""

import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from visiondyno.errors import Cancelled, Diverged, SpecError
from visiondyno.predictions import Detections, Image, Predictions
from visiondyno.training.vision.base import (
    EpochDone,
    LabelledImage,
    Trained,
    TrainingPlan,
    VisionTrainer,
)

torch = pytest.importorskip("torch")

CLASSES = ("car", "sign")
EPOCHS = 3
FALLING = (0.9, 0.5, 0.1)
RISING = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class Target:
    """What a contract suite runs against.

    Attributes:
        name: of a small architecture.
        arguments: of its library, such as make it smaller still.
        missing: a name of no architecture.
        diverging: changes of the plan by which the loss is soon not finite.
    """

    trainer: VisionTrainer
    name: str
    missing: str
    image_size: int = 64
    batch_size: int = 4
    arguments: Mapping[str, Any] = field(default_factory=dict)
    diverging: Mapping[str, Any] = field(default_factory=lambda: {"learning_rate": 1e30})


@dataclass
class Told:
    """What a training told, and what it came to."""

    epochs: list[EpochDone] = field(default_factory=list)
    predictions: list[list[Predictions]] = field(default_factory=list)
    result: Trained | None = None

    @property
    def numbers(self) -> list[int]:
        return [done.epoch for done in self.epochs]

    @property
    def losses(self) -> dict[int, float]:
        return {done.epoch: done.train_metrics["loss"] for done in self.epochs}

    @property
    def trained(self) -> Trained:
        assert self.result is not None
        return self.result


class Stop(Exception):
    """Stops a training from outside."""


def pixels(number: int) -> Image:
    generator = np.random.default_rng(number)
    image = generator.integers(60, 120, (80, 96, 3)).astype(np.uint8)
    if number:
        left, top = int(generator.integers(0, 50)), int(generator.integers(0, 40))
        image[top : top + 36, left : left + 42] = (250, 30, 30) if number % 2 else (30, 250, 30)
    return image


def labelled_images(folder: Path, count: int = 8) -> tuple[LabelledImage, ...]:
    """Images of one block each, of class 0 or 1; the first shows nothing."""
    made = []
    for number in range(count):
        path = folder / f"image{number}.png"
        image = pixels(number)
        cv2.imwrite(str(path), image)
        mask = (image.max(axis=2) == 250).astype(np.uint8)
        ys, xs = np.nonzero(mask)
        box = [[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]] if number else []
        made.append(
            LabelledImage(
                path,
                96,
                80,
                np.array(box, np.float64).reshape(-1, 4),
                np.array([1 - number % 2] * len(box), np.int64),
            )
        )
    return tuple(made)


def run(
    target: Target,
    plan: TrainingPlan,
    scores: Sequence[float | None] = FALLING,
    stop_at_epoch: int = 0,
    check: Callable[[], None] = lambda: None,
) -> Told:
    """Train, give each epoch its score, and stop from within the callback if asked to."""
    told = Told()

    def on_epoch(done: EpochDone) -> float | None:
        told.epochs.append(done)
        told.predictions.append(done.predict([pixels(1), pixels(2), pixels(5)]))
        if done.epoch == stop_at_epoch:
            raise Stop
        return scores[done.epoch - 1]

    told.result = target.trainer.train(plan, on_epoch, check)
    return told


def files_below(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def global_settings() -> dict[str, Any]:
    """What of the process a training could leave changed."""
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": repr(np.random.get_state()),  # noqa: NPY002 - libraries use the global one
        "random": random.getstate(),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn": (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark),
        "grad": torch.is_grad_enabled(),
        "save": torch.save,
        "opencv": cv2.getNumThreads(),
        "environment": dict(os.environ),
        "printing": np.get_printoptions(),
        "folder": Path.cwd(),
    }


def same_state(left: Trained, right: Trained) -> bool:
    return left.state.keys() == right.state.keys() and all(
        torch.equal(tensor, right.state[name]) for name, tensor in left.state.items()
    )


class TrainerContract:
    @pytest.fixture(scope="class")
    @classmethod
    def target(cls) -> Target:
        raise NotImplementedError("a subclass gives the fixture `target`")

    @pytest.fixture(scope="class")
    @classmethod
    def images(cls, tmp_path_factory: pytest.TempPathFactory) -> tuple[LabelledImage, ...]:
        return labelled_images(tmp_path_factory.mktemp("images"))

    @pytest.fixture(scope="class")
    @classmethod
    def plan_in(
        cls, target: Target, images: tuple[LabelledImage, ...]
    ) -> Callable[[Path], TrainingPlan]:
        def plan(folder: Path) -> TrainingPlan:
            return TrainingPlan(
                name=target.name,
                classes=CLASSES,
                images=images,
                image_size=target.image_size,
                epochs=EPOCHS,
                batch_size=target.batch_size,
                learning_rate=None,
                seed=3,
                device="cpu",
                threads=1,
                initial=None,
                folder=folder,
                arguments=target.arguments,
            )

        return plan

    @pytest.fixture(scope="class")
    @classmethod
    def falling(
        cls,
        target: Target,
        plan_in: Callable[[Path], TrainingPlan],
        tmp_path_factory: pytest.TempPathFactory,
    ) -> Told:
        """A whole training whose first epoch is the best."""
        return run(target, plan_in(tmp_path_factory.mktemp("falling")), FALLING)

    def check_prediction(self, prediction: Predictions) -> None:
        """What `EpochDone.predict` promises of a detector; other tasks override it."""
        assert isinstance(prediction, Detections)
        assert np.all(prediction.scores[:-1] >= prediction.scores[1:])
        assert np.all(prediction.scores >= 0.001)
        assert np.all(np.isin(prediction.class_ids, range(len(CLASSES))))
        assert np.all(prediction.boxes_xyxy >= 0)
        assert np.all(prediction.boxes_xyxy[:, [0, 2]] <= 96)
        assert np.all(prediction.boxes_xyxy[:, [1, 3]] <= 80)

    def test_each_epoch_is_told_once_with_its_loss(self, falling: Told) -> None:
        assert falling.numbers == [1, 2, 3]
        assert all(np.isfinite(loss) for loss in falling.losses.values())
        assert falling.trained.resumed_from_epoch == 0
        assert falling.trained.versions

    def test_predicts_at_each_epoch(self, falling: Told) -> None:
        for predictions in falling.predictions:
            assert len(predictions) == 3
            for prediction in predictions:
                self.check_prediction(prediction)

    def test_the_best_epochs_weights_come_back_on_the_processor(
        self,
        target: Target,
        plan_in: Callable[[Path], TrainingPlan],
        falling: Told,
        tmp_path: Path,
    ) -> None:
        rising = run(target, plan_in(tmp_path), RISING)
        # The same training, bit for bit, but another of its epochs.
        assert rising.losses == falling.losses
        assert rising.trained.state.keys() == falling.trained.state.keys()
        assert not same_state(rising.trained, falling.trained)
        for tensor in rising.trained.state.values():
            assert tensor.device.type == "cpu"
            assert not tensor.requires_grad
            assert bool(torch.isfinite(tensor).all())

    def test_a_stopped_training_goes_on_to_the_same_result(
        self,
        target: Target,
        plan_in: Callable[[Path], TrainingPlan],
        falling: Told,
        tmp_path: Path,
    ) -> None:
        with pytest.raises(Stop):
            run(target, plan_in(tmp_path), FALLING, stop_at_epoch=2)
        resumed = run(target, plan_in(tmp_path), FALLING)
        began_after = resumed.trained.resumed_from_epoch
        assert began_after >= 1
        assert resumed.numbers == list(range(began_after + 1, EPOCHS + 1))
        if not resumed.trained.notes:
            assert resumed.losses == {n: falling.losses[n] for n in resumed.numbers}
            # The best epoch was before the stop.
            assert same_state(resumed.trained, falling.trained)

    def test_check_stops_between_batches(
        self,
        target: Target,
        plan_in: Callable[[Path], TrainingPlan],
        tmp_path: Path,
        falling: Told,
    ) -> None:
        calls = 0

        def check() -> None:
            nonlocal calls
            calls += 1
            if calls == 5:
                raise Cancelled("The job was cancelled.")

        with pytest.raises(Cancelled):
            run(target, plan_in(tmp_path), check=check)
        # Two batches an epoch: before the end of the third.
        again = run(target, plan_in(tmp_path))
        assert again.numbers[-1] == EPOCHS
        assert same_state(again.trained, falling.trained) or again.trained.notes

    def test_leaves_process_and_images_as_they_were(
        self,
        target: Target,
        plan_in: Callable[[Path], TrainingPlan],
        images: tuple[LabelledImage, ...],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
        falling: Told,
    ) -> None:
        elsewhere, home, folder = (tmp_path / name for name in ("cwd", "home", "own"))
        for path in (elsewhere, home, folder):
            path.mkdir()
        monkeypatch.chdir(elsewhere)
        monkeypatch.setenv("HOME", str(home))
        before, images_before = global_settings(), files_below(images[0].path.parent)
        run(target, replace(plan_in(folder), epochs=1))
        after = global_settings()
        assert {name: after[name] == value for name, value in before.items()} == dict.fromkeys(
            before, True
        )
        assert files_below(images[0].path.parent) == images_before
        assert files_below(elsewhere) == {}
        assert files_below(home) == {}
        assert files_below(folder)
        assert capfd.readouterr() == ("", "")

    def test_begins_with_given_weights(
        self,
        target: Target,
        plan_in: Callable[[Path], TrainingPlan],
        falling: Told,
        tmp_path: Path,
    ) -> None:
        given = replace(plan_in(tmp_path / "same"), epochs=1, initial=falling.trained.state)
        given.folder.mkdir()
        going_on = run(target, given)
        assert going_on.losses[1] != falling.losses[1]
        other = replace(given, classes=("car", "sign", "truck"), folder=tmp_path / "other")
        other.folder.mkdir()
        fitted = run(target, other)
        assert fitted.trained.notes, "what doesn't fit must be told"

    def test_shows_its_network_before_the_first_step(
        self,
        target: Target,
        plan_in: Callable[[Path], TrainingPlan],
        falling: Told,
        tmp_path: Path,
    ) -> None:
        plan = replace(plan_in(tmp_path), initial=falling.trained.state)
        before = global_settings()
        image = np.full((80, 96, 3), 90, np.uint8)
        with target.trainer.begun(plan, lambda: None) as begun:
            assert not begun.module.training
            assert begun.arguments == falling.trained.arguments
            assert begun.versions == falling.trained.versions
            state = begun.module.state_dict()
            assert all(
                torch.equal(state[name], tensor) for name, tensor in falling.trained.state.items()
            )
            (prediction,) = begun.predict([image])
            self.check_prediction(prediction)
        assert global_settings() == before
        assert list(tmp_path.iterdir()) == []

    def test_a_loss_that_is_not_finite_ends_it(
        self, target: Target, plan_in: Callable[[Path], TrainingPlan], tmp_path: Path
    ) -> None:
        with pytest.raises(Diverged, match="epoch"):
            run(target, replace(plan_in(tmp_path), **target.diverging))

    def test_no_such_architecture(
        self, target: Target, plan_in: Callable[[Path], TrainingPlan], tmp_path: Path
    ) -> None:
        with pytest.raises(SpecError, match=target.missing):
            run(target, replace(plan_in(tmp_path), name=target.missing))

    def test_no_such_argument(
        self, target: Target, plan_in: Callable[[Path], TrainingPlan], tmp_path: Path
    ) -> None:
        with pytest.raises(SpecError, match="no_such_setting"):
            run(target, replace(plan_in(tmp_path), arguments={"no_such_setting": 1}))
