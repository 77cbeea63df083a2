"""A submission is scored outside a confined child, whatever the child does or says."""

import asyncio
import base64
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hostile_graphs import harmless, scaled
from small_depth_task import small_task, write_hidden_data
from visiondyno import worker
from visiondyno.blobs.folder import FolderBlobs
from visiondyno.errors import (
    Cancelled,
    ChildDied,
    ClassMismatch,
    MissingExtra,
    ModelError,
    NotFound,
    OperationFailed,
    SpecError,
    TimeLimitExceeded,
    VisionDynoError,
)
from visiondyno.operations import confined_model, worker_files
from visiondyno.operations.context import OperationContext
from visiondyno.sandbox.landlock import landlock_version

IMAGES = 12


class Place:
    """A worker's home with hidden data; `score` runs the operation there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events: list[dict[str, Any]] = []
        write_hidden_data(folder / "hidden", IMAGES)

    def task(self, **changes: Any) -> dict[str, Any]:
        return small_task(self.folder / "hidden", **{"images": IMAGES, **changes})

    def score(
        self, data: bytes = b"", context: OperationContext | None = None, **task: Any
    ) -> dict[str, Any]:
        async def chunks() -> AsyncIterator[bytes]:
            yield data or harmless()

        blobs = FolderBlobs(self.folder / "home" / "blobs")
        sha256 = asyncio.run(blobs.put(chunks()))
        job_input = {
            "operation": "score_submission",
            "task": self.task(**task),
            "model": f"sha256:{sha256}",
            "file_name": "theirs.onnx",
        }
        return worker.run(job_input, context or OperationContext(on_progress=self.events.append))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    return Place(tmp_path)


def become(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(confined_model, "_CHILD", f"lying_children:{name}")


def test_score_interval_protections_and_progress(place: Place) -> None:
    found = place.score()
    split = found["splits"]["all"]
    assert 0 < split["low"] <= split["score"] <= split["high"] < 1
    assert split["score"] == split["measures"]["delta1"]["value"]
    assert split["images"] == found["images"] == IMAGES
    paired = np.frombuffer(base64.b64decode(split["paired"]), "<f4")
    assert len(paired) == 100
    assert math.isclose(paired.mean(), split["score"], abs_tol=0.05)
    assert found["protections"]["memory"] == {"held": True, "how": "RLIMIT_DATA 1.0 GB"}
    assert set(found["protections"]) >= {"network", "files", "processes", "environment"}
    assert found["description"]["runtime"].startswith("onnxruntime")
    assert 0 < found["predict_s"] < found["total_s"]
    stages = [event["stage"] for event in place.events]
    order = ["fetching the model", "checking the model", "loading the model", "scoring"]
    assert [stage for stage in stages if stage in order] == order


def test_public_and_private_part_are_scored_apart_and_disjoint(place: Place) -> None:
    split = {"public": 0.25, "seed": 7}
    found = place.score(
        split=split, metric={**place.task()["metric"], "name": "abs_rel", "better": "lower"}
    )
    public, private = found["splits"]["public"], found["splits"]["private"]
    assert (public["images"], private["images"]) == (3, 9)
    assert public["score"] != private["score"]
    assert public["low"] is None  # three images say nothing
    whole = place.score()["splits"]["all"]["measures"]["abs_rel"]["value"]
    assert math.isclose(whole, (3 * public["score"] + 9 * private["score"]) / 12)


def test_the_task_says_how_depth_is_aligned_not_the_model(place: Place) -> None:
    """A model's own card could ask for a kinder alignment than the task's."""
    far_off = scaled(100.0)
    assert place.score(far_off)["splits"]["all"]["score"] > 0.3
    strict = {"output": "depth", "alignment": "none"}
    assert place.score(far_off, depth=strict)["splits"]["all"]["score"] < 0.05


def test_the_blob_must_be_there(place: Place) -> None:
    job_input = {
        "operation": "score_submission",
        "task": place.task(),
        "model": f"sha256:{'0' * 64}",
    }
    with pytest.raises(NotFound, match="VISIONDYNO_BLOBS_URL"):
        worker.run(job_input, OperationContext())
    with pytest.raises(SpecError, match="model"):
        worker.run({**job_input, "model": "../../etc/passwd"}, OperationContext())


def test_the_workers_key_goes_to_its_own_address_only(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[str | None, str | None]] = []

    def note(
        url: str | None, folder: Path, api_key: str | None, quota_bytes: int | None
    ) -> FolderBlobs:
        opened.append((url, api_key))
        return FolderBlobs(folder)

    monkeypatch.setattr(worker_files, "open_blobs", note)
    monkeypatch.setenv("VISIONDYNO_BLOBS_API_KEY", "vd_secret")
    job_input = {
        "operation": "score_submission",
        "task": place.task(),
        "model": f"sha256:{'0' * 64}",
        "blobs_url": "https://elsewhere.example/blobs",
    }
    for own in (None, "https://mine.example/blobs"):
        if own is not None:
            monkeypatch.setenv("VISIONDYNO_BLOBS_URL", own)
        with pytest.raises(NotFound):
            worker.run(job_input, OperationContext())
    assert opened == [
        ("https://elsewhere.example/blobs", None),
        ("https://mine.example/blobs", "vd_secret"),
    ]


def test_the_data_must_be_as_many_as_the_task_says(place: Place) -> None:
    with pytest.raises(OperationFailed, match="for 13 images"):
        place.score(images=13)


def test_a_cancel_stops_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    become(monkeypatch, "endless")
    events: list[dict[str, Any]] = []
    context = OperationContext(
        on_progress=events.append,
        is_cancelled=lambda: bool(events) and events[-1]["stage"] == "loading the model",
    )
    with pytest.raises(Cancelled):
        place.score(context=context)


def test_it_is_stopped_at_the_tasks_limit(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    become(monkeypatch, "endless")
    limits = {**place.task()["limits"], "time_s": 2}
    with pytest.raises(TimeLimitExceeded, match=r"stopped while (check|load)ing .* 2 s"):
        place.score(limits=limits)


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("crashing", ChildDied, "theirs.onnx ended the process that was checking.*SIGSEGV"),
        ("silent", ChildDied, "never said what it loaded"),
        ("describing_nonsense", ChildDied, "can't be read"),
        ("of_another_task", ModelError, "theirs.onnx is a classification model"),
        ("leaving_rubbish", OperationFailed, "left predictions that can't be read"),
        ("rate_limited", ModelError, "x{600}…$"),
        ("without_a_gpu", MissingExtra, "'gpu'"),
        ("defective", VisionDynoError, "defect.*boom"),
    ],
)
def test_a_childs_end_is_told_in_words(
    place: Place, monkeypatch: pytest.MonkeyPatch, name: str, kind: type[Exception], says: str
) -> None:
    become(monkeypatch, name)
    with pytest.raises(kind, match=says):
        place.score()


def test_a_child_that_lies_changes_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = place.score()
    become(monkeypatch, "lying")
    lying = place.score()
    assert lying["splits"] == honest["splits"]
    assert lying["protections"] == honest["protections"]
    assert all(event.get("done", 0) in range(IMAGES + 1) for event in place.events[-20:])


@pytest.mark.skipif(landlock_version() == 0, reason="no Landlock here")
def test_labels_are_out_of_the_childs_reach(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    become(monkeypatch, "peeking")
    with pytest.raises(ClassMismatch, match="No label can be read"):
        place.score()
