"""`prune`: smaller networks that answer as they did, scored, trained on, taken up, and refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from block_images import CLASSES, write_blocks
from trained_model_factory import trained_record
from visiondyno.client.client import Client
from visiondyno.client.state_transfer import StateTransfer
from visiondyno.errors import Cancelled, ClassMismatch, ModelError, SpecError, VisionDynoError
from visiondyno.job import JobEvent
from visiondyno.operations.context import OperationContext
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.registry import load_model
from visiondyno.runtimes.trained_models import read_trained, write_trained
from visiondyno.specs.trained_model import RECORD, TrainedModel
from visiondyno.state import from_tensors, to_safetensors
from visiondyno.worker import run

torch = pytest.importorskip("torch")
pytest.importorskip("ultralytics")
pytest.importorskip("torch_pruning")
pytestmark = pytest.mark.torch

Json = dict[str, Any]
SIDE = 64
IMAGES = list(np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8))


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blocks(tmp_path_factory.mktemp("blocks") / "data")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def lively(module: Any) -> Any:
    """With norms that were used: fresh ones would hide a channel that was mixed up."""
    generator = torch.Generator().manual_seed(1)
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1, generator=generator)
            part.running_var.uniform_(0.5, 2, generator=generator)
    return module


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from visiondyno.runtimes.pytorch.ultralytics_networks import build_network, named_architecture

    folder = tmp_path_factory.mktemp("detector") / "model"
    network = lively(build_network(named_architecture("yolov8n", "test"), len(CLASSES), "test"))
    record = trained_record(
        family="ultralytics",
        name="yolov8n",
        arguments={"nc": len(CLASSES)},
        task="detection",
        level=None,
        classes=CLASSES,
        image_size=SIDE,
        license="AGPL-3.0",
    )
    write_trained(folder, record, network.state_dict())
    return folder


def torchvision_folder(folder: Path, name: str, **changes: Any) -> Path:
    from visiondyno.runtimes.pytorch.torchvision_names import build

    kind = changes["task"]
    module = lively(build(name, kind, arguments=changes["arguments"]))
    record = trained_record(
        family="torchvision", name=name, classes=CLASSES, image_size=SIDE, **changes
    )
    write_trained(folder, record, module.state_dict())
    return folder


def pruning(folder: Path, blocks: Path | None = None, **changes: Any) -> Json:
    """Of `blocks`, if given, it is trained; else nothing is."""
    on = {"data": f"{blocks}:train", "validation_data": f"{blocks}:val", "epochs": 1}
    fields = {
        "operation": "prune",
        "model": str(folder),
        **(on if blocks else {"epochs": 0}),
        "batch_size": 4,
        "threads": 1,
        "device": "cpu",
    } | changes
    return {name: value for name, value in fields.items() if value is not None}


def pruned_into(
    folder: Path, job_input: Json, on_event: Callable[[JobEvent], None] = lambda _: None
) -> Json:
    """The answer; its model is a folder then."""
    with Client("inline") as client:
        output = client.run(job_input, on_event=on_event)
        state = StateTransfer(client).receive(output, None)
    record = TrainedModel.model_validate(output["trained_model"])
    assert write_trained(folder, record, dict(state)) == record
    return output


def answers(folder: Path) -> list[Any]:
    with load_model(str(folder), LoadOptions(device="cpu")) as model:
        prepared = model.preprocess(IMAGES)
        return list(model.postprocess(model.infer(prepared), prepared, confidence=0.0))


@pytest.fixture(scope="module")
def narrow(detector: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Json]:
    folder = tmp_path_factory.mktemp("narrow") / "model"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VISIONDYNO_HOME", str(folder.parent / "home"))
        output = pruned_into(folder, pruning(detector, ratio=0.4))
    return folder, output


def test_channels_are_removed_as_it_says(detector: Path, narrow: tuple[Path, Json]) -> None:
    folder, output = narrow
    told = output["pruning"]
    record = read_trained(folder)
    with load_model(str(detector)) as before, load_model(str(folder)) as after:
        # Loaded models have their norms merged into the convolutions.
        removed = 1 - (after.description.parameters or 0) / (before.description.parameters or 0)
    assert removed == pytest.approx(told["parameters_removed"], abs=0.02)
    assert 0.45 < told["parameters_removed"] < 0.7  # 1 - .6²
    assert told["flops_after"] < 0.6 * told["flops_before"]
    for layer in told["layers"]:
        had, has = layer["channels_before"], layer["channels_after"]
        assert has % 8 == 0
        assert abs(has - 0.6 * had) <= 8  # halves of C2f blocks are rounded each
    assert record.pruned is not None
    assert record.pruned.parameters_after == told["parameters_after"]
    assert record.pruned.source_weights_sha256 == read_trained(detector).weights_sha256
    assert record.license == "AGPL-3.0"
    assert (output["history"], output["best_epoch"]) == ([], None)
    assert told["metrics_before"] is told["metrics_pruned"] is None


def test_a_folder_built_again_answers_as_the_network_that_was_pruned(
    detector: Path, narrow: tuple[Path, Json]
) -> None:
    from visiondyno.runtimes.pytorch.ultralytics_networks import build_network, named_architecture
    from visiondyno.runtimes.trained_models import read_weights
    from visiondyno.state.layer_sizes import resize
    from visiondyno.training.vision.pruning import HowToPrune, prune

    def network(folder: Path) -> Any:
        record = read_trained(folder)
        module = build_network(named_architecture("yolov8n", "test"), len(CLASSES), "test")
        resize(module, record.pruned.layers if record.pruned else (), "test")
        weights = read_weights(folder, record)
        module.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
        return module.eval()

    pruned = network(detector)
    with torch.enable_grad():
        prune(pruned, "ultralytics", "yolov8n", SIDE, HowToPrune(0.4, 8, "magnitude", (), 0))
    noise = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(pruned(noise)[0], network(narrow[0])(noise)[0])


def test_a_pruned_model_is_exported_and_says_that_it_was_pruned(
    narrow: tuple[Path, Json],
) -> None:
    folder, output = narrow
    exported = run({"operation": "export", "model": str(folder)}, OperationContext())
    # Nothing but float32 weights makes up the most of it.
    assert exported["size_bytes"] < 4.5 * output["pruning"]["parameters_after"]
    assert exported["max_abs_difference"] < 0.01
    with load_model(str(folder)) as model:
        assert any("Pruned: " in note for note in model.description.notes)


def test_scores_without_training_are_told_and_stay_out_of_the_record(
    blocks: Path, detector: Path, tmp_path: Path
) -> None:
    output = pruned_into(tmp_path / "pruned", pruning(detector, blocks, epochs=0))
    assert set(output["pruning"]["metrics_pruned"]) == {"map_50_95", "map_50", "map_75"}
    record = read_trained(tmp_path / "pruned")
    # It says on what data its metrics were measured: not on these.
    assert record.metrics == {}
    assert record.trained_on == read_trained(detector).trained_on
    assert record.pruned is not None
    assert record.pruned.epochs_after == 0
    assert "torch_pruning" in record.versions
    with load_model(str(tmp_path / "pruned")) as model:
        assert any("nothing was trained since" in note for note in model.description.notes)


def test_a_stopped_pruning_goes_on_and_comes_to_the_same(blocks: Path, detector: Path) -> None:
    job_input = pruning(detector, blocks, epochs=2)
    stages: list[Json] = []
    whole = run(job_input, OperationContext(stages.append))
    names = [stage["stage"] for stage in stages]
    assert names.index("removing channels") < names.index("epoch")
    assert [record["epoch"] for record in whole["history"]] == [1, 2]
    for name in ("metrics_before", "metrics_pruned"):
        assert set(whole["pruning"][name]) == {"map_50_95", "map_50", "map_75"}
        assert all(0 <= value <= 1 for value in whole["pruning"][name].values())
    record = TrainedModel.model_validate(whole["trained_model"])
    assert record.pruned is not None
    assert record.metrics == whole["history"][whole["best_epoch"] - 1]["val_metrics"]
    assert record.trained_on.images == 8

    stages.clear()

    def told_two() -> bool:
        return sum(stage["stage"] == "epoch" for stage in stages) == 2

    # Once the second epoch was told: the checkpoint of the first is there.
    with pytest.raises(Cancelled):
        run(job_input, OperationContext(stages.append, is_cancelled=told_two))
    resumed = run(job_input, OperationContext())
    assert resumed["resumed_from_epoch"] >= 1
    assert resumed["model_state_sha256"] == whole["model_state_sha256"]
    assert resumed["pruning"] == whole["pruning"]


def test_a_pruned_model_is_pruned_again(
    blocks: Path, narrow: tuple[Path, Json], tmp_path: Path
) -> None:
    folder, first = narrow
    output = pruned_into(tmp_path / "again", pruning(folder, ratio=0.5, multiple_of=1))
    assert output["pruning"]["parameters_before"] == first["pruning"]["parameters_after"]
    assert output["pruning"]["parameters_removed"] > 0.6
    assert len(answers(tmp_path / "again")) == len(IMAGES)
    trained = run(pruning(tmp_path / "again", blocks, ratio=0.1, multiple_of=1), OperationContext())
    assert len(trained["history"]) == 1


def test_random_channels_are_those_of_the_seed(tmp_path: Path) -> None:
    source = torchvision_folder(
        tmp_path / "source",
        "squeezenet1_1",
        task="classification",
        level="image",
        arguments={"num_classes": len(CLASSES)},
    )

    def weights(**changes: Any) -> str:
        made = run(pruning(source, importance="random", **changes), OperationContext())
        return str(made["model_state_sha256"])

    assert weights(seed=1) == weights(seed=1) != weights(seed=2)


def test_classifiers_lose_channels_too(blocks: Path, tmp_path: Path) -> None:
    source = torchvision_folder(
        tmp_path / "source",
        "mobilenet_v3_small",
        task="classification",
        level="image",
        arguments={"num_classes": len(CLASSES)},
    )
    output = pruned_into(tmp_path / "pruned", pruning(source, blocks))
    assert 0.3 < output["pruning"]["parameters_removed"] < 0.7
    assert set(output["history"][0]["val_metrics"]) == set(output["pruning"]["metrics_before"])
    assert len(answers(tmp_path / "pruned")[0].probabilities) == len(CLASSES)


def test_a_detector_of_torchvision_loses_channels_of_its_backbone(tmp_path: Path) -> None:
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    arguments = {"num_classes": len(CLASSES) + 1, "min_size": SIDE, "max_size": SIDE}
    source = torchvision_folder(
        tmp_path / "source", name, task="detection", level=None, arguments=arguments
    )
    output = pruned_into(tmp_path / "pruned", pruning(source))
    assert {layer["name"].split(".")[0] for layer in output["pruning"]["layers"]} == {"backbone"}
    assert any("heads behind it keep" in note for note in output["notes"])
    assert len(answers(tmp_path / "pruned")) == len(IMAGES)


def test_published_weights_are_pruned_for_the_classes_of_the_data(
    blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timm = pytest.importorskip("timm")
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("VISIONDYNO_OFFLINE", "1")
    name, commit = "test_efficientnet.r160_in1k", "0" * 40
    place = tmp_path / "hub" / f"models--timm--{name}"
    (place / "snapshots" / commit).mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    weights = to_safetensors(from_tensors(timm.create_model(name).state_dict()))
    (place / "snapshots" / commit / "model.safetensors").write_bytes(weights)
    fields = {"level": "image", "image_size": SIDE, "ratio": 0.5}
    output = pruned_into(
        tmp_path / "pruned", pruning(Path("timm:test_efficientnet"), blocks, **fields)
    )
    told = output["pruning"]
    assert told["parameters_after"] < 0.6 * told["parameters_before"]
    # The classifier was fresh: what the model found before means nothing.
    assert told["metrics_before"] is told["metrics_pruned"] is None
    assert any("began fresh" in note for note in output["notes"])
    assert len(answers(tmp_path / "pruned")[0].probabilities) == len(CLASSES)


def test_layers_that_are_named_keep_their_channels(detector: Path) -> None:
    output = run(pruning(detector, keep_layers=["model.2", "model.4.cv1"]), OperationContext())
    narrowed = {layer["name"] for layer in output["pruning"]["layers"]}
    assert not any(name.startswith(("model.2.", "model.4.cv1")) for name in narrowed)
    assert "model.6.cv1.conv" in narrowed


def refused(job_input: Json, kind: type[VisionDynoError]) -> str:
    with pytest.raises(kind) as caught:
        run(job_input, OperationContext())
    return str(caught.value)


def test_what_cannot_be_pruned_says_so_in_a_sentence(
    blocks: Path, detector: Path, tmp_path: Path
) -> None:
    said = refused(pruning(detector, keep_layers=["model.2.cv9"]), SpecError)
    assert "'model.2.cv9'; did you mean model.2.cv" in said
    assert "no layer of yolov8n loses 8" in refused(pruning(detector, ratio=0.01), SpecError)
    assert "needs 'data'" in refused(pruning(detector, epochs=3), SpecError)
    assert "needs 'data'" in refused(pruning(Path("ultralytics:yolov8n")), SpecError)
    assert "can't be pruned" in refused(pruning(Path("visiondyno:street-n")), SpecError)
    assert "is a detector" in refused(pruning(detector, level="image"), SpecError)
    record = read_trained(detector).model_dump(mode="json", by_alias=True)
    other_kind = tmp_path / "transformers"
    other_kind.mkdir()
    (other_kind / RECORD).write_text(json.dumps({**record, "family": "transformers"}))
    assert "a model of transformers" in refused(pruning(other_kind), SpecError)
    source = torchvision_folder(
        tmp_path / "ssd",
        "ssdlite320_mobilenet_v3_large",
        task="detection",
        level=None,
        arguments={"num_classes": len(CLASSES) + 1},
    )
    assert "middle of its backbone" in refused(pruning(source, image_size=320), ModelError)
    other = write_blocks(tmp_path / "other")
    (other / "data.yaml").write_text(
        (other / "data.yaml").read_text().replace("car", "bus").replace("sign", "tree")
    )
    assert "car" in refused(pruning(detector, other), ClassMismatch)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda layers: layers[0].update(outputs=4096), "can't have"),
        (lambda layers: layers[0].update(outputs=0), "greater than or equal to 1"),
        (lambda layers: layers[0].update(groups=7), "can't have"),
        (lambda layers: layers[0].update(name="model.0.kernel"), "nearest is model.0"),
        (lambda layers: layers.append(dict(layers[0])), "listed twice"),
        (lambda layers: layers.extend(many()), "at most 10000 items"),
        (lambda layers: layers.pop(0), "fit its architecture"),
    ],
)
def test_a_record_that_was_tampered_with_is_refused_in_a_sentence(
    narrow: tuple[Path, Json], tmp_path: Path, change: Callable[[list[Json]], None], said: str
) -> None:
    folder = tmp_path / "hostile"
    folder.mkdir()
    for path in narrow[0].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    content = json.loads((folder / RECORD).read_text())
    change(content["pruned"]["layers"])
    (folder / RECORD).write_text(json.dumps(content))
    with pytest.raises(ModelError, match=said) as caught:
        load_model(str(folder))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


def many() -> list[Json]:
    size = {"inputs": 1, "outputs": 1, "groups": 1}
    return [{"name": f"model.{number}", **size} for number in range(10_001)]
