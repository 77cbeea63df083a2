"""Classifiers and depth models of every layout give the predictions that torch gives."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from visiondyno.predictions import Classification, DepthMap
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.registry import load_model
from visiondyno.specs.model_card import InputCard, ModelCard

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

HEIGHT, WIDTH, CLASSES = 32, 48, ("car", "truck", "sign", "bus", "van")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Layout:
    """How a model is exported: `batch` None is any; `new` is torch's exporter by torch.export."""

    layout: str
    dtype: str
    batch: int | None
    opset: int
    new: bool = False


LAYOUTS = {
    "NCHW float, batch 1, opset 11": Layout("nchw", "float32", 1, 11),
    "NCHW float, any batch, opset 13": Layout("nchw", "float32", None, 13),
    "NHWC float, batch 2, opset 15": Layout("nhwc", "float32", 2, 15),
    "NHWC uint8, any batch, opset 17": Layout("nhwc", "uint8", None, 17),
    "NCHW uint8, batch 4, opset 18": Layout("nchw", "uint8", 4, 18, new=True),
    "NCHW float, any batch, opset 20": Layout("nchw", "float32", None, 20, new=True),
    "NHWC float, any batch, opset 22": Layout("nhwc", "float32", None, 22, new=True),
}


def build(kind: str, form: Layout) -> Any:
    """A small network whose input is laid out as `form` says."""
    nn = torch.nn

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sequential(
                nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.SiLU(),
                nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(),
            )  # fmt: skip
            self.classes = nn.Linear(16, len(CLASSES))
            self.depth = nn.Conv2d(16, 1, 3, padding=1)

        def forward(self, images: Any) -> Any:
            if form.layout == "nhwc":
                images = images.permute(0, 3, 1, 2)
            if form.dtype == "uint8":
                mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
                images = (images.float() / 255 - mean) / std
            found = self.first(images)
            if kind == "classification":
                return self.classes(found.mean(dim=(2, 3)))
            whole = nn.functional.interpolate(
                self.depth(found), size=(HEIGHT, WIDTH), mode="bilinear", align_corners=False
            )
            return nn.functional.softplus(whole)

    torch.manual_seed(2)
    model = Model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
    return model.eval()


def export(model: Any, form: Layout, path: Path) -> Path:
    sides = (3, HEIGHT, WIDTH) if form.layout == "nchw" else (HEIGHT, WIDTH, 3)
    example = torch.zeros(form.batch or 2, *sides, dtype=getattr(torch, form.dtype))
    options: dict[str, Any] = {"opset_version": form.opset, "input_names": ["images"]}
    options |= {"output_names": ["output"], "dynamo": form.new}
    if form.batch is None and form.new:
        options["dynamic_shapes"] = ({0: torch.export.Dim("n", min=1, max=64)},)
    elif form.batch is None:
        options["dynamic_axes"] = {"images": {0: "n"}, "output": {0: "n"}}
    if form.new:
        pytest.importorskip("onnxscript")
        options["verbose"] = False
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (example,), str(path), **options)
    return path


def card_of(kind: str, form: Layout) -> ModelCard:
    said: dict[str, Any] = {"scale": 1.0} if form.dtype == "uint8" else {"mean": MEAN, "std": STD}
    said |= {"height": HEIGHT, "width": WIDTH, "layout": form.layout, "dtype": form.dtype}
    resize = {"resize": "stretch"}
    return ModelCard.model_validate(
        {
            "task": kind,
            "head": kind,
            "classes": CLASSES if kind == "classification" else (),
            "input": InputCard.model_validate(said | resize),
            "activation": "softmax" if kind == "classification" else "none",
        }
    )


def images_of(count: int) -> list[np.ndarray]:
    random = np.random.default_rng(8)
    return [random.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8) for _ in range(count)]


@pytest.mark.parametrize("kind", ["classification", "depth"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_predictions_are_those_of_torch(name: str, kind: str, tmp_path: Path) -> None:
    form = LAYOUTS[name]
    model = build(kind, form)
    path = export(model, form, tmp_path / "m.onnx")
    opsets = {one.domain: one.version for one in onnx.load(path).opset_import}
    assert opsets[""] == form.opset
    # Three images are pieces of a fixed batch, or a padded one.
    images = images_of(3)
    with load_model(str(path), LoadOptions(card=card_of(kind, form))) as loaded:
        assert loaded.description.batch_size == form.batch
        found = loaded.predict(images)
        tensor = loaded.preprocess(images).tensor
    with torch.no_grad():
        theirs = model(torch.from_numpy(tensor))
    if kind == "classification":
        theirs = torch.softmax(theirs, dim=1)
    assert float(theirs.std()) > 1e-2, "the model must tell something apart"
    for ours, expected in zip(found, theirs.numpy(), strict=True):
        if kind == "classification":
            assert isinstance(ours, Classification)
            np.testing.assert_allclose(ours.probabilities, expected, atol=1e-4)
        else:
            assert isinstance(ours, DepthMap)
            np.testing.assert_allclose(ours.depth, expected[0], atol=1e-4)


@pytest.mark.parametrize("shape", [(1, HEIGHT, WIDTH), (HEIGHT, WIDTH), (HEIGHT, WIDTH, 1)])
def test_depth_on_images_of_any_size(shape: tuple[int, ...], tmp_path: Path) -> None:
    """Stretched and letterboxed, against torch's own interpolation of what torch's model says."""
    form = LAYOUTS["NCHW float, any batch, opset 13"]
    base = build("depth", form)

    class Reshaped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = base

        def forward(self, images: Any) -> Any:
            return self.base(images).reshape(-1, *shape)

    path = export(Reshaped().eval(), form, tmp_path / "m.onnx")
    image = np.random.default_rng(1).integers(0, 256, (50, 40, 3), dtype=np.uint8)
    for resize, left, width in (("stretch", 0, WIDTH), ("letterbox", 11, 26)):
        card = card_of("depth", form)
        fields = card.input.model_dump() | {"resize": resize}
        card = card.model_copy(update={"input": InputCard(**fields)})
        with load_model(str(path), LoadOptions(card=card)) as loaded:
            ours = loaded.predict([image])[0]
            tensor = loaded.preprocess([image]).tensor
        with torch.no_grad():
            inside = base(torch.from_numpy(tensor))[..., left : left + width]
            expected = torch.nn.functional.interpolate(
                inside, size=(50, 40), mode="bilinear", align_corners=False
            )
        assert isinstance(ours, DepthMap)
        assert ours.depth.dtype == np.float32
        np.testing.assert_allclose(ours.depth, expected[0, 0].numpy(), atol=1e-4)
