"""torchvision's models in our three steps answer what torchvision's own `model(images)` does."""

import hashlib
import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")

from torchvision.models import get_model, get_model_weights  # noqa: E402
from torchvision_cases import (  # noqa: E402
    SMALL,
    as_torch,
    awake_detector,
    photos,
    record_of,
    trained_of,
)

from contracts.runtime_contract import RuntimeContract, Target  # noqa: E402
from file_server import FileServer, Served  # noqa: E402
from visiondyno.errors import ModelError, Unavailable  # noqa: E402
from visiondyno.predictions import Detections  # noqa: E402
from visiondyno.runtimes.base import LoadedModel, LoadOptions  # noqa: E402
from visiondyno.runtimes.pytorch.torchvision import (  # noqa: E402
    TorchvisionRuntime,
    build_trained,
)
from visiondyno.runtimes.pytorch.torchvision_names import build  # noqa: E402
from visiondyno.runtimes.pytorch.trained import TrainedRuntime  # noqa: E402
from visiondyno.runtimes.registry import fetch_weights, load_model  # noqa: E402
from visiondyno.specs.model_card import DetectionCard  # noqa: E402
from visiondyno.vision.image_level_input import image_level_input  # noqa: E402

pytestmark = pytest.mark.torch

FASTER = "fasterrcnn_mobilenet_v3_large_320_fpn"
SSDLITE = "ssdlite320_mobilenet_v3_large"
RETINANET = "retinanet_resnet50_fpn"
FCOS = "fcos_resnet50_fpn"
NAN = float("nan")


# ---- weights by the names of torchvision's enums, published by a server on this machine


def published(name: str, module: Any, server: FileServer, patch: pytest.MonkeyPatch) -> None:
    """Serve `module`'s weights as those of `name`, under a name as torchvision's files have."""
    stream = io.BytesIO()
    torch.save(module.state_dict(), stream)
    digits = hashlib.sha256(stream.getvalue()).hexdigest()[:8]
    file = f"{name}-{digits}.pth"
    server.files[file] = Served(stream.getvalue())
    patch.setattr(get_model_weights(name).DEFAULT.value, "url", server.url + file)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder with weights that were fetched by the runtime."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch, FileServer() as server:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        for name in (FASTER, SSDLITE):
            # They will run at their own sizes, which the weights don't hold.
            published(name, awake_detector(name, num_classes=91), server, patch)
        for name in (FASTER, SSDLITE):
            fetch_weights(f"torchvision:{name}")
        yield folder


class TestTorchvisionRuntime(RuntimeContract):
    @pytest.fixture
    def target(self, cache: Path) -> Target:
        references = (f"torchvision:{SSDLITE}@coco_v1", "torchvision:efficientnet_b0@none")
        return Target(TorchvisionRuntime(), references, "torchvision:no_such_network")


@pytest.fixture(scope="module")
def trained_folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    folders = [tmp_path_factory.mktemp("trained") / name for name in (FASTER, RETINANET, FCOS)]
    for folder in folders:
        trained_of(folder, folder.name, awake_detector(folder.name))
    return tuple(map(str, folders))


class TestTrainedTorchvisionDetectors(RuntimeContract):
    @pytest.fixture
    def target(self, trained_folders: tuple[str, ...]) -> Target:
        return Target(TrainedRuntime(), trained_folders, "no-such-folder")


def test_weights_by_name_are_described(cache: Path) -> None:
    with load_model(f"torchvision:{FASTER}") as model:
        said = model.description
    (path,) = model.files
    assert path.parent.parent.parent == cache
    assert said.runtime == f"torchvision {torchvision.__version__}, torch {torch.__version__}"
    assert said.digest == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    assert said.file_bytes == path.stat().st_size
    assert (said.precision, said.provider, said.device) == ("fp32", "torch cpu", "cpu")
    assert said.card.detection is not None
    assert said.card.detection.confidence == 0.05
    assert (said.card.head, said.card.input.height) == ("native", 640)
    assert len(said.card.classes) == 80
    assert any("region proposals" in note for note in said.notes)


def test_weights_that_are_not_here_name_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    reference = "torchvision:resnet50@IMAGENET1K_V2"
    with pytest.raises(ModelError, match=f"dyno models pull {reference}"):
        load_model(reference)
    monkeypatch.setenv("VISIONDYNO_OFFLINE", "1")
    with pytest.raises(Unavailable, match="offline"):
        fetch_weights(reference)
    fetch_weights("torchvision:resnet50@none")
    assert not list(tmp_path.rglob("*.pth"))


class RunsCode:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("was-run"),)


@pytest.mark.parametrize(
    "content", [b"no archive", pickle.dumps(RunsCode()), pickle.dumps([1, 2])], ids=range(3)
)
def test_files_that_are_no_weights_are_refused(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    digits = hashlib.sha256(content).hexdigest()[:8]
    weights = get_model_weights("resnet18").DEFAULT
    monkeypatch.setattr(weights.value, "url", f"http://127.0.0.1:9/resnet18-{digits}.pth")
    path = tmp_path / "visiondyno" / "weights" / f"resnet18-{digits}.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"can't be read|aren't a state dict"):
        load_model("torchvision:resnet18")
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("torchvision:resnet5", "no model 'resnet5'.*did you mean resnet50"),
        ("torchvision:qqqq", "no model 'qqqq'.*list of models"),
        ("torchvision:resnet50@V9", "no weights 'V9' of resnet50.*IMAGENET1K_V2, DEFAULT, none"),
        ("torchvision:resnet50@", "no weights ''"),
        ("torchvision:fcn_resnet50", "semantic segmentation"),
        ("torchvision:maskrcnn_resnet50_fpn@none", "instance segmentation"),
        ("torchvision:keypointrcnn_resnet50_fpn", "keypoint detection"),
        ("torchvision:quantized_resnet18", "int8"),
        ("torchvision:r3d_18", "videos"),
        ("torchvision:raft_small", "optical flow"),
    ],
)
def test_what_cannot_be_run_is_named(reference: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        TorchvisionRuntime().load(reference, LoadOptions())


def test_random_weights_are_said_loudly_and_always_the_same() -> None:
    before = torch.random.get_rng_state()
    with (
        load_model("torchvision:resnet18@none") as one,
        load_model("torchvision:ResNet18@NONE") as other,
    ):
        assert one.description.digest == other.description.digest
        assert "Random weights (seed 0)" in one.description.notes[0]
        assert one.description.parameters == 11_689_512
    assert torch.equal(before, torch.random.get_rng_state())


def test_weights_come_into_what_the_builder_makes_for_them() -> None:
    """This builder freezes its norms and sets their epsilon, only because it is given weights."""
    weights = get_model_weights("fasterrcnn_resnet50_fpn").COCO_V1
    state = build("fasterrcnn_resnet50_fpn", "detection").state_dict()
    module = build("fasterrcnn_resnet50_fpn", "detection", weights, state)
    norms = [one for one in module.modules() if "BatchNorm" in type(one).__name__]
    assert {type(one).__name__ for one in norms} == {"FrozenBatchNorm2d"}
    assert {one.eps for one in norms} == {0.0}
    assert "get_state_dict" not in vars(weights)


def test_weights_of_another_architecture_are_refused() -> None:
    state = build("resnet18", "classification").state_dict()
    with pytest.raises(ModelError, match=r"can't build efficientnet_b0: .*Missing key"):
        build("efficientnet_b0", "classification", state=state)


# ---- the same boxes


def loaded(name: str, module: Any, folder: Path, **options: Any) -> LoadedModel:
    return build_trained(record_of(name), module.state_dict(), LoadOptions(**options), folder)


def rows_of(found: Any) -> np.ndarray:
    """x1 y1 x2 y2 score class of torchvision's answer; the background isn't a class."""
    parts = [found["boxes"], found["scores"][:, None], found["labels"][:, None].float() - 1]
    rows: np.ndarray = torch.cat(parts, dim=1).numpy()
    return rows[rows[:, 5] >= 0]


def unmatched(ours: Any, theirs: np.ndarray) -> int:
    """How many of either have no partner: the same class, 0.5 px and 1e-3 of the score."""
    assert isinstance(ours, Detections)
    free = np.ones(len(ours), bool)
    missing = 0
    for row in theirs:
        fits = (
            free
            & (ours.class_ids == row[5])
            & (np.abs(ours.scores - row[4]) <= 1e-3)
            & (np.abs(ours.boxes_xyxy - row[:4]).max(axis=1, initial=0) <= 0.5)
        )
        if fits.any():
            free[np.flatnonzero(fits)[0]] = False
        else:
            missing += 1
    return missing + int(free.sum())


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if "vgg" in name else []) for name in SMALL],
)
def test_twenty_images_have_the_boxes_of_torchvision(name: str, tmp_path: Path) -> None:
    module = awake_detector(name)
    images = photos(20)
    with torch.no_grad():
        theirs = [rows_of(module([as_torch(image)])[0]) for image in images]
    with loaded(name, module, tmp_path) as model:
        ours = [model.predict([image])[0] for image in images]
        # torchvision's own batch would pad all to its largest image, and answer otherwise.
        # Four suffice for the slowest, whose images all have one size.
        in_company = model.predict(images[:4] if "vgg" in name else images)
    boxes = sum(map(len, theirs))
    assert boxes >= 50
    assert [unmatched(a, b) for a, b in zip(ours, theirs, strict=True)] == [0] * 20
    # Sums in another order move boxes by a millionth, and one at the very IoU of the cut across it.
    wrong = sum(unmatched(a, b) for a, b in zip(in_company, theirs, strict=False))
    assert wrong <= boxes // 100


def test_a_batch_of_one_size_has_the_boxes_of_torchvisions_batch(tmp_path: Path) -> None:
    module = awake_detector(FASTER)
    images = photos(6, [(96, 128)])
    with torch.no_grad():
        theirs = [rows_of(one) for one in module([as_torch(image) for image in images])]
    with loaded(FASTER, module, tmp_path) as model:
        ours = model.predict(images)
        assert len(model.preprocess(images)) == 1
    assert sum(map(len, theirs)) >= 50
    assert [unmatched(a, b) for a, b in zip(ours, theirs, strict=True)] == [0] * 6


@pytest.mark.parametrize(
    ("name", "confidence", "iou"), [(FASTER, 0.25, 0.3), (RETINANET, 0.02, 0.3)]
)
def test_thresholds_asked_for_are_torchvisions_own(
    name: str, confidence: float, iou: float, tmp_path: Path
) -> None:
    """Lower than the model's, too: boxes are chosen after the network, by the thresholds asked."""
    module = awake_detector(name)
    image = photos(1)
    with loaded(name, module, tmp_path) as model:
        usual = model.predict(image)[0]
        prepared = model.preprocess(image)
        outputs = model.infer(prepared)
        asked = model.postprocess(outputs, prepared, confidence=confidence, iou=iou)[0]
    chooser = getattr(module, "roi_heads", module)
    chooser.score_thresh, chooser.nms_thresh = confidence, iou
    with torch.no_grad():
        theirs = rows_of(module([as_torch(image[0])])[0])
    assert isinstance(usual, Detections)
    assert 0 < len(theirs) != len(usual)
    assert unmatched(asked, theirs) == 0


def test_thresholds_of_a_given_card_are_used(tmp_path: Path) -> None:
    module = awake_detector(RETINANET)
    with loaded(RETINANET, module, tmp_path) as model:
        card = model.description.card
    assert card.detection is not None
    wanted = {"confidence": 0.02, "nms_iou": 0.4, "max_detections": 40, "max_candidates": 50}
    changed = card.model_copy(update={"detection": DetectionCard(**wanted)})
    image = photos(1)
    with loaded(RETINANET, module, tmp_path, card=changed) as model:
        ours = model.predict(image)[0]
        assert model.description.card_source["detection"] == "given"
    module.score_thresh, module.nms_thresh = 0.02, 0.4
    module.detections_per_img, module.topk_candidates = 40, 50
    with torch.no_grad():
        theirs = rows_of(module([as_torch(image[0])])[0])
    assert isinstance(ours, Detections)
    assert len(theirs) > 0
    assert unmatched(ours, theirs) == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": "classification"}, "sets 'task'"),
        ({"input": image_level_input(64)}, "sets 'input'"),
        ({"classes": ("one",)}, "names 1 classes, and the model has 3"),
        ({"detection": DetectionCard(nms_iou=None)}, "'detection.nms_iou' to None"),
        ({"detection": DetectionCard(max_candidates=7)}, "'detection.max_candidates' to 7"),
        ({"detection": DetectionCard(several_classes_a_box=False)}, "several_classes_a_box"),
    ],
    ids=range(6),
)
def test_a_card_cannot_ask_for_what_torchvision_does_not_do(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    module = awake_detector(FASTER)
    with loaded(FASTER, module, tmp_path) as model:
        card = model.description.card.model_copy(update=changes)
    with pytest.raises(ModelError, match=said):
        loaded(FASTER, module, tmp_path, card=card)


def test_labels_of_coco_that_name_nothing_are_no_boxes(cache: Path) -> None:
    image = photos(1, [(200, 160)])
    module = get_model(SSDLITE, weights=None, weights_backbone=None).eval()
    with load_model(f"torchvision:{SSDLITE}") as model:
        ours = model.predict(image)[0]
        classes = model.description.card.classes
        state = torch.load(model.files[0], weights_only=True)
    assert (classes[0], classes[11], classes[79]) == ("person", "stop sign", "toothbrush")
    module.load_state_dict(state)
    with torch.no_grad():
        found = module([as_torch(image[0])])[0]
    categories = get_model_weights(SSDLITE).COCO_V1.meta["categories"]
    theirs = [categories[label] for label in found["labels"].tolist()]
    assert "N/A" in theirs, "the model must find something that is nothing"
    assert isinstance(ours, Detections)
    assert [classes[one] for one in ours.class_ids] == [one for one in theirs if one != "N/A"]


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        (FASTER, "backbone.body.0.0.weight"),
        (FASTER, "roi_heads.box_predictor.cls_score.bias"),
        (RETINANET, "head.regression_head.bbox_reg.bias"),
    ],
)
def test_nan_of_a_detector_is_an_error(name: str, layer: str, tmp_path: Path) -> None:
    """torchvision drops boxes of NaN: a network that is nothing but NaN would find nothing."""
    module = awake_detector(name)
    module.state_dict()[layer].fill_(NAN)
    image = photos(1)
    with loaded(name, module, tmp_path) as model, pytest.raises(ModelError, match="answered NaN"):
        model.predict(image)
