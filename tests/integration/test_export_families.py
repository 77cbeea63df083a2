"""Models of each library, exported: the file answers what the library does, card inside."""

from pathlib import Path
from typing import Any

import pytest

from visiondyno import worker
from visiondyno.errors import ModelError, SpecError
from visiondyno.operations.context import OperationContext
from visiondyno.operations.worker_files import WorkerFiles
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.registry import load_model

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")

TINY_DETECTOR = """
nc: 3
backbone:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [32, 3, 2]]
head:
  - [[2, 3], 1, Detect, [nc]]
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("VISIONDYNO_BLOBS_URL", raising=False)


@pytest.fixture(scope="module")
def transformers_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("transformers")
    from transformers_models import write_all

    return write_all(tmp_path_factory.mktemp("transformers"))


def exported(folder: Path, **payload: Any) -> tuple[dict[str, Any], str]:
    """The answer, and its main file as a model reference."""
    given = {"data": "street:val", "check_images": 8, **payload}
    answer = worker.run({"operation": "export", **given}, OperationContext())
    for name, reference in answer["files"].items():
        data = WorkerFiles.of_this_worker().read(reference, "A file")
        (folder / name).write_bytes(data)
    return answer, str(folder / next(iter(answer["files"])))


def assert_same_numbers(answer: dict[str, Any]) -> None:
    for one in answer["check"]["outputs"]:
        assert one["max_abs_difference"] <= 1e-3 * max(one["max_abs_source"], 1)


def test_a_detector_of_ultralytics_keeps_boxes_and_licence(tmp_path: Path) -> None:
    pytest.importorskip("ultralytics")
    architecture = tmp_path / "tiny.yaml"
    architecture.write_text(TINY_DETECTOR)
    reference = f"ultralytics:{architecture}"
    answer, file = exported(tmp_path, model=reference, image_size=96, opset=19)
    assert_same_numbers(answer)
    assert answer["opset"] == 19
    assert any("padded to 96x96" in note for note in answer["notes"])
    with load_model(file, LoadOptions()) as model:
        description = model.description
    assert description.card.head == "yolov8"
    assert description.card.license == "AGPL-3.0"
    assert description.card.source == "exported from tiny.yaml"
    assert (description.card.input.height, description.batch_size) == (96, None)
    with pytest.raises(SpecError, match="stride 32; give 128"):
        exported(tmp_path, model=reference, image_size=100)
    with pytest.raises(SpecError, match="torch writes 18 and later"):
        exported(tmp_path, model=reference, opset=17)


def test_a_classifier_keeps_its_classes(
    tmp_path: Path, transformers_folders: dict[str, Path]
) -> None:
    answer, file = exported(tmp_path, model=str(transformers_folders["vit"]), batch_size=2)
    assert_same_numbers(answer)
    assert answer["check"]["agreement"]["max_probability_difference"] < 0.2
    with load_model(file, LoadOptions()) as model:
        assert model.description.card.classes == ("car", "N/A", "truck", "person", "sign")
        assert model.description.batch_size == 2


@pytest.mark.slow
def test_a_detector_of_transformers_answers_for_named_classes(
    tmp_path: Path, transformers_folders: dict[str, Path]
) -> None:
    answer, file = exported(tmp_path, model=str(transformers_folders["detr"]))
    assert_same_numbers(answer)
    with load_model(file, LoadOptions()) as model:
        card = model.description.card
    assert card.head == "detr"
    assert card.classes == ("car", "truck", "person", "sign")
    assert card.output is not None
    assert card.output.score_activation == "softmax_with_background"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reference", "size"),
    [
        ("timm:test_resnet@none", None),
        ("torchvision:fcos_resnet50_fpn@none", 96),
    ],
)
def test_models_of_torchvision_and_timm_are_exported(
    reference: str, size: int | None, tmp_path: Path
) -> None:
    if reference.startswith("timm"):
        pytest.importorskip("timm")
    answer, file = exported(tmp_path, model=reference, image_size=size, data=None)
    assert_same_numbers(answer)
    with load_model(file, LoadOptions()) as model:
        assert model.description.card.head in {"classification", "yolov8"}


def test_two_stages_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="two-stage detector"):
        exported(tmp_path, model="torchvision:fasterrcnn_mobilenet_v3_large_320_fpn@none")


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_torchscript_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scripted.torchscript"
    torch.jit.trace(torch.nn.Flatten(), torch.zeros(1, 3, 32, 32)).save(str(path))
    path.with_name("scripted.model.yaml").write_text(
        "schema: visiondyno.model/1\ntask: classification\nhead: classification\n"
        "classes: [a, b]\ninput: {height: 32, width: 32, resize: stretch}\n"
    )
    with pytest.raises(SpecError, match="is TorchScript"):
        exported(tmp_path, model=str(path))


def test_a_program_with_a_card_is_exported(tmp_path: Path) -> None:
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    ).eval()
    batch = torch.export.Dim("batch")
    program = torch.export.export(
        module, (torch.zeros(2, 3, 32, 32),), dynamic_shapes=({0: batch},)
    )
    path = tmp_path / "program.pt2"
    torch.export.save(program, path)
    path.with_name("program.model.yaml").write_text(
        "schema: visiondyno.model/1\ntask: classification\nhead: classification\n"
        "classes: [a, b, c, d]\nactivation: softmax\n"
        "input: {height: 32, width: 32, resize: stretch}\n"
    )
    answer, _ = exported(tmp_path, model=str(path), data=None)
    assert_same_numbers(answer)
    with pytest.raises(SpecError, match="32x32 pixels and no other size"):
        exported(tmp_path, model=str(path), image_size=64, data=None)


def test_what_torch_cannot_follow_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wayward_nets.py").write_text(
        "import torch\n"
        "class Wayward(torch.nn.Module):\n"
        "    model_card = {'schema': 'visiondyno.model/1', 'task': 'classification',\n"
        "        'head': 'classification', 'classes': ['a', 'b', 'c'], 'activation': 'softmax',\n"
        "        'input': {'height': 32, 'width': 32, 'resize': 'stretch'}}\n"
        "    def forward(self, x):\n"
        "        return torch.linalg.eigvals(x.mean(1)[:, :3, :3]).real\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VISIONDYNO_TRUST_CODE", "1")
    with pytest.raises(ModelError, match="can't be exported to ONNX"):
        exported(tmp_path, model="torch:wayward_nets:Wayward", data=None)
