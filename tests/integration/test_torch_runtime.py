"""The torch runtime: exported programs, TorchScript, and modules of the user's own code."""

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.runtime_contract import RuntimeContract, Target, assert_same, some_images

pytest.importorskip("torch")

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
from visiondyno.cli import main
from visiondyno.errors import ModelError, SpecError, Unavailable
from visiondyno.executors.supervisor_options import DEFAULT_ENTRY
from visiondyno.predictions import Classification, DepthMap
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.card_file import card_path
from visiondyno.runtimes.model_files import digest_in_description
from visiondyno.runtimes.pytorch.programs import TorchRuntime
from visiondyno.runtimes.references import resolve_reference
from visiondyno.runtimes.registry import load_model
from visiondyno.runtimes.trusted_code import TRUST_CODE
from visiondyno.specs.model_card import ModelCard, OutputCard

pytestmark = pytest.mark.torch

OWN_CODE = """
from torch_programs import Classifier, Detector, CLASSIFIER_CARD, DETECTOR_CARD, nn, torch
import own_part_beside

def detector():
    module = Detector()
    module.model_card = DETECTOR_CARD
    return module

class Makers:
    @staticmethod
    def classifier():
        module = Classifier()
        module.model_card = CLASSIFIER_CARD.model_dump(by_alias=True)
        return module

def uncarded():
    return Classifier()

def fails():
    raise KeyError("weights")

def no_module():
    return 5

class Silent(Classifier):
    def forward(self, images):
        return None

def silent():
    module = Silent()
    module.model_card = CLASSIFIER_CARD
    return module

def badly_carded():
    module = Classifier()
    module.model_card = {"task": "classification"}
    return module

constant = 5
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("programs")
    write_exported(folder / "any.pt2", Detector(), DETECTOR_CARD)
    write_exported(folder / "four.pt2", Detector(), DETECTOR_CARD, batch=4)
    write_exported(folder / "classifier.pt2", Classifier(), CLASSIFIER_CARD)
    write_scripted(folder / "scripted.torchscript", Detector(), DETECTOR_CARD)
    frozen = folder / "frozen.torchscript"
    write_scripted(frozen, Classifier(), CLASSIFIER_CARD, is_frozen=True)
    return folder


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A working folder with code that may be imported."""
    (tmp_path / "own_models.py").write_text(OWN_CODE)
    (tmp_path / "own_part_beside.py").write_text("")
    (tmp_path / "own_broken.py").write_text("import nothing_of_this_name")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(TRUST_CODE, "1")
    before = list(sys.path)
    yield
    sys.path[:] = before
    for name in ("own_models", "own_part_beside", "own_broken"):
        sys.modules.pop(name, None)


class TestTorchRuntime(RuntimeContract):
    @pytest.fixture
    def target(self, files: Path, own_code: None) -> Target:
        paths = tuple(str(path) for path in sorted(files.iterdir()) if path.suffix != ".yaml")
        made = ("torch:own_models:detector", "torch:own_models:Makers.classifier")
        return Target(TorchRuntime(), paths + made, "no-such-model.pt2")


# ---- what is loaded


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
    try:
        with load_model(str(files / "any.pt2"), LoadOptions(intra_op_threads=2)) as model:
            model.predict(some_images(1))
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


# ---- what isn't taken


def test_training_mode_is_refused(tmp_path: Path) -> None:
    path = write_exported(tmp_path / "t.pt2", Detector(), DETECTOR_CARD, is_training=True)
    with pytest.raises(ModelError, match=r"exported in training mode: it calls aten.*\.eval\(\)"):
        load_model(path)


def test_a_bounded_batch_is_refused(tmp_path: Path) -> None:
    path = write_exported(
        tmp_path / "b.pt2", Classifier(), CLASSIFIER_CARD, bounds={"min": 1, "max": 8}
    )
    with pytest.raises(ModelError, match=r"takes batches of \d to 8 images"):
        load_model(path)


class WithFlag(nn.Module):  # type: ignore[misc, name-defined]
    def forward(self, images: Any, flag: bool) -> Any:
        return images.mean((2, 3)) if flag else images.sum((2, 3))


def test_other_inputs_than_images_are_refused(tmp_path: Path) -> None:
    program = torch.export.export(WithFlag(), (torch.zeros(1, 3, SIDE, SIDE), True))
    torch.export.save(program, tmp_path / "flag.pt2")
    with pytest.raises(ModelError, match=r"takes or gives something that isn't a tensor"):
        load_model(str(tmp_path / "flag.pt2"))


class Evil:
    """Unpickling it would write a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return open, (str(self._path), "w")


def test_a_pickle_in_a_program_is_never_read(tmp_path: Path, files: Path) -> None:
    trap = tmp_path / "sprung"
    hostile = tmp_path / "hostile.pt2"
    with zipfile.ZipFile(files / "any.pt2") as good, zipfile.ZipFile(hostile, "w") as bad:
        for name in good.namelist():
            data = good.read(name)
            if name.endswith("model_weights_config.json"):
                config = json.loads(data)
                for one in config["config"].values():
                    one["use_pickle"] = True
                data = json.dumps(config).encode()
            elif "weights/weight_" in name:
                data = pickle.dumps(Evil(trap))
            bad.writestr(name, data)
    with pytest.raises(ModelError, match=r"hostile.pt2 isn't taken: .* is a pickle"):
        load_model(str(hostile), LoadOptions(card=DETECTOR_CARD))
    assert not trap.exists()


def test_a_pickle_called_torchscript_is_never_read(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    path = tmp_path / "hostile.torchscript"
    buffer = io.BytesIO()
    torch.save({"weights": Evil(trap)}, buffer)
    for data in (buffer.getvalue(), pickle.dumps(Evil(trap)), b"", b"PK\x03\x04rubbish"):
        path.write_bytes(data)
        with pytest.raises(ModelError, match=r"can't be loaded as TorchScript by torch"):
            load_model(str(path), LoadOptions(card=DETECTOR_CARD))
    assert not trap.exists()


@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_damaged_programs_are_errors(tmp_path: Path, files: Path, damage: str) -> None:
    whole = (files / "any.pt2").read_bytes()
    path = tmp_path / "damaged.pt2"
    path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"hello"}[damage])
    with pytest.raises(ModelError, match=r"damaged.pt2 isn't taken: it can't be read"):
        load_model(str(path), LoadOptions(card=DETECTOR_CARD))


def test_folders_are_errors(tmp_path: Path) -> None:
    for name in ("folder.pt2", "folder.torchscript"):
        (tmp_path / name).mkdir()
        with pytest.raises(ModelError, match=r"can't be read|is a folder"):
            TorchRuntime().load(f"torch:{tmp_path / name}", LoadOptions(card=DETECTOR_CARD))


def test_a_missing_card_says_how_to_make_one(tmp_path: Path, own_code: None) -> None:
    path = write_scripted(tmp_path / "bare.torchscript", Classifier(), None)
    with pytest.raises(ModelError, match=r"Write bare.model.yaml beside it"):
        load_model(path)
    with pytest.raises(ModelError, match=r"set the module's attribute 'model_card'"):
        load_model("torch:own_models:uncarded")
    with load_model("torch:own_models:uncarded", LoadOptions(card=CLASSIFIER_CARD)) as model:
        assert model.description.card_source["task"] == "given"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"head": "native"}, r"head 'native', which"),
        ({"task": "detection"}, r"says task 'detection', but head 'classification' is for"),
        ({"classes": ()}, r"names no classes"),
        ({"input": {"height": 32, "width": 32, "std": (0.0, 1.0, 1.0)}}, r"'std' holds a 0"),
    ],
)
def test_cards_that_fit_nothing_are_errors(files: Path, changes: dict[str, Any], said: str) -> None:
    card = CLASSIFIER_CARD.model_validate(CLASSIFIER_CARD.model_dump(by_alias=True) | changes)
    for name in ("frozen.torchscript", "classifier.pt2"):
        with pytest.raises(ModelError, match=said):
            load_model(str(files / name), LoadOptions(card=card))


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


def test_a_head_that_the_outputs_do_not_fit_is_an_error(files: Path) -> None:
    with (
        load_model(str(files / "frozen.torchscript"), LoadOptions(card=DETECTOR_CARD)) as model,
        pytest.raises(ModelError, match=r"Head 'end_to_end' reads"),
    ):
        model.predict(some_images(1))


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


def test_a_program_of_another_version_is_an_error(tmp_path: Path, files: Path) -> None:
    path = tmp_path / "newer.pt2"
    with zipfile.ZipFile(files / "any.pt2") as good, zipfile.ZipFile(path, "w") as newer:
        for name in good.namelist():
            data = good.read(name)
            if name.endswith("models/model.json"):
                data = json.dumps(json.loads(data) | {"schema_version": {"major": 999}}).encode()
            newer.writestr(name, data)
    with pytest.raises(ModelError, match=r"newer.pt2 can't be loaded by torch .* Export it again"):
        load_model(str(path), LoadOptions(card=DETECTOR_CARD))


# ---- code by reference


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("own_models:fails", r"failed: KeyError: 'weights'"),
        ("own_models:no_module", r"returned a int; it must return a torch.nn.Module"),
        ("own_models:constant", r"is a int; name a callable"),
        ("own_models:nothing", r"own_models has no 'nothing'"),
        ("own_models:badly_carded", r"model_card of torch:own_models:badly_carded is wrong"),
        ("own_broken:make", r"importing own_broken failed \(ModuleNotFoundError"),
        ("no_such_module_at_all:make", r"working folder and on PYTHONPATH"),
        ("own_models", r"names no code; write torch:package.module:factory"),
        ("some/where.pt2", r"names no code"),
        ("own_models:make()", r"names no code"),
    ],
)
def test_code_that_makes_no_model_is_an_error(place: str, said: str, own_code: None) -> None:
    with pytest.raises(ModelError, match=said):
        load_model(f"torch:{place}")


def test_a_module_without_an_answer_is_an_error(own_code: None) -> None:
    with (
        load_model("torch:own_models:silent") as model,
        pytest.raises(ModelError, match="returned no tensor"),
    ):
        model.predict(some_images(1))


@pytest.mark.parametrize("said", [None, "0", "no", ""])
def test_code_that_is_not_trusted_is_not_imported(
    said: str | None, own_code: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TRUST_CODE)
    if said is not None:
        monkeypatch.setenv(TRUST_CODE, said)
    with pytest.raises(ModelError, match=r"never import code. Export the model"):
        load_model("torch:own_models:detector")
    assert "own_models" not in sys.modules


def test_devices_that_are_not_here_are_errors(files: Path) -> None:
    for device, kind in (("tpu", SpecError), ("cuda:99", Unavailable)):
        with pytest.raises(kind, match=device):
            load_model(str(files / "any.pt2"), LoadOptions(device=device))


def test_commands_that_run_in_place_trust_the_code_that_they_name(
    own_code: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(TRUST_CODE)
    show = ["models", "show", "torch:own_models:detector"]
    with pytest.raises(SystemExit) as end:
        main(show)
    said = capsys.readouterr()
    assert end.value.code == 0, said.err
    assert "classes (3): car, truck, bus" in said.out
    assert TRUST_CODE not in os.environ
    monkeypatch.setenv(TRUST_CODE, "0")
    with pytest.raises(SystemExit) as end:
        main(show)
    said = capsys.readouterr()
    assert end.value.code == 2
    assert "never import code" in said.err
    assert len(said.err.splitlines()) == 1


def test_a_worker_never_imports_what_a_job_names(
    tmp_path: Path, own_code: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "imported"
    (tmp_path / "own_trap.py").write_text(f"open({str(marker)!r}, 'w').close()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    pipe_in, pipe_out = os.pipe()
    job = {"operation": "evaluate", "model": "torch:own_trap:make", "data": "street:demo:1"}
    command = [sys.executable, "-m", "visiondyno.executors.worker_process", str(pipe_out)]
    with (
        os.fdopen(pipe_in, "rb") as answers,
        subprocess.Popen(
            [*command, DEFAULT_ENTRY], stdin=subprocess.PIPE, pass_fds=(pipe_out,)
        ) as worker,
    ):
        os.close(pipe_out)
        assert worker.stdin is not None
        worker.stdin.write(f"J one 0 {json.dumps(job)}\n".encode())
        worker.stdin.flush()
        lines = iter(answers.readline, b"")
        answer = next(line for line in lines if line.startswith((b"E ", b"R ")))
        worker.stdin.close()
        worker.wait(timeout=60)
    assert answer.startswith(b"E one FAILED")
    assert b"never import code" in answer
    assert not marker.exists()


def test_the_digest_of_a_file_is_known_before_loading(files: Path) -> None:
    for name in ("any.pt2", "scripted.torchscript"):
        resolved = resolve_reference(str(files / name))
        with load_model(str(files / name)) as model:
            assert digest_in_description(resolved) == model.description.digest
