"""The transformers runtime on tiny models of each kind, beside transformers' own pipelines."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from contracts.runtime_contract import RuntimeContract, Target, assert_same, some_images
from hub_server import COMMIT, HubServer, PublishedModel
from trained_model_factory import trained_folder
from transformers_models import DETECTORS, write_all
from visiondyno.errors import MissingExtra, ModelError
from visiondyno.predictions import Classification, DepthMap, Detections, Image
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.pytorch.transformers import TransformersRuntime
from visiondyno.runtimes.registry import load_model
from visiondyno.specs.model_card import DepthCard
from visiondyno.state import from_tensors

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
constants = pytest.importorskip("huggingface_hub.constants")
pillow = pytest.importorskip("PIL.Image")
safetensors = pytest.importorskip("safetensors.torch")

LOWEST = 0.02


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_all(tmp_path_factory.mktemp("transformers"))


@pytest.fixture(autouse=True)
def empty_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def changed(folders: dict[str, Path], tmp_path: Path) -> Any:
    """A copy of a model's folder with settings of its config.json replaced (None: left out)."""

    def copy(name: str, **settings: Any) -> Path:
        folder = tmp_path / f"changed-{name}"
        shutil.copytree(folders[name], folder)
        path = folder / "config.json"
        content = {**json.loads(path.read_text()), **settings}
        kept = {key: value for key, value in content.items() if value is not None}
        path.write_text(json.dumps(kept))
        return folder

    return copy


class TestTransformersRuntime(RuntimeContract):
    @pytest.fixture
    def target(self, folders: dict[str, Path]) -> Target:
        references = tuple(str(folder) for folder in folders.values())
        return Target(TransformersRuntime(), references, "transformers:no/such-model")


# ---- the same as the library's own


def scenes(count: int) -> list[Image]:
    """Smooth noise of various sizes, so that neighbouring pixels are alike."""
    random = np.random.default_rng(3)
    found: list[Image] = []
    for number in range(count):
        coarse = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        size = [(128, 96), (96, 128), (150, 70), (64, 64)][number % 4]
        found.append(np.ascontiguousarray(cv2.resize(coarse, size)))
    return found


def as_rgb(image: Image) -> Any:
    return pillow.fromarray(np.ascontiguousarray(image[:, :, ::-1]))


@pytest.mark.parametrize("name", DETECTORS)
def test_boxes_are_those_of_the_pipeline(name: str, folders: dict[str, Path]) -> None:
    pipeline = transformers.pipeline("object-detection", model=str(folders[name]), device="cpu")
    # The pipeline cuts decimals off; the boxes before that are compared.
    pipeline._get_bounding_box = lambda box: box.tolist()
    boxes = 0
    with load_model(str(folders[name])) as model:
        names = model.description.card.classes
        assert names == ("car", "truck", "person", "sign")
        for image in scenes(20):
            (found,) = model.predict([image], confidence=LOWEST)
            assert isinstance(found, Detections)
            # The one image gives both the same queries: sorted by score, they are in one order.
            theirs = sorted(
                (one for one in pipeline(as_rgb(image), threshold=LOWEST) if one["label"] != "N/A"),
                key=lambda one: -one["score"],
            )
            assert [names[n] for n in found.class_ids] == [one["label"] for one in theirs]
            np.testing.assert_allclose(found.scores, [one["score"] for one in theirs], atol=1e-3)
            corners = np.reshape([one["box"] for one in theirs], (-1, 4))
            np.testing.assert_allclose(found.boxes_xyxy, corners, atol=0.5)
            boxes += len(found)
    assert boxes >= 50


def test_probabilities_are_those_of_the_pipeline(folders: dict[str, Path]) -> None:
    folder = str(folders["vit"])
    pipeline = transformers.pipeline("image-classification", model=folder, device="cpu")
    with load_model(folder) as model:
        for image in scenes(6):
            (found,) = model.predict([image])
            assert isinstance(found, Classification)
            theirs = {one["label"]: one["score"] for one in pipeline(as_rgb(image), top_k=None)}
            ours = dict(zip(model.description.card.classes, found.probabilities, strict=True))
            assert ours == pytest.approx(theirs, abs=1e-5)


def test_depth_is_that_of_the_pipeline(folders: dict[str, Path]) -> None:
    folder = str(folders["depth_anything"])
    pipeline = transformers.pipeline("depth-estimation", model=folder, device="cpu")
    with load_model(folder) as model:
        assert model.description.card.depth == DepthCard()
        for image in scenes(6):
            (found,) = model.predict([image])
            assert isinstance(found, DepthMap)
            assert found.depth.std() > 0
            theirs = pipeline(as_rgb(image))["predicted_depth"].numpy()
            np.testing.assert_allclose(found.depth, theirs, rtol=1e-5)


# ---- what a folder says


def test_half_precision_is_kept_and_told(folders: dict[str, Path], tmp_path: Path) -> None:
    module = transformers.AutoModelForObjectDetection.from_pretrained(folders["rt_detr_v2"])
    module.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    shutil.copy(folders["rt_detr_v2"] / "preprocessor_config.json", tmp_path / "half")
    with load_model(str(tmp_path / "half")) as model:
        assert model.description.precision == "bf16"
        (found,) = model.predict(some_images(1))
        assert isinstance(found, Detections)
        assert found.scores.dtype == np.float32
        assert len(found) > 0


def test_several_files_of_weights_are_one_model(folders: dict[str, Path], tmp_path: Path) -> None:
    module = transformers.AutoModelForImageClassification.from_pretrained(folders["vit"])
    module.save_pretrained(tmp_path / "parts", max_shard_size="60KB")
    shutil.copy(folders["vit"] / "preprocessor_config.json", tmp_path / "parts")
    parts = sorted((tmp_path / "parts").glob("model-*.safetensors"))
    assert len(parts) > 1
    with load_model(str(tmp_path / "parts")) as model, load_model(str(folders["vit"])) as whole:
        assert set(parts) < set(model.files)
        assert model.description.file_bytes == sum(part.stat().st_size for part in parts)
        assert model.description.digest != whole.description.digest
        for left, right in zip(
            model.predict(some_images(2)), whole.predict(some_images(2)), strict=True
        ):
            assert_same(left, right)
    parts[0].unlink()
    with pytest.raises(ModelError, match=rf"lacks {parts[0].name}"):
        load_model(str(tmp_path / "parts"))


def test_a_classifier_of_several_labels_answers_by_sigmoid(changed: Any) -> None:
    folder = changed("vit", problem_type="multi_label_classification")
    with load_model(str(folder)) as model:
        assert model.description.card.activation == "sigmoid"
        (found,) = model.predict(some_images(1))
        assert isinstance(found, Classification)
        assert ((found.probabilities >= 0) & (found.probabilities <= 1)).all()
        assert found.probabilities.sum() != pytest.approx(1, abs=1e-3)


def test_metric_depth_is_not_aligned(changed: Any) -> None:
    folder = changed("depth_anything", depth_estimation_type="metric", max_depth=10)
    metric = DepthCard(output="depth", alignment="none")
    with load_model(str(folder)) as model:
        assert model.description.card.depth == metric
    card = model.description.card.model_copy(update={"depth": DepthCard()})
    with load_model(str(folder), LoadOptions(card=card)) as model:
        assert model.description.card.depth == DepthCard()
        assert model.description.card_source["depth"] == "given"


def test_classes_without_names_are_noted(changed: Any) -> None:
    labels = {str(label): f"LABEL_{label}" for label in range(5)}
    folder = changed("vit", id2label=labels, label2id={v: k for k, v in labels.items()})
    with load_model(str(folder)) as model:
        assert "5 unnamed classes" in model.description.notes[0]


def test_a_given_card_chooses_boxes(folders: dict[str, Path]) -> None:
    with load_model(str(folders["yolos"])) as model:
        card = model.description.card
        (plain,) = model.predict(some_images(1))
    assert card.detection is not None
    assert card.detection.clip_to_image is False
    few = card.detection.model_copy(update={"max_detections": 3, "clip_to_image": True})
    given = card.model_copy(update={"detection": few})
    with load_model(str(folders["yolos"]), LoadOptions(card=given)) as model:
        (found,) = model.predict(some_images(1))
    assert isinstance(found, Detections)
    assert isinstance(plain, Detections)
    np.testing.assert_array_equal(found.scores, plain.scores[:3])
    fewer = card.model_copy(update={"classes": ("car",)})
    with pytest.raises(ModelError, match="names 1 classes, and the model has 4"):
        load_model(str(folders["yolos"]), LoadOptions(card=fewer))
    other = card.model_copy(update={"head": "detr"})
    with pytest.raises(ModelError, match="sets 'head'"):
        load_model(str(folders["yolos"]), LoadOptions(card=other))


def test_loading_says_nothing(folders: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    load_model(str(folders["vit"])).close()
    assert capfd.readouterr() == ("", "")


# ---- what is refused


def test_weights_that_lack_a_part_are_refused(changed: Any) -> None:
    folder = changed("rt_detr_v2")
    state = safetensors.load_file(folder / "model.safetensors")
    left = {name: tensor for name, tensor in state.items() if "enc_score_head" not in name}
    assert len(left) < len(state)
    safetensors.save_file(left, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"missing or of another shape.*enc_score_head"):
        load_model(str(folder))


def test_weights_of_nan_are_found_out(changed: Any) -> None:
    for name in ("yolos", "vit", "depth_anything"):
        folder = changed(name)
        state = safetensors.load_file(folder / "model.safetensors")
        broken = {key: torch.full_like(tensor, float("nan")) for key, tensor in state.items()}
        safetensors.save_file(broken, folder / "model.safetensors", {"format": "pt"})
        with load_model(str(folder)) as model, pytest.raises(ModelError, match="answered NaN"):
            model.predict(some_images(1))


def test_damaged_files_are_refused(changed: Any) -> None:
    folder = changed("vit")
    (folder / "model.safetensors").write_bytes(b"\x08" + bytes(50))
    with pytest.raises(ModelError, match="can't be read"):
        load_model(str(folder))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"lacks model\.safetensors"):
        load_model(str(folder))
    (folder / "pytorch_model.bin").rename(folder / "model.safetensors")
    for text, said in (("[]", "holds no object"), ("{", "isn't JSON")):
        (folder / "preprocessor_config.json").write_text(text)
        with pytest.raises(ModelError, match=said):
            load_model(str(folder))
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../b"}}')
    with pytest.raises(ModelError, match="names no files of weights beside it"):
        load_model(str(folder))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"architectures": ["ViTForMaskedImageModeling"]}, "a ViTForMaskedImageModeling"),
        ({"architectures": None}, "of no task"),
        ({"model_type": "mine", "auto_map": {"AutoConfig": "c.C"}}, "its repository isn't run"),
        ({"model_type": "timm_wrapper", "architecture": "resnet18"}, "use timm:resnet18"),
    ],
)
def test_other_models_are_named(settings: dict[str, Any], said: str, changed: Any) -> None:
    folder = changed("vit", **settings)
    (folder / "c.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ModelError, match=said):
        load_model(str(folder))


def test_kernels_of_the_hub_are_not_asked_for(changed: Any) -> None:
    # A name with a slash would have the library fetch code from there, and run it.
    kernels = dict.fromkeys(("attn_implementation", "_attn_implementation"), "somebody/kernels")
    with load_model(str(changed("vit", **kernels))) as model:
        assert len(model.predict(scenes(1))) == 1


@pytest.mark.parametrize("label", [-1, 10**12])
def test_labels_that_no_model_has_are_refused(label: int, changed: Any) -> None:
    folder = changed("detr", id2label={"0": "car", str(label): "truck"})
    with pytest.raises(ModelError, match=r"labels|don't fit"):
        load_model(str(folder))


def test_a_line_that_grows_out_of_memory_is_refused(changed: Any) -> None:
    folder = changed("vit")
    path = folder / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    cut = {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": settings["size"]}
    path.write_text(json.dumps(settings | cut))
    line = np.zeros((1, 16384, 3), np.uint8)
    with load_model(str(folder)) as model:
        with pytest.raises(ModelError, match="16384x1 pixels is too narrow for this model"):
            model.predict([line])
        assert len(model.predict([line[:, :300]])) == 1


def test_backbones_of_timm_are_made_without_asking_anybody(
    changed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = {"backbone": "resnet18", "backbone_config": None, "use_timm_backbone": True}
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        folder = changed("detr", **named, backbone_kwargs={"out_indices": [1, 2, 3, 4]})
        # The weights saved are another backbone's: all that came before was understood.
        with pytest.raises(ModelError, match="missing or of another shape"):
            load_model(str(folder))
        shutil.rmtree(folder)
        written = {"model_type": "timm_backbone", "backbone": "hf-hub:maker/any"}
        folder = changed("detr", **{**named, "backbone": None, "backbone_config": written})
        with pytest.raises(ModelError, match="names 'hf-hub:maker/any' as its backbone"):
            load_model(str(folder))
        shutil.rmtree(folder)
        folder = changed("d_fine", backbone="maker/other", backbone_config=None)
        with pytest.raises(ModelError, match="offline"):
            load_model(str(folder))
        assert server.asked == []


def test_a_backbone_of_timm_asks_for_its_extra(
    changed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = {"model_type": "timm_backbone", "backbone": "resnet18"}
    folder = changed("detr", backbone=None, backbone_config=written)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtra, match=r"visiondyno\[timm\]"):
        load_model(str(folder))


def test_a_snapshot_that_lacks_weights_is_not_taken_for_whole(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    place = tmp_path / "hub" / "models--maker--part"
    (place / "snapshots" / COMMIT).mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(COMMIT)
    shutil.copy(folders["vit"] / "config.json", place / "snapshots" / COMMIT)
    with pytest.raises(ModelError, match="dyno models pull transformers:maker/part"):
        load_model("transformers:maker/part")


@pytest.mark.parametrize("name", ["noslash", "a/b/c", "./nowhere"])
def test_a_name_that_cannot_be_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="transformers:ORGANISATION/NAME"):
        load_model(f"transformers:{name}")


# ---- from the hub, and from a training


def test_a_model_of_the_hub_is_fetched_once_and_loaded(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = "transformers:maker/tiny"
    with HubServer() as server:
        files = {path.name: path.read_bytes() for path in folders["vit"].iterdir()}
        server.models["maker/tiny"] = PublishedModel({**files, "README.md": b"# tiny"})
        cache = tmp_path / "cache"
        environment = {**os.environ, "HF_ENDPOINT": server.url, "HF_HUB_CACHE": str(cache)}
        code = (
            "from visiondyno.runtimes.registry import fetch_weights\n"
            f"told = []\nfetch_weights({reference!r}, lambda *one: told.append(one))\n"
            f"fetch_weights({reference!r})\nprint(told[-1])\n"
            "import sys; assert 'torch' not in sys.modules"
        )
        ran = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        total = sum(len(files[name]) for name in files)
        assert ran.stdout.strip() == str(("maker/tiny", total, total))
        assert not any("README" in asked for asked in server.asked)
        assert sum("model.safetensors" in asked for asked in server.asked) == 2  # HEAD and GET
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    with load_model(reference) as model, load_model(str(folders["vit"])) as local:
        assert model.description.digest == local.description.digest
        assert_same(model.predict(some_images(1))[0], local.predict(some_images(1))[0])


def test_a_trained_model_is_built_again(folders: dict[str, Path], tmp_path: Path) -> None:
    source = folders["rt_detr_v2"]
    module = transformers.AutoModelForObjectDetection.from_pretrained(source)
    arguments = {
        "config": json.loads((source / "config.json").read_text()),
        "preprocessor": json.loads((source / "preprocessor_config.json").read_text()),
    }
    trained_folder(
        tmp_path / "trained",
        from_tensors(module.state_dict()),
        family="transformers",
        name="rt_detr_v2",
        arguments=arguments,
        task="detection",
        classes=("a", "b", "c", "d", "e"),
    )
    with load_model(str(tmp_path / "trained")) as model, load_model(str(source)) as original:
        assert model.description.card.classes == ("a", "b", "c", "d", "e")
        (ours,), (theirs,) = (one.predict(some_images(1)) for one in (model, original))
        assert isinstance(ours, Detections)
        assert isinstance(theirs, Detections)
        named = ours.class_ids != 1  # the original calls it N/A
        np.testing.assert_allclose(ours.scores[named], theirs.scores, atol=1e-6)
        np.testing.assert_allclose(ours.boxes_xyxy[named], theirs.boxes_xyxy, atol=1e-3)
    arguments["preprocessor"]["image_processor_type"] = "Nothing"
    trained_folder(
        tmp_path / "other",
        from_tensors(module.state_dict()),
        family="transformers",
        name="rt_detr_v2",
        arguments=arguments,
        task="detection",
        classes=("a", "b", "c", "d", "e"),
    )
    with pytest.raises(ModelError, match="no image processor 'Nothing'"):
        load_model(str(tmp_path / "other"))
