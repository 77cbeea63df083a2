"""The timm runtime on small models with random weights, beside timm's own way to run them."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.runtime_contract import RuntimeContract, Target, some_images
from hub_server import COMMIT, HubServer, PublishedModel
from trained_model_factory import trained_folder
from visiondyno.errors import ModelError, Unavailable
from visiondyno.predictions import Classification, Image
from visiondyno.runtimes.base import LoadedModel, LoadOptions
from visiondyno.runtimes.pytorch.timm import TimmRuntime
from visiondyno.runtimes.registry import fetch_weights, load_model
from visiondyno.state import from_tensors
from visiondyno.vision.image_level_input import image_level_input
from visiondyno.vision.preprocess import Preprocessor

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
constants = pytest.importorskip("huggingface_hub.constants")
pillow = pytest.importorskip("PIL.Image")
safetensors = pytest.importorskip("safetensors.torch")

SMALL = "test_vit.r160_in1k"
"""Of timm's architectures for tests: 0.4 million weights, 160 pixels, ImageNet's 1000 classes."""


@pytest.fixture(scope="module")
def small() -> Any:
    torch.manual_seed(5)
    module = timm.create_model(SMALL)
    for parameter in module.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return module.eval()


@pytest.fixture(scope="module")
def weights(small: Any) -> bytes:
    data: bytes = safetensors.save(small.state_dict(), {"format": "pt"})
    return data


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def cached(cache: Path, weights: bytes) -> str:
    """The reference of the small model, whose weights are in the hub's cache."""
    place = cache / f"models--timm--{SMALL}"
    snapshot = place / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(weights)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(COMMIT)
    return f"timm:{SMALL}"


class TestTimmRuntime(RuntimeContract):
    @pytest.fixture
    def target(self, cached: str) -> Target:
        references = (cached, "timm:test_efficientnet@none")
        return Target(TimmRuntime(), references, "timm:no_such_model")


def classified(model: LoadedModel, image: Image) -> Classification:
    (found,) = model.predict([image])
    assert isinstance(found, Classification)
    return found


def test_probabilities_are_those_of_timms_own_way(cached: str, small: Any) -> None:
    config = timm.data.resolve_data_config({}, model=small)
    transform = timm.data.create_transform(**config, is_training=False)
    with load_model(cached) as model:
        for image in some_images(5):
            own = pillow.fromarray(np.ascontiguousarray(image[:, :, ::-1]))
            with torch.inference_mode():
                theirs = small(transform(own).unsqueeze(0)).softmax(-1)[0].numpy()
            ours = classified(model, image).probabilities
            np.testing.assert_allclose(ours, theirs, atol=1e-6)
            assert ours.max() > 0.01


def test_an_image_that_is_a_view_is_read_as_it_looks(cached: str) -> None:
    image = some_images(1)[0]
    with load_model(cached) as model:
        turned = classified(model, image[::-1, ::-1]).probabilities
        copied = classified(model, np.ascontiguousarray(image[::-1, ::-1])).probabilities
    np.testing.assert_array_equal(turned, copied)


def test_what_is_loaded_is_told(cached: str, weights: bytes) -> None:
    with load_model(cached) as model:
        said = model.description
        (file,) = model.files
    assert said.runtime == f"timm {timm.__version__}, torch {torch.__version__}"
    assert (said.precision, said.provider, said.batch_size) == ("fp32", "torch cpu", None)
    assert said.file_bytes == len(weights) == file.stat().st_size
    assert (said.card.input.height, said.card.input.width) == (160, 160)
    assert said.card.license == "apache-2.0"
    assert any("apache-2.0" in note for note in said.notes)
    names = said.card.classes
    assert names[0] == "tench, Tinca tinca"
    assert len(set(names)) == 1000
    assert {"crane (n02012849)", "crane (n03126707)"} < set(names)


def test_random_weights_are_told_and_always_the_same() -> None:
    with load_model("timm:test_efficientnet@none") as one:
        first = classified(one, some_images(1)[0]).probabilities
        assert one.description.notes[0].startswith("Random weights")
        assert one.files == ()
        # Timm tells that of the weights that it publishes; these are none of them.
        assert one.description.card.license is None
        assert not any("Its weights are under" in note for note in one.description.notes)
        assert one.description.file_bytes == 0
    torch.manual_seed(99)
    expected = torch.rand(1)
    torch.manual_seed(99)
    with load_model("timm:test_efficientnet@none") as other:
        assert other.description.digest == one.description.digest
        second = classified(other, some_images(1)[0]).probabilities
    np.testing.assert_array_equal(first, second)
    assert torch.rand(1) == expected, "the process's own random numbers go on"


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("timm:resnet1@none", "has no model 'resnet1'.*did you mean"),
        ("timm:resnet18.nothing", r"has no weights 'resnet18\.nothing'; there are: resnet18\."),
        ("timm:hf-hub:maker/any@none", "has no model 'hf-hub"),
        ("timm:resnet18@other", "timm:NAME@none"),
        ("timm:vit_small_patch14_dinov2@none", "has no classifier"),
        ("timm:test_vit", "dyno models pull timm:test_vit"),
        ("timm:botnet50ts_256", "publishes no weights of botnet50ts_256"),
        ("timm:gcvit_xxtiny", "publishes no weights of gcvit_xxtiny"),
    ],
)
def test_what_is_not_there_is_named(reference: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        load_model(reference)


def test_weights_may_name_their_classes_or_leave_them_unnamed(
    cached: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = timm.create_model

    def created(*arguments: Any, **more: Any) -> Any:
        module = create(*arguments, **more)
        module.reset_classifier(2)
        module.pretrained_cfg["label_names"] = names
        module.pretrained_cfg["label_descriptions"] = {"n1": "a car"}
        return module

    monkeypatch.setattr(timm, "create_model", created)
    names: list[str] = ["n1", "n2"]
    with load_model(cached) as model:
        assert model.description.card.classes == ("a car", "n2")
    names = ["n1"]
    with load_model(cached) as model:
        assert model.description.card.classes == ("class 0", "class 1")
        assert any("2 unnamed classes" in note for note in model.description.notes)


def test_a_snapshot_without_weights_is_not_taken_for_whole(cached: str, cache: Path) -> None:
    (file,) = cache.rglob("model.safetensors")
    file.unlink()
    with pytest.raises(ModelError, match=f"dyno models pull {cached}"):
        load_model(cached)


def test_damaged_weights_are_refused(cached: str, cache: Path) -> None:
    (file,) = cache.rglob("model.safetensors")
    state = safetensors.load_file(file)
    safetensors.save_file(dict(list(state.items())[1:]), file, {"format": "pt"})
    with pytest.raises(ModelError, match=r"can't be made: .*Missing key"):
        load_model(cached)
    file.write_bytes(b"\x00" * 100)
    with pytest.raises(ModelError, match="can't be made"):
        load_model(cached)


@pytest.mark.parametrize("argument", ["checkpoint_path", "pretrained_cfg", "cache_dir"])
def test_a_record_that_names_weights_elsewhere_is_refused(
    argument: str, small: Any, tmp_path: Path
) -> None:
    class Marks:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "it-ran",)

    torch.save({"state_dict": Marks()}, tmp_path / "evil.pth")
    given = {argument: str(tmp_path / "evil.pth")}
    state = from_tensors(small.state_dict())
    fields = {"family": "timm", "name": SMALL.partition(".")[0], "arguments": given}
    trained_folder(tmp_path / "trained", state, **fields)
    with pytest.raises(ModelError, match=f"takes no '{argument}' here: it would read weights"):
        load_model(str(tmp_path / "trained"))
    assert not (tmp_path / "it-ran").exists()


def test_weights_are_fetched_once(
    weights: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        files = {"model.safetensors": weights, "pytorch_model.bin": b"x" * 2000}
        server.models[f"timm/{SMALL}"] = PublishedModel(files)
        told: list[tuple[str, int, int | None]] = []
        fetch_weights(f"timm:{SMALL}", lambda *one: told.append(one))
        assert told[-1] == (f"timm/{SMALL}", len(weights), len(weights))
        assert not any("bin" in asked for asked in server.asked)
        asked = len(server.asked)
        fetch_weights(f"timm:{SMALL}")
        fetch_weights("timm:test_vit@none")
        assert len(server.asked) == asked
    with load_model(f"timm:{SMALL}") as model:
        assert classified(model, some_images(1)[0]).probabilities.max() > 0.001
    shutil.rmtree(cache)
    monkeypatch.setenv("VISIONDYNO_OFFLINE", "1")
    with pytest.raises(Unavailable, match="VISIONDYNO_OFFLINE"):
        fetch_weights(f"timm:{SMALL}")


@pytest.mark.parametrize("level", [None, "image"])
def test_a_trained_classifier_is_built_again(level: str | None, tmp_path: Path) -> None:
    torch.manual_seed(2)
    module = timm.create_model("test_efficientnet", num_classes=2).eval()
    trained_folder(
        tmp_path / "trained",
        from_tensors(module.state_dict()),
        family="timm",
        name="test_efficientnet",
        arguments={},
        image_size=96,
        level=level,
    )
    image = some_images(1)[0]
    if level == "image":
        prepared = torch.from_numpy(Preprocessor(image_level_input(96))([image]).tensor)
    else:
        config = timm.data.resolve_data_config({"input_size": (3, 96, 96)}, model=module)
        transform = timm.data.create_transform(**config, is_training=False)
        own = pillow.fromarray(np.ascontiguousarray(image[:, :, ::-1]))
        prepared = transform(own).unsqueeze(0)
    with torch.inference_mode():
        logits = module(prepared)[0]
    theirs = logits.sigmoid() if level == "image" else logits.softmax(-1)
    with load_model(str(tmp_path / "trained"), LoadOptions()) as model:
        card = model.description.card
        assert card.classes == ("car", "truck")
        assert (card.input.height, card.input.width) == (96, 96)
        ours = classified(model, image).probabilities
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-6)
