"""Models of each library, exported: the file answers what the library does, card inside."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from visiondyno import worker
from visiondyno.errors import ModelError, SpecError
from visiondyno.operations.context import OperationContext
from visiondyno.operations.worker_files import WorkerFiles
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.pytorch.exportable import exportable
from visiondyno.runtimes.registry import load_model
from visiondyno.vision.preprocess import Preprocessor

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


def test_a_size_that_a_network_is_not_for_is_a_sentence(
    tmp_path: Path, transformers_folders: dict[str, Path]
) -> None:
    with pytest.raises(ModelError, match=r"can't take images of 96x96 pixels: .*'image_size'"):
        exported(tmp_path, model=str(transformers_folders["vit"]), image_size=96, data=None)


def with_processor(folder: Path, source: Path, processor: Any) -> str:
    """A copy of a model's folder whose images another processor prepares."""
    shutil.copytree(source, folder)
    (folder / "preprocessor_config.json").unlink()
    processor.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", ["MobileViT", "EfficientNet", "ConvNext"])
def test_what_a_processor_really_does_is_in_the_card(
    kind: str, tmp_path: Path, transformers_folders: dict[str, Path]
) -> None:
    import transformers as t

    processors = {
        # Turns the channels round; normalises twice; crops without saying so by the usual name.
        "MobileViT": lambda: t.MobileViTImageProcessor(
            size={"shortest_edge": 80}, crop_size={"height": 64, "width": 64}
        ),
        "EfficientNet": lambda: t.EfficientNetImageProcessor(
            size={"height": 64, "width": 64}, include_top=True
        ),
        "ConvNext": lambda: t.ConvNextImageProcessor(size={"shortest_edge": 64}, crop_pct=0.8),
    }
    path = with_processor(tmp_path / kind, transformers_folders["vit"], processors[kind]())
    found = exportable(path)
    with found.model as model:
        card = found.card.input
        # Smooth, so that it doesn't matter who resizes.
        ramp = np.linspace(20, 230, 80, dtype=np.uint8)
        image = np.stack([np.tile(ramp, (80, 1)), np.tile(ramp[:, None], (1, 80)),
                          np.full((80, 80), 200, np.uint8)], axis=-1)  # fmt: skip
        (group,) = model.preprocess([image])
        theirs = group.inputs["pixel_values"].numpy()
    ours = Preprocessor(card)([image]).tensor
    assert np.abs(ours - theirs).max() < 0.03 * np.ptp(theirs)


def test_a_processor_that_no_card_describes_is_refused(
    tmp_path: Path, transformers_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from visiondyno.runtimes.pytorch.transformers_models import TransformersModel

    plain = TransformersModel._features

    def squared(self: TransformersModel, image: Any) -> dict[str, Any]:
        return {name: one * one for name, one in plain(self, image).items()}

    monkeypatch.setattr(TransformersModel, "_features", squared)
    with pytest.raises(SpecError, match="makes of pixels what a model card can't say"):
        exportable(str(transformers_folders["vit"]))


def test_a_dense_detector_keeps_as_many_candidates_as_torchvision() -> None:
    pytest.importorskip("torchvision")
    found = exportable("torchvision:ssdlite320_mobilenet_v3_large@none")
    with found.model as model:
        own = model.description.card.detection
        assert own is not None
        assert found.card.detection is not None
        # Torchvision takes so many of each class.
        assert found.card.detection.max_candidates == own.max_candidates * len(found.card.classes)
        assert found.card.input.resize == "stretch"
        assert not any("padded" in note for note in found.notes)
