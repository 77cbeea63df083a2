"""Which of Ultralytics' detectors a name means."""

import pytest

from visiondyno.errors import SpecError
from visiondyno.training.vision.choosing import choose_trainer, is_detector
from visiondyno.training.vision.ultralytics_names import architecture, plain_name

pytest.importorskip("ultralytics")
pytestmark = pytest.mark.torch


@pytest.mark.parametrize(
    ("name", "scale", "head"),
    [
        ("yolov5nu", "n", "Detect"),
        ("yolov5n6u", "n", "Detect"),
        ("yolov8s.yaml", "s", "Detect"),
        ("yolov8n-p2", "n", "Detect"),
        ("yolov9t", None, "Detect"),
        ("yolov10n", "n", "v10Detect"),
        ("yolo11x", "x", "Detect"),
        ("yolo26n", "n", "Detect"),
        ("yolov3-tiny", None, "Detect"),
        ("yolov3-tinyu", None, "Detect"),
    ],
)
def test_names_and_sizes(name: str, scale: str | None, head: str) -> None:
    found = architecture(name)
    assert found.get("scale") == scale
    assert found["head"][-1][2] == head


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("yolov8", "such as 'yolov8n'"),
        ("yolov8q", "did you mean 'yolov8"),
        ("yolov3t", "no detector 'yolov3t'"),
        ("yolov5u", "such as 'yolov5n'"),
        ("yolov8n-pose", "no detector"),
        ("yolov8-cls", "add its size"),
        ("../yolov8n", "no detector '../yolov8n'"),
        ("", "no detector ''"),
        ("zzz", "there are yolov5n"),
    ],
)
def test_what_is_no_detector(name: str, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        architecture(name)


def test_a_record_has_the_plain_name() -> None:
    assert [plain_name(one) for one in ("yolov5nu", "yolov5n6u", "yolov8n.yaml", "yolo11n")] == [
        "yolov5n",
        "yolov5n6",
        "yolov8n",
        "yolo11n",
    ]


@pytest.mark.parametrize(
    ("reference", "level", "library"),
    [
        ("ultralytics:yolov8n", None, "ultralytics"),
        ("torchvision:fcos_resnet50_fpn", None, "torchvision"),
        ("torchvision:efficientnet_b0", "image", "torchvision"),
        ("timm:efficientnet_b0", "image", "timm"),
    ],
)
def test_each_library_has_its_trainer(reference: str, level: str | None, library: str) -> None:
    chosen = choose_trainer(reference, level)  # type: ignore[arg-type]
    assert chosen.make().library == chosen.family == library
    assert is_detector(reference) == (level is None)
