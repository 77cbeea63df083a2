"""`train` of a detector by reference: scored, stopped, taken up, and refused in a sentence."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from block_images import CLASSES, write_blocks
from visiondyno.datasets.registry import open_dataset
from visiondyno.errors import (
    Cancelled,
    ClassMismatch,
    DatasetError,
    ModelError,
    SpecError,
    VisionDynoError,
)
from visiondyno.executors.scaling import ScaleLimits
from visiondyno.executors.supervised import SupervisedExecutor, queue_workers
from visiondyno.job import JobEvent, JobRequest
from visiondyno.operations.context import OperationContext
from visiondyno.specs.trained_model import TrainedModel
from visiondyno.worker import run

torch = pytest.importorskip("torch")
pytest.importorskip("ultralytics")
pytestmark = pytest.mark.torch

Json = dict[str, Any]


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blocks(tmp_path_factory.mktemp("blocks") / "data")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def job(blocks: Path, **changes: Any) -> Json:
    fields = {
        "operation": "train",
        "model": "ultralytics:yolov8n",
        "data": f"{blocks}:train",
        "validation_data": f"{blocks}:val",
        "epochs": 2,
        "image_size": 64,
        "batch_size": 4,
        "threads": 1,
        "device": "cpu",
        "seed": 5,
        "arguments": {"nbs": 4},
    } | changes
    return {name: value for name, value in fields.items() if value is not None}


def done(
    job_input: Json, on_progress: Callable[[Json], None] = lambda _: None, **context: Any
) -> Json:
    return run(job_input, OperationContext(on_progress, **context))


def test_answers_with_history_weights_and_the_record_of_a_model(blocks: Path, home: Path) -> None:
    stages: list[Json] = []
    output = done(job(blocks), stages.append)
    told = [stage for stage in stages if stage["stage"] == "epoch"]
    assert [record["epoch"] for record in output["history"]] == [1, 2]
    for record, event in zip(output["history"], told, strict=True):
        assert record["train_metrics"]["loss"] > 0
        assert record["train_metrics"]["samples_processed"] == 8
        assert 0 <= record["val_metrics"]["map_50_95"] <= record["val_metrics"]["map_50"] <= 1
        assert {name: event[name] for name in record} == record
    assert output["resumed_from_epoch"] == 0
    record = TrainedModel.model_validate(output["trained_model"])
    assert (record.family, record.name, record.classes) == ("ultralytics", "yolov8n", CLASSES)
    assert record.license == "AGPL-3.0"
    assert record.trained_on.digest == open_dataset(f"{blocks}:train").digest
    assert record.trained_on.validation_digest == open_dataset(f"{blocks}:val").digest
    assert record.weights_sha256 == output["model_state_sha256"]
    best = output["history"][output["best_epoch"] - 1]
    assert record.metrics == best["val_metrics"]
    assert list((home / "cache" / "entries" / "vision-checkpoints").iterdir()) == []


def test_a_cancelled_training_goes_on_and_comes_to_the_same(blocks: Path, tmp_path: Path) -> None:
    whole = done(job(blocks, epochs=3))
    epochs: list[int] = []

    def note(progress: Json) -> None:
        if progress["stage"] == "epoch":
            epochs.append(progress["epoch"])

    # The first check after the second epoch was told: its record is kept, its checkpoint isn't.
    with pytest.raises(Cancelled):
        done(job(blocks, epochs=3), note, is_cancelled=lambda: len(epochs) == 2)
    resumed: list[Json] = []
    output = done(job(blocks, epochs=3), resumed.append)
    began_after = output["resumed_from_epoch"]
    assert began_after in (1, 2)
    assert [one["epoch"] for one in resumed if one["stage"] == "resumed"] == [began_after]
    assert output["history"] == whole["history"]
    assert output["model_state_sha256"] == whole["model_state_sha256"]
    # Another training doesn't take that checkpoint up, nor does one that is done leave one.
    assert done(job(blocks, epochs=3, seed=6))["resumed_from_epoch"] == 0


def test_a_share_is_held_back_where_it_is_asked_for(blocks: Path) -> None:
    output = done(job(blocks, epochs=1, validation_data=None, validation_share=0.25))
    assert output["trained_model"]["trained_on"]["images"] == 6
    assert output["history"][0]["train_metrics"]["samples_processed"] == 6
    assert "map_50_95" in output["history"][0]["val_metrics"]
    assert any("2 of the 8 images" in note for note in output["notes"])


def test_without_validation_the_last_weights_come_back(blocks: Path) -> None:
    output = done(job(blocks, validation_data=None, classes=["sign"], device="auto"))
    assert all("val_metrics" not in record for record in output["history"])
    assert output["best_epoch"] == 2
    assert output["trained_model"]["classes"] == ["sign"]
    assert any("last epoch" in note for note in output["notes"])


def test_begins_with_weights_that_came(blocks: Path) -> None:
    first = done(job(blocks, epochs=1))
    state = {name: first[name] for name in ("model_state", "model_state_format")}
    again = done(job(blocks, epochs=1, **state))
    assert again["history"] != first["history"]
    with pytest.raises(SpecError, match="another model"):
        done(job(blocks, model="ultralytics:yolov5n", epochs=1, **state))


def test_begins_with_published_weights_that_are_here(
    blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from visiondyno.runtimes.weights import weights_folder
    from visiondyno.vision.ultralytics_library import import_ultralytics

    import_ultralytics("This test")
    from ultralytics.nn.tasks import DetectionModel

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("VISIONDYNO_OFFLINE", "1")
    with pytest.raises(VisionDynoError, match="dyno models pull ultralytics:yolov8n"):
        done(job(blocks, pretrained=True))
    weights_folder().mkdir(parents=True)
    published = DetectionModel("yolov8n.yaml", nc=80, verbose=False)
    torch.save({"model": published}, weights_folder() / "yolov8n.pt")
    output = done(job(blocks, pretrained=True, epochs=1))
    assert any("began fresh" in note for note in output["notes"])  # 80 classes aren't 2


def test_a_classifier_learns_which_classes_are_in_an_image(blocks: Path) -> None:
    output = done(
        job(
            blocks,
            model="torchvision:mobilenet_v3_small",
            level="image",
            arguments=None,
        )
    )
    metrics = output["history"][-1]["val_metrics"]
    assert {"image_ap", "image_accuracy", "f1"} <= metrics.keys()
    assert output["trained_model"]["level"] == "image"
    assert output["trained_model"]["task"] == "classification"
    assert output["trained_model"]["license"] is None


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"model": "ultralytics:yolov8q"}, SpecError, "did you mean"),
        ({"model": "ultralytics:yolov8n-seg"}, SpecError, "no detector"),
        ({"model": "ultralytics:yolov8"}, SpecError, "add its size"),
        ({"model": "torchvision:resnet18"}, SpecError, "'level': 'image'"),
        ({"model": "ultralytics:yolov8n", "level": "image"}, SpecError, "leave it out"),
        ({"model": "weights.pt"}, SpecError, "can't be trained"),
        ({"image_size": 100}, SpecError, "take 96 or 128"),
        ({"arguments": {"mosaic": 7}}, SpecError, "mosaic"),
        ({"arguments": {"amp": True}}, SpecError, "bf16"),
        ({"arguments": {"nbs": float("inf")}}, SpecError, "finite"),
        ({"arguments": {"x": "y" * 20_000}}, SpecError, "too much"),
        ({"image_size": 32, "batch_size": 7}, SpecError, "one by itself"),
        ({"classes": ["bus"]}, ClassMismatch, "bus"),
        ({"classes": ["car", "car"]}, SpecError, "twice"),
        ({"data": "digits:val:20"}, DatasetError, "boxes"),
        ({"validation_data": "street:val:4", "classes": ["sign"]}, None, ""),
        ({"validation_share": 0.5}, SpecError, "validation_share"),
        ({"pretrained": True, "model_state": "AAAA"}, SpecError, "both say"),
        ({"model_state": "AAAA"}, ModelError, "model_state"),
        ({"no_such": 1}, SpecError, "no_such"),
    ],
)
def test_what_is_wrong_is_said(
    blocks: Path, changes: Json, kind: type[VisionDynoError] | None, words: str
) -> None:
    if kind is None:  # a class of the same name in other data is scored
        assert done(job(blocks, epochs=1, **changes))["notes"] == []
        return
    with pytest.raises(kind, match=words):
        done(job(blocks, **changes))


def test_validation_data_of_other_classes_are_refused(blocks: Path, tmp_path: Path) -> None:
    other = write_blocks(tmp_path / "other", train=2, val=2)
    text = (other / "data.yaml").read_text()
    (other / "data.yaml").write_text(text.replace("car", "bus").replace("sign", "tram"))
    with pytest.raises(ClassMismatch, match="none of the classes"):
        done(job(blocks, validation_data=f"{other}:val"))
    (other / "data.yaml").write_text(text.replace("sign", "tram"))
    output = done(job(blocks, epochs=1, validation_data=f"{other}:val"))
    assert any("has no sign" in note for note in output["notes"])
    with pytest.raises(DatasetError, match="has a box of"):
        done(
            job(blocks, data=f"{other}:train", classes=["tram"], max_images=1, validation_data=None)
        )


def test_training_data_as_validation_data_are_told(blocks: Path) -> None:
    output = done(job(blocks, epochs=1, validation_data=f"{blocks}:train"))
    assert any("by heart" in note for note in output["notes"])


def test_images_too_many_to_keep_are_decoded_each_time(
    blocks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = done(job(blocks, epochs=2))
    monkeypatch.setattr("visiondyno.operations.epoch_scores.KEPT_BYTES", 0)
    monkeypatch.setattr("visiondyno.training.vision.ultralytics_images.MAX_KEPT_BYTES", 0)
    assert done(job(blocks, epochs=2))["history"] == kept["history"]


async def _trained(folder: Path, job_input: Json, kill_after: int) -> list[JobEvent]:
    """All events of the job; its worker is killed as soon as that epoch is told."""
    environ = {**os.environ, "VISIONDYNO_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    workers = queue_workers(str(folder / "queue.sqlite3"), ScaleLimits(1, 1, 60.0))
    events: list[JobEvent] = []
    async with (
        SupervisedExecutor(workers, max_attempts=3, environ=environ) as executor,
        asyncio.timeout(200),
    ):
        job_id = await executor.submit(JobRequest(input=job_input))
        async for event in executor.watch(job_id):
            events.append(event)
            progress = event.progress or {}
            if progress.get("stage") == "epoch" and progress["epoch"] == kill_after:
                kill_after = -1
                (worker,) = [one for one in await executor.workers() if one.pid]
                with_it = psutil.Process(worker.pid)
                os.kill(worker.pid, signal.SIGKILL)
                psutil.wait_procs([with_it], timeout=20)
    return events


@pytest.mark.slow
def test_a_training_whose_worker_is_killed_goes_on(blocks: Path, tmp_path: Path) -> None:
    asked = job(blocks, epochs=8)  # some are left, however late the kill comes
    events = asyncio.run(_trained(tmp_path, asked, kill_after=3))
    answer = events[-1].answer
    assert answer is not None
    output = answer.result()
    # Not every epoch of so short ones is worth a checkpoint.
    assert output["resumed_from_epoch"] in range(1, 8)
    assert [record["epoch"] for record in output["history"]] == [*range(1, 9)]
    whole = done(asked)
    assert output["history"] == whole["history"]
    assert output["model_state_sha256"] == whole["model_state_sha256"]


def test_the_random_state_of_the_process_stays(blocks: Path) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002 - the global one
    done(job(blocks, epochs=1))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002 - likewise
