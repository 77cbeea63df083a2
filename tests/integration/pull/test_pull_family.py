"""A family's weights from its publisher's address, here a mirror's, to a comparison."""

from pathlib import Path

import pytest

import visiondyno
from dataset_factory import write_coco
from file_server import FileServer, Served
from visiondyno.class_names import COCO_80
from visiondyno.job import JobEvent
from visiondyno.runtimes.pytorch.ultralytics_names import weights_file
from visiondyno.runtimes.weights import weights_folder

pytestmark = pytest.mark.torch


@pytest.mark.slow
def test_a_comparison_downloads_first_and_once(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ultralytics = pytest.importorskip("ultralytics")
    for name in ("VISIONDYNO_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VISIONDYNO_WEIGHTS_MIRROR", server.url)
    made = tmp_path / "made.pt"
    family = ultralytics.YOLO("yolov8n.yaml", verbose=False)
    family.model.names = dict(enumerate(COCO_80))
    family.save(made)
    address = weights_file("yolov8n").url.removeprefix("https://github.com/")
    server.files[address] = Served(made.read_bytes(), drops=[1_000_000])
    write_coco(tmp_path / "data")
    events: list[JobEvent] = []
    options = {"data": str(tmp_path / "data"), "scenarios": ["single-stream"], "resamples": 100}
    found = visiondyno.compare(
        ["ultralytics:yolov8n"], duration_s=0.01, on_event=events.append, **options
    )
    (model,) = found.models
    assert model.description["reference"] == "ultralytics:yolov8n"
    assert [wanted for _, wanted in server.asked] == [None, "bytes=1000000-"]
    told = [event.progress["stage"] for event in events if "stage" in (event.progress or {})]
    last = max(at for at, stage in enumerate(told) if stage == "downloading yolov8n.pt")
    assert not any(stage.startswith("load") for stage in told[:last])
    assert (weights_folder() / "yolov8n.pt").read_bytes() == made.read_bytes()
    monkeypatch.setenv("VISIONDYNO_OFFLINE", "1")
    again = visiondyno.evaluate("ultralytics:yolov8n", data=options["data"], resamples=100)
    assert again["images"] == found.dataset.images
    assert len(server.asked) == 2
