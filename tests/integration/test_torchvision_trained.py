"""torchvision's models that were trained here, and its classifiers."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")

from torch.nn.modules.module import register_module_forward_hook  # noqa: E402 - after the skip
from torchvision.models import get_model, get_model_weights  # noqa: E402
from torchvision_cases import (  # noqa: E402
    CLASSES,
    awake_detector,
    photos,
    record_of,
    trained_of,
)

from contracts.runtime_contract import assert_same  # noqa: E402
from visiondyno.errors import ModelError  # noqa: E402
from visiondyno.predictions import Classification  # noqa: E402
from visiondyno.runtimes.base import LoadOptions  # noqa: E402
from visiondyno.runtimes.pytorch.torchvision import build_trained  # noqa: E402
from visiondyno.runtimes.pytorch.torchvision_names import build  # noqa: E402
from visiondyno.runtimes.registry import load_model  # noqa: E402
from visiondyno.vision.image_level_input import image_level_input  # noqa: E402

pytestmark = pytest.mark.torch

FASTER = "fasterrcnn_mobilenet_v3_large_320_fpn"
NAN = float("nan")


def test_records_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    state = awake_detector(FASTER).state_dict()
    options = LoadOptions()
    wrong = record_of(FASTER, classes=("car", "truck"), arguments={"num_classes": 4})
    with pytest.raises(ModelError, match="built for 4 labels; its 2 classes and the background"):
        build_trained(wrong, state, options, tmp_path)
    wrong = record_of(FASTER, task="classification")
    with pytest.raises(ModelError, match="says it does classification"):
        build_trained(wrong, state, options, tmp_path)
    wrong = record_of(FASTER, arguments={"min_size": "wide"})
    with pytest.raises(ModelError, match=r"can't build fasterrcnn|stopped while running"):
        build_trained(wrong, state, options, tmp_path).predict(photos(1))
    level = {"task": "classification", "level": "image"}
    wrong = record_of("resnet18", arguments={"num_classes": 2}, **level)
    with pytest.raises(ModelError, match="built for 2 classes and names 3"):
        build_trained(wrong, state, options, tmp_path)


@pytest.mark.parametrize("argument", ["weights", "weights_backbone", "pretrained_backbone"])
def test_a_record_makes_nobody_download(argument: str, tmp_path: Path) -> None:
    record = record_of(FASTER, arguments={argument: "DEFAULT"})
    state = awake_detector(FASTER).state_dict()
    with pytest.raises(ModelError, match=f"takes no '{argument}'"):
        build_trained(record, state, LoadOptions(), tmp_path)


def test_a_record_without_sizes_takes_its_image_size(tmp_path: Path) -> None:
    record = record_of(FASTER, arguments={}, image_size=96)
    state = awake_detector(FASTER).state_dict()
    with build_trained(record, state, LoadOptions(), tmp_path) as model:
        (group,) = model.preprocess(photos(1, [(50, 100)]))
        assert group.batch.image_sizes == [(48, 96)]


def test_image_level_classifiers_answer_for_each_class_by_itself(tmp_path: Path) -> None:
    module = get_model("resnet18", num_classes=3).eval()
    torch.nn.init.constant_(module.fc.bias, 1.5)
    folder = tmp_path / "model"
    level = {"task": "classification", "level": "image", "image_size": 64}
    trained_of(folder, "resnet18", module, arguments={"num_classes": 3}, **level)
    images = photos(4)
    with load_model(str(folder)) as model:
        card = model.description.card
        found = model.predict(images)
        prepared = model.preprocess(images)
    with torch.no_grad():
        expected = torch.sigmoid(module(prepared)).numpy()
    assert (card.activation, card.classes, card.input) == (
        "sigmoid",
        CLASSES,
        image_level_input(64),
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert isinstance(ours, Classification)
        np.testing.assert_allclose(ours.probabilities, theirs, atol=1e-6)
        assert ours.probabilities.sum() > 1.5


# ---- classifiers


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "googlenet"])
def test_classifiers_have_torchvisions_probabilities(name: str) -> None:
    images = photos(5, [(230, 300), (90, 60), (400, 256)])
    preset = get_model_weights(name).DEFAULT.transforms()
    with load_model(f"torchvision:{name}@none") as model:
        ours = model.predict(images)
        classes = model.description.card.classes
    module = build(name, "classification")
    for image, mine in zip(images, ours, strict=True):
        rgb = torch.from_numpy(np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1)))
        with torch.no_grad():
            theirs = module(preset(rgb).unsqueeze(0)).squeeze(0).softmax(0).numpy()
        assert isinstance(mine, Classification)
        np.testing.assert_allclose(mine.probabilities, theirs, atol=1e-5)
    assert (len(classes), classes[1]) == (1000, "goldfish")


def test_nan_of_a_classifier_is_an_error(tmp_path: Path) -> None:
    module = get_model("resnet18", num_classes=3).eval()
    module.fc.bias.data.fill_(NAN)
    record = record_of("resnet18", task="classification", level="image", image_size=64)
    state = module.state_dict()
    with build_trained(record, state, LoadOptions(), tmp_path) as model:
        image = photos(1)
        with pytest.raises(ModelError, match="answered NaN"):
            model.predict(image)


def test_an_image_that_grows_out_of_memory_is_refused() -> None:
    line = np.zeros((1, 16384, 3), np.uint8)
    with load_model("torchvision:resnet18@none") as model:
        with pytest.raises(ModelError, match="16384x1 pixels is too narrow for this model"):
            model.predict([line])
        assert len(model.predict([line[:, :300]])) == 1


def test_threads_asked_for_are_torchs() -> None:
    image, seen = photos(1), []
    hook = register_module_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    try:
        with load_model("torchvision:resnet18@none", LoadOptions(intra_op_threads=2)) as model:
            many = model.predict(image)[0]
            assert set(seen) == {2}
        seen.clear()
        with load_model("torchvision:resnet18@none", LoadOptions(intra_op_threads=1)) as model:
            assert_same(model.predict(image)[0], many)
            assert set(seen) == {1}
    finally:
        hook.remove()
