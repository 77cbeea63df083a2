"""The torch runtime: exported programs, TorchScript, and modules of the user's own code."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.runtime_contract import RuntimeContract, Target, assert_same, some_images

pytest.importorskip("torch")

from torch.nn.modules.module import register_module_forward_hook

from torch_programs import (
    CLASSES,
    CLASSIFIER_CARD,
    DETECTOR_CARD,
    SIDE,
    Classifier,
    Detector,
    nn,
    torch,
    write_exported,
    write_scripted,
)
from visiondyno.errors import ModelError
from visiondyno.predictions import Classification, DepthMap
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.card_file import card_path
from visiondyno.runtimes.model_files import digest_in_description
from visiondyno.runtimes.pytorch.programs import TorchRuntime
from visiondyno.runtimes.references import resolve_reference
from visiondyno.runtimes.registry import load_model
from visiondyno.specs.model_card import ModelCard, OutputCard

pytestmark = pytest.mark.torch


class TestTorchRuntime(RuntimeContract):
    @pytest.fixture
    def target(self, files: Path, own_code: None) -> Target:
        paths = tuple(str(path) for path in sorted(files.iterdir()) if path.suffix != ".yaml")
        made = ("torch:own_models:detector", "torch:own_models:Makers.classifier")
        return Target(TorchRuntime(), paths + made, "no-such-model.pt2")


def test_files_and_code_of_one_module_answer_the_same(files: Path, own_code: None) -> None:
    images = some_images(6)
    with load_model("torch:own_models:detector") as model:
        expected = model.predict(images)
    for name in ("any.pt2", "four.pt2", "scripted.torchscript"):
        with load_model(str(files / name)) as model:
            for left, right in zip(expected, model.predict(images), strict=True):
                assert_same(left, right)


def test_what_torch_itself_answers_is_answered(files: Path) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    tensor = torch.from_numpy(pixels[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        expected = Classifier().eval()(tensor).softmax(1)[0].numpy()
    for name in ("classifier.pt2", "frozen.torchscript"):
        with load_model(str(files / name)) as model:
            (found,) = model.predict([pixels])
        assert isinstance(found, Classification)
        np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)


def test_descriptions_tell_what_runs(files: Path, own_code: None) -> None:
    names = ("any.pt2", "four.pt2", "scripted.torchscript", "frozen.torchscript")
    said = {name: load_model(str(files / name)).description for name in names}
    weights = sum(one.numel() for one in Detector().parameters())
    assert {one.provider for one in said.values()} == {"torch cpu"}
    assert {one.runtime for one in said.values()} == {f"torch {torch.__version__}"}
    assert {one.precision for one in said.values()} == {"fp32"}
    sizes = [said[name].batch_size for name in names]
    assert sizes == [None, 4, None, None]
    counted = [said[name].parameters for name in names]
    assert counted == [weights, weights, weights, None]
    assert "aren't counted" in said["frozen.torchscript"].notes[0]
    for name in names:
        assert said[name].file_bytes == (files / name).stat().st_size
        assert said[name].card_source["head"] == f"card {card_path(files / name).name}"
    made = [load_model("torch:own_models:detector").description for _ in range(2)]
    assert made[0].digest == made[1].digest != said["any.pt2"].digest
    assert made[0].parameters == weights
    assert made[0].card_source["head"] == "attribute model_card"


def test_files_are_told(files: Path, own_code: None) -> None:
    for name in ("any.pt2", "scripted.torchscript"):
        assert load_model(str(files / name)).files == (files / name,)
    assert load_model("torch:own_models:detector").files == ()


def test_half_precision_is_told(tmp_path: Path) -> None:
    half = DETECTOR_CARD.input.model_copy(update={"dtype": "float16"})
    card = CLASSIFIER_CARD.model_copy(update={"input": half})
    example = torch.zeros(1, 3, SIDE, SIDE).half()
    path = write_exported(
        tmp_path / "half.pt2", Classifier().half(), card, batch=1, example=example
    )
    with load_model(path) as model:
        assert model.description.precision == "fp16"
        (found,) = model.predict(some_images(1))
    assert isinstance(found, Classification)
    wrong = LoadOptions(card=CLASSIFIER_CARD)
    with pytest.raises(ModelError, match=r"input dtype float32, but the graph takes float16"):
        load_model(path, wrong)


def test_a_program_of_known_shapes_needs_no_card(tmp_path: Path) -> None:
    path = write_exported(tmp_path / "classifier.pt2", Classifier(), None)
    with load_model(path) as model:
        assert model.description.card.classes == ("class 0", "class 1", "class 2")
        assert model.description.card_source["head"] == "shape"


class OneImage(nn.Module):  # type: ignore[misc, name-defined]
    """Takes an image without an axis of images, and answers without one."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Detector()

    def forward(self, image: Any) -> Any:
        return self.inner(image[None])[0]


def test_a_program_of_one_image_takes_batches(tmp_path: Path, files: Path) -> None:
    example = torch.zeros(3, SIDE, SIDE)
    path = write_exported(tmp_path / "one.pt2", OneImage(), DETECTOR_CARD, batch=1, example=example)
    images = some_images(3)
    with load_model(path) as model, load_model(str(files / "any.pt2")) as other:
        assert model.description.batch_size == 1
        for left, right in zip(other.predict(images), model.predict(images), strict=True):
            assert_same(left, right)


class Sized(nn.Module):  # type: ignore[misc, name-defined]
    """Asks for width and height beside the images, and answers boxes in them."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Detector()

    def forward(self, images: Any, orig_target_sizes: Any) -> Any:
        scale = torch.cat([orig_target_sizes, orig_target_sizes], 1)[:, None].float() / SIDE
        rows = self.inner(images)
        return torch.cat([rows[..., :4] * scale, rows[..., 4:]], 2)


def test_a_program_that_asks_for_the_size_is_told(tmp_path: Path, files: Path) -> None:
    inputs = torch.zeros(2, 3, SIDE, SIDE), torch.full((2, 2), SIDE)
    program = torch.export.export(Sized().eval(), inputs)
    path = tmp_path / "sized.pt2"
    torch.export.save(program, path)
    images = some_images(3)
    with (
        load_model(str(path), LoadOptions(card=DETECTOR_CARD)) as model,
        load_model(str(files / "any.pt2")) as other,
    ):
        for left, right in zip(other.predict(images), model.predict(images), strict=True):
            assert_same(left, right)


def test_threads_asked_for_are_used(files: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with load_model(str(files / "any.pt2"), LoadOptions(intra_op_threads=2)) as model:
            seen: list[int] = []
            hook = register_module_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
            model.predict(some_images(1))
            hook.remove()
        assert set(seen) == {2}
        # A model that asks for none isn't run with another's.
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_conventions_complete_a_short_card(files: Path) -> None:
    parts = {"schema": "visiondyno.model/1", "task": "detection", "head": "end_to_end"}
    short = DETECTOR_CARD.model_validate(parts | {"classes": CLASSES, "input": DETECTOR_CARD.input})
    with load_model(str(files / "scripted.torchscript"), LoadOptions(card=short)) as model:
        assert model.description.card.detection == DETECTOR_CARD.detection
        assert model.description.card_source["detection"] == "assumed"
    parts |= {"task": "classification", "head": "classification"}
    short = CLASSIFIER_CARD.model_validate(
        parts | {"classes": CLASSES, "input": CLASSIFIER_CARD.input}
    )
    with load_model(str(files / "frozen.torchscript"), LoadOptions(card=short)) as model:
        assert any("taken for probabilities" in note for note in model.description.notes)


class Depth(nn.Module):  # type: ignore[misc, name-defined]
    """How bright each pixel is."""

    def forward(self, images: Any) -> Any:
        return images.mean(1) + 0.1


def test_a_depth_model_needs_few_words(tmp_path: Path) -> None:
    parts = {"schema": "visiondyno.model/1", "task": "depth", "head": "depth"}
    card = ModelCard.model_validate(parts | {"input": DETECTOR_CARD.input})
    path = write_scripted(tmp_path / "depth.torchscript", Depth(), card)
    with load_model(path) as model:
        (found,) = model.predict(some_images(1))
        assert model.description.card_source["depth"] == "assumed"
    assert isinstance(found, DepthMap)
    assert found.depth.shape == some_images(1)[0].shape[:2]


def test_what_a_card_says_of_the_output_is_kept(files: Path) -> None:
    output = OutputCard(boxes="xyxy_pixels")
    card = DETECTOR_CARD.model_copy(update={"output": output})
    with load_model(str(files / "scripted.torchscript"), LoadOptions(card=card)) as model:
        used = model.description.card.output
        model.predict(some_images(1))
    assert used is not None
    assert (used.boxes, used.roles) == ("xyxy_pixels", ("predictions",))


def test_the_digest_of_a_file_is_known_before_loading(files: Path) -> None:
    for name in ("any.pt2", "scripted.torchscript"):
        resolved = resolve_reference(str(files / name))
        with load_model(str(files / name)) as model:
            assert digest_in_description(resolved) == model.description.digest
