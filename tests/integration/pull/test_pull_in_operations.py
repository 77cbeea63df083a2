"""Operations and commands download weights before they load a model, and say so."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

import visiondyno
from dataset_factory import write_coco
from file_server import FileServer, Served
from visiondyno.cli import main
from visiondyno.errors import ModelError, Unavailable
from visiondyno.job import JobEvent
from visiondyno.runtimes import registry
from visiondyno.runtimes.base import LoadedModel, LoadOptions, Progress, Runtime
from visiondyno.runtimes.fake import FakeRuntime
from visiondyno.runtimes.trained_models import register, write_trained
from visiondyno.runtimes.weights import WeightsFile, fetch_weights, find_weights
from visiondyno.specs.trained_model import TrainedModel, TrainedOn

DATA = np.random.default_rng(2).bytes(100_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
REFERENCE = "timm:net-n"
CLASSES = ["car", "truck"]
DATA_FOLDER = "DATA"


class NetRuntime(Runtime):
    """A family of one model, whose weights are at an address that only a mirror has."""

    name = "timm"
    file = WeightsFile("https://publisher.invalid/v1/net-n.bin", "net-n.bin", SHA256, "MIT")

    def fetch(self, reference: str, on_progress: Progress | None = None) -> None:
        fetch_weights(self.file, reference, on_progress)

    def load(self, reference: str, options: LoadOptions) -> LoadedModel:
        find_weights(self.file, reference)
        return FakeRuntime().load("fake:detection", options)


@pytest.fixture(autouse=True)
def family(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("VISIONDYNO_OFFLINE", "HF_HUB_OFFLINE"):
        # Set first, so that what a command sets is taken back.
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("VISIONDYNO_WEIGHTS_MIRROR", server.url)
    monkeypatch.setitem(registry._CLASSES, "timm", f"{__name__}:NetRuntime")
    registry.runtime.cache_clear()
    server.files["v1/net-n.bin"] = Served(DATA)
    yield
    registry.runtime.cache_clear()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), np.full((40, 60, 3), 90, np.uint8))
    return path


@pytest.fixture
def data(tmp_path: Path) -> str:
    write_coco(tmp_path / "data")
    return str(tmp_path / "data")


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    code = ended.value.code
    assert isinstance(code, int)
    return code


def stages(events: list[JobEvent]) -> list[str]:
    found: list[str] = []
    for event in events:
        stage = (event.progress or {}).get("stage")
        if stage is not None and stage not in found:
            found.append(stage)
    return found


class TestOperations:
    def test_a_prediction_downloads_once_and_before_it_loads(
        self, server: FileServer, image: Path
    ) -> None:
        events: list[JobEvent] = []
        found = visiondyno.predict(REFERENCE, [image], on_event=events.append)
        assert len(found) == 1
        assert stages(events)[:2] == ["downloading net-n.bin", "loading the model"]
        (last,) = [
            event.progress
            for event in events
            if event.progress and event.progress.get("done") == len(DATA)
        ]
        assert last["total"] == len(DATA)
        assert (last["unit"], last["model"]) == ("bytes", REFERENCE)
        visiondyno.predict(REFERENCE, [image])
        assert len(server.asked) == 1

    def test_an_evaluation_downloads_too(self, server: FileServer, data: str) -> None:
        options = {"data": data, "classes": CLASSES, "resamples": 100}
        server.files["v1/net-n.bin"].statuses.append(404)
        with pytest.raises(ModelError, match=r"\(404\)"):
            visiondyno.evaluate(REFERENCE, **options)
        events: list[JobEvent] = []
        visiondyno.evaluate(REFERENCE, on_event=events.append, **options)
        assert "downloading net-n.bin" in stages(events)

    def test_nothing_is_downloaded_offline(
        self, server: FileServer, image: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("VISIONDYNO_OFFLINE", "1")
        with pytest.raises(Unavailable, match=f"dyno models pull {REFERENCE}$"):
            visiondyno.predict(REFERENCE, [image])
        assert server.asked == []

    def test_a_comparison_goes_on_without_a_model_that_can_not_be_downloaded(
        self, server: FileServer, data: str
    ) -> None:
        server.files.clear()
        events: list[JobEvent] = []
        found = visiondyno.compare(
            ["fake:detection", REFERENCE],
            data=data,
            classes=CLASSES,
            on_event=events.append,
            scenarios=["single-stream"],
            duration_s=0.01,
            resamples=100,
        )
        (left,) = found.left_out
        assert (left.reference, left.stage) == (REFERENCE, "fetch")
        assert "no such file (404). Name a mirror with VISIONDYNO_WEIGHTS_MIRROR" in left.reason
        assert [model.reference for model in found.models] == ["fake:detection"]
        told = [event.progress for event in events if event.progress]
        first = next(at for at, said in enumerate(told) if said.get("model") == "fake:detection")
        gave_up = next(at for at, said in enumerate(told) if "left out" in said.get("stage", ""))
        assert gave_up < first


class TestCommands:
    def test_pull_show_list_and_pull_again(
        self, server: FileServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("models", "show", REFERENCE) == 2
        assert f"fetch them with: dyno models pull {REFERENCE}" in capsys.readouterr().err
        assert server.asked == []
        assert run("models", "pull", REFERENCE, "visiondyno:street-n", "fake:detection") == 0
        said = capsys.readouterr()
        assert "downloading net-n.bin" in said.err
        assert "net-n.bin (0.0954 MiB)" in said.out
        assert "visiondyno:street-n: needs no download: " in said.out
        assert "fake:detection: on this machine" in said.out
        assert run("models", "show", REFERENCE) == 0
        assert "no file, any batch size" in capsys.readouterr().out
        assert run("models") == 0
        listed = capsys.readouterr().out
        assert "Downloaded weights" in listed
        assert SHA256[:8] in listed
        assert run("models", "pull", REFERENCE, "--offline") == 0
        assert len(server.asked) == 1

    def test_what_could_not_be_pulled_stops_no_other(
        self, server: FileServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        server.files["v1/net-n.bin"] = Served(DATA[::-1])
        assert run("models", "pull", REFERENCE, "nothing.onnx", "visiondyno:street-n") == 2
        said = capsys.readouterr()
        assert "visiondyno:street-n: needs no download" in said.out
        assert f"{REFERENCE}: What came for {REFERENCE} isn't the file" in said.err
        assert "nothing.onnx: There is no model file nothing.onnx" in said.err
        assert "2 of 3 models weren't pulled" in said.err

    @pytest.mark.parametrize(
        "arguments",
        [
            ("models", "pull", REFERENCE),
            ("predict", REFERENCE, "IMAGE"),
            ("evaluate", REFERENCE, "--data", DATA_FOLDER),
            ("compare", REFERENCE, "--data", DATA_FOLDER),
            ("serve", REFERENCE, "--port", "0"),
        ],
        ids=lambda arguments: arguments[0],
    )
    def test_commands_stay_offline_where_asked(
        self,
        server: FileServer,
        image: Path,
        data: str,
        capsys: pytest.CaptureFixture[str],
        arguments: tuple[str, ...],
    ) -> None:
        places = {"IMAGE": str(image), DATA_FOLDER: data}
        assert run(*(places.get(one, one) for one in arguments), "--offline") == 2
        assert "nothing may be downloaded (--offline or VISIONDYNO_OFFLINE)" in (
            capsys.readouterr().err
        )
        assert server.asked == []

    @pytest.mark.parametrize("way", ["flag", "environment"])
    def test_libraries_of_models_are_told_too(
        self, monkeypatch: pytest.MonkeyPatch, way: str
    ) -> None:
        """What a command says holds for the processes it starts: it is in the environment."""
        if way == "environment":
            monkeypatch.setenv("VISIONDYNO_OFFLINE", "true")
        flags = ["--offline"] if way == "flag" else []
        assert run("models", "pull", "fake:detection", *flags) == 0
        assert (os.environ["VISIONDYNO_OFFLINE"], os.environ["HF_HUB_OFFLINE"]) == ("1", "1")

    def test_a_server_downloads_before_its_first_replica(
        self, server: FileServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        server.files["v1/net-n.bin"].statuses.append(403)
        assert run("serve", REFERENCE, "--port", "0") == 2
        assert "the server refuses it (403)" in capsys.readouterr().err

    def test_trained_models_are_listed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("COLUMNS", "200")
        folder = tmp_path / "mine"
        register(folder, write_trained(folder, TRAINED, {}))
        assert run("models") == 0
        listed = capsys.readouterr().out
        assert "Trained here, newest first" in listed
        assert str(folder) in listed
        assert "ultralytics:yolov8n" in listed


TRAINED = TrainedModel(
    family="ultralytics",
    name="yolov8n",
    task="detection",
    classes=("car",),
    image_size=64,
    trained_on=TrainedOn(reference="street:train", digest="sha256:1", images=3),
    epochs=2,
    best_epoch=1,
    weights_sha256="0" * 64,
    created_at="2026-01-01T00:00:00+00:00",
)
