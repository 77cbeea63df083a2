"""Training Ultralytics' detectors (YOLOv5u, v8, 11, 26) by the library's own trainer."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from visiondyno.errors import SpecError
from visiondyno.predictions import Image, Predictions
from visiondyno.state.layer_sizes import resize
from visiondyno.training.arguments import one_line
from visiondyno.training.precision import choose_device
from visiondyno.training.vision.base import (
    Begun,
    EpochDone,
    Trained,
    TrainingPlan,
    VisionTrainer,
)
from visiondyno.training.vision.checkpoint import FolderCheckpoint
from visiondyno.training.vision.process import process_as_it_was, seed_everything
from visiondyno.training.vision.torch_epochs import begin_with
from visiondyno.training.vision.ultralytics_names import architecture
from visiondyno.training.vision.ultralytics_predict import predict, stride_of
from visiondyno.vision.ultralytics_library import import_ultralytics, quiet

DEFAULT_BATCH_SIZE = 16

# What changes how it learns. The rest is where files go, how it scores, what it prints: ours.
_TAKEN = frozenset({
    "optimizer", "lrf", "momentum", "weight_decay", "nbs", "cos_lr", "freeze", "amp",
    "warmup_epochs", "warmup_momentum", "warmup_bias_lr", "box", "cls", "cls_pw", "dfl",
    "hsv_h", "hsv_s", "hsv_v", "degrees", "translate", "scale", "shear", "perspective",
    "flipud", "fliplr", "bgr", "mosaic", "mixup", "cutmix", "close_mosaic", "multi_scale",
})  # fmt: skip


class UltralyticsTrainer(VisionTrainer):
    """Trains a detector by name; see `VisionTrainer` for the contract.

    The library's augmentation, loss, optimiser, schedule and moving average of the weights are
    used as they are; images come from our decoder, epochs are scored by the caller, and checkpoints
    are ours. Each epoch begins with generators seeded for it, so that a resumed training ends with
    the same weights. Mixed precision is off unless `arguments` say `amp: bf16`.
    """

    library = "ultralytics"

    def train(
        self,
        plan: TrainingPlan,
        on_epoch: Callable[[EpochDone], float | None],
        check: Callable[[], None],
    ) -> Trained:
        """See `VisionTrainer.train`."""
        what = f"Training {plan.name}"
        choose_device(plan.device)
        import_ultralytics(what)
        from visiondyno.training.vision.ultralytics_loop import training_class

        checkpoint = FolderCheckpoint(plan.folder)
        with process_as_it_was(plan.threads), quiet():
            model, notes = _fresh_model(plan)
            settings = _settings(plan, _batch_size(plan, stride_of(model)))
            resumed = checkpoint.take_up()
            began_after = 0 if resumed is None else int(resumed.values["epoch"])
            if began_after < plan.epochs:
                training = _made(training_class(), settings)
                training.prepare(plan, model, checkpoint, resumed, on_epoch, check)
                training.train()
        return Trained(
            state=checkpoint.best,
            arguments={"nc": len(plan.classes)},
            resumed_from_epoch=began_after,
            versions=_versions(),
            notes=(*notes, *checkpoint.notes),
        )

    @contextmanager
    def begun(self, plan: TrainingPlan, check: Callable[[], None]) -> Iterator[Begun]:
        """See `VisionTrainer.begun`."""
        device = choose_device(plan.device)
        import_ultralytics(f"Training {plan.name}")
        with process_as_it_was(plan.threads), quiet():
            model, notes = _fresh_model(plan)
            if plan.images:
                _batch_size(plan, stride_of(model))
            model.to(device).eval()

            def found(images: Sequence[Image]) -> list[Predictions]:
                return predict(model, images, plan.classes, plan.image_size, check)

            arguments = {"nc": len(plan.classes)}
            yield Begun(model, arguments, _versions(), tuple(notes), found)


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("ultralytics", "torch", "torchvision")}


def _batch_size(plan: TrainingPlan, stride: int) -> int:
    """Of a plan that can be trained, for a model whose images have multiples of `stride`.

    Raises:
        SpecError: a setting isn't taken, or the image size isn't possible.
    """
    if plan.image_size % stride:
        below = max(plan.image_size // stride, 1) * stride
        raise SpecError(
            f"Images of {plan.name} have sides that are multiples of {stride}, and image_size is "
            f"{plan.image_size}; take {below} or {below + stride}."
        )
    unknown = sorted(plan.arguments.keys() - _TAKEN)
    if unknown:
        raise SpecError(
            f"'arguments.{unknown[0]}' isn't a setting of Ultralytics that a training takes; those "
            f"are {', '.join(sorted(_TAKEN))}."
        )
    if plan.arguments.get("amp") not in (None, False, "fp32", "bf16"):
        raise SpecError(
            "'arguments.amp' is 'bf16' or false; fp16 needs weights to check itself by."
        )
    batch_size = min(plan.batch_size or DEFAULT_BATCH_SIZE, len(plan.images))
    if plan.image_size < 2 * stride and len(plan.images) % batch_size == 1:
        raise SpecError(
            f"{len(plan.images)} images in batches of {batch_size} leave one by itself, too little "
            f"at {plan.image_size} pixels; take another 'batch_size', or larger images."
        )
    return batch_size


def _settings(plan: TrainingPlan, batch_size: int) -> dict[str, Any]:
    """The library's settings of a plan and of its checked batch size."""
    given = dict(plan.arguments)
    if plan.learning_rate is not None:
        # With its own choice of optimiser the library ignores the rate; this is what it chooses for
        # short trainings, and how it then warms up.
        given = {"optimizer": "AdamW", "warmup_bias_lr": 0.0, **given, "lr0": plan.learning_rate}
    return {
        "amp": False,
        **given,
        "task": "detect",
        "mode": "train",
        "model": f"{plan.name}.yaml",
        "epochs": plan.epochs,
        "batch": batch_size,
        "imgsz": plan.image_size,
        "device": plan.device,
        "seed": plan.seed % 2**31,
        "save_dir": str(plan.folder / "library"),
        "cache": "ram",  # see ultralytics_images: it means another way to choose, and keeps nothing
        "workers": 0,
        "patience": 0,
        "val": True,
        "save": False,
        "plots": False,
        "verbose": False,
        "pretrained": False,
        "deterministic": True,
    }


def _made(kind: type[Any], settings: dict[str, Any]) -> Any:
    try:
        return kind(overrides=settings)
    except (ValueError, TypeError, SyntaxError) as error:
        raise SpecError(f"Ultralytics refuses a setting: {one_line(error)}") from error


def _fresh_model(plan: TrainingPlan) -> tuple[Any, list[str]]:
    """The detector with weights of the seed, or with those that the plan begins with."""
    from ultralytics.nn.tasks import DetectionModel

    layers = architecture(plan.name)
    seed_everything(plan.seed, 0)
    model = DetectionModel(layers, ch=3, nc=len(plan.classes), verbose=False)
    if getattr(model.model[-1], "one2one_cv2", None) is not None:
        model.end2end = True  # YOLOv10 says so only once it is fused, as it runs later
    resize(model, plan.layers, plan.name)
    return model, begin_with(model, plan.initial, plan.name)
