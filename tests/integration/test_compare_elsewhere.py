"""Comparisons of local files on other processes and machines: the numbers of this one."""

import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from test_server import dyno_up, url_of

import visiondyno
from dataset_factory import BOXES, SIZES, encoded, write_image_folder, write_yolo
from emulated_endpoint import KEY
from tiny_models import detector_card, grow, write_detector
from training_endpoint import training_endpoint
from visiondyno.cli import main
from visiondyno.client.client import Client
from visiondyno.errors import ClassMismatch, ModelError, SpecError
from visiondyno.job import JobEvent
from visiondyno.measurements.measure import Measure
from visiondyno.places import Place
from visiondyno.report.comparison import Comparison
from visiondyno.runtimes.card_file import card_path, card_text
from visiondyno.vision.video_file import VideoFile

pytestmark = pytest.mark.slow

FAST = {"duration_s": 0.05, "resamples": 100, "scenarios": ["single-stream"], "use_cache": False}
MODELS = ("models/good.onnx", "models/bad.onnx")
TOO_LARGE_FOR_A_REQUEST = 11_000_000


@pytest.fixture(autouse=True)
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, str]], None]:
    """A client's own home and cache; sets more."""
    for name in (*os.environ,):
        if name.startswith(("RUNPOD_", "VISIONDYNO_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path / "client"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def told(names: Mapping[str, str]) -> None:
        for name, value in names.items():
            monkeypatch.setenv(name, value)

    return told


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with models, their cards beside them and not inside, and a YOLO data set."""
    folder = tmp_path / "here"
    (folder / "models").mkdir(parents=True)
    monkeypatch.chdir(folder)
    width, height = SIZES["a.jpg"]
    rows = [
        [left / width * 32, top / height * 32, right / width * 32, bottom / height * 32, 0.9, c]
        for c, (left, top, right, bottom) in BOXES["a.jpg"]
    ]
    for path, answer in zip(MODELS, (rows, [[0, 0, 4, 4, 0.5, 1]]), strict=True):
        write_detector(folder / path, answer, detector_card())
        without_metadata(folder / path)
        card_path(folder / path).write_text(card_text(detector_card(), path, {}))
        grow(folder / path, TOO_LARGE_FOR_A_REQUEST)
    write_yolo(folder / "set")
    return folder


def without_metadata(path: Path) -> None:
    import onnx

    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, path)


def accuracies(comparison: Comparison) -> dict[str, Any]:
    """Everything that depends on models and data alone."""
    return {
        "models": [model.reference for model in comparison.models],
        "numbers": [
            {name: model.measures[name].value for name in ("map_50_95", "map_50", "f1")}
            for model in comparison.models
        ],
        "intervals": [model.measures["map_50_95"].interval for model in comparison.models],
        "per_class": [model.per_class for model in comparison.models],
        "digests": [model.description["digest"] for model in comparison.models],
        "data": comparison.dataset,
        "spec": comparison.spec,
        "left_out": comparison.left_out,
    }


@contextmanager
def on_a_server(tmp_path: Path, _: Callable[[Mapping[str, str]], None]) -> Iterator[Place]:
    home = tmp_path / "server"
    home.mkdir()
    with dyno_up(home, "--workers", "1-1") as (process, said):
        yield Place(url_of(said))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


@contextmanager
def on_runpod(tmp_path: Path, told: Callable[[Mapping[str, str]], None]) -> Iterator[Place]:
    pytest.importorskip("runpod", reason="the extra 'runpod' isn't installed")
    (tmp_path / "endpoint").mkdir()
    with training_endpoint(tmp_path / "endpoint") as endpoint:
        told(endpoint.environ)
        yield Place("runpod", gpu="A4000", max_cost_usd=1.0)


@contextmanager
def on_local(_: Path, __: Callable[[Mapping[str, str]], None]) -> Iterator[Place]:
    yield Place("local", workers=1)


@pytest.mark.parametrize("where", [on_local, on_a_server, on_runpod], ids=lambda one: one.__name__)
def test_two_local_models_have_the_same_accuracy_elsewhere(
    tmp_path: Path, here: Path, environ: Callable[[Mapping[str, str]], None], where: Any
) -> None:
    expected = visiondyno.compare(MODELS, data="set", **FAST)
    assert expected.job is None
    assert expected.models[0].measures["map_50_95"].value != 0
    stages: list[str] = []

    def listen(event: JobEvent) -> None:
        stages.append(str((event.progress or {}).get("stage")))

    with where(tmp_path, environ) as place, Client(place) as client:
        found = visiondyno.compare(MODELS, data="set", on=client, on_event=listen, **FAST)
        assert found.job is not None
        assert found.job.executor == place.where
        assert found.job.execution_ms
        by_yaml = visiondyno.evaluate(MODELS[0], data="set/data.yaml", resamples=100, on=client)
    metrics = {name: Measure.model_validate(found) for name, found in by_yaml["metrics"].items()}
    assert metrics["map_50_95"] == expected.models[0].measures["map_50_95"]
    if where is on_local:
        assert [model.name for model in found.models] == ["good", "bad"]
        assert found.models[0].reference == str(here / MODELS[0])
        numbers = ("numbers", "intervals", "per_class", "digests")
        assert [accuracies(found)[name] for name in numbers] == [
            accuracies(expected)[name] for name in numbers
        ]
        return
    assert accuracies(found) == accuracies(expected)
    text = found.to_json() + json.dumps(by_yaml)
    assert "/entries/" not in text
    assert str(tmp_path) not in text
    assert {"packing set", *(f"uploading {model}" for model in MODELS)} <= set(stages)
    if where is on_runpod:
        assert found.job.cost is not None
        assert 0 < found.job.cost.usd_at_least <= found.job.cost.usd_at_most < 1
        assert "A4000" in (found.job.cost.gpu or "")


def test_every_face_runs_elsewhere(
    tmp_path: Path,
    here: Path,
    environ: Callable[[Mapping[str, str]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    image = str(here / "set" / "images" / "val" / "a.jpg")

    def dyno(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        said = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, said.out, said.err

    with on_runpod(tmp_path, environ):
        elsewhere = ["--on", "runpod", "--gpu", "A4000", "--max-cost", "1"]
        options = ["--duration", "0.05", "--resamples", "100", "--scenario", "offline"]
        code, out, err = dyno(
            "compare", *MODELS, "--data", "set", *options, *elsewhere, "--out", "report"
        )
        assert code == 0, err
        assert "on runpod, waited" in out
        assert "Cost: 0." in out
        assert "uploading models/good.onnx" in err
        record = json.loads((here / "report" / "report.json").read_text())
        assert record["job"]["executor"] == "runpod"
        for form in ("report.html", "report.md"):
            assert record["job"]["id"] in (here / "report" / form).read_text()

        code, out, err = dyno("evaluate", MODELS[0], "--data", "set", *elsewhere, "--json")
        assert code == 0, err
        output = json.loads(out)
        assert output["job"]["execution_ms"] > 0
        assert output["metrics"] == visiondyno.evaluate(MODELS[0], data="set")["metrics"]
        code, out, err = dyno("evaluate", MODELS[0], "--data", "set", *elsewhere)
        assert "Cost: 0." in out

        code, out, err = dyno("predict", MODELS[0], image, *elsewhere, "--json")
        assert json.loads(out)[image] == visiondyno.predict(MODELS[0], [image])[0]
        assert "Job: " in err

        code, _, err = dyno("evaluate", "models/gone.onnx", "--data", "set", *elsewhere)
        assert (code, "There is no model file models/gone.onnx" in err) == (2, True)
        code, _, err = dyno("compare", *MODELS, "--data", "set", "--gpu", "A4000")
        assert (code, "--gpu is for jobs on a RunPod endpoint" in err) == (2, True)


def test_a_video_is_sent_and_comes_back_drawn(
    tmp_path: Path,
    here: Path,
    environ: Callable[[Mapping[str, str]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    fourcc = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(here / "clip.mp4"), cv2.CAP_FFMPEG, fourcc, 10.0, (64, 48))
    for number in range(6):
        writer.write(np.full((48, 64, 3), number * 30, np.uint8))
    writer.release()
    options = ("clip.mp4", "--every", "2", "--track", "--json")
    with pytest.raises(SystemExit):
        main(["predict", MODELS[0], *options])
    expected = capsys.readouterr().out
    assert len(expected.splitlines()) == 3
    with on_a_server(tmp_path, environ) as place:
        outs = ("--out", "drawn.webm", "--out", "found.jsonl")
        with pytest.raises(SystemExit) as ended:
            main(["predict", MODELS[0], *options, *outs, "--on", place.where])
        said = capsys.readouterr()
        assert ended.value.code == 0, said.err
    assert said.out == expected == (here / "found.jsonl").read_text()
    with VideoFile(here / "drawn.webm") as video:
        assert (video.header.frames_per_second, video.header.width) == (5.0, 64)


def test_errors_name_what_the_user_named_and_videos_come_back_drawn(
    tmp_path: Path,
    here: Path,
    environ: Callable[[Mapping[str, str]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    (here / "broken.onnx").write_bytes(b"not a model")
    with on_a_server(tmp_path, environ) as place, Client(place) as client:
        with pytest.raises(ModelError, match=r"^broken\.onnx isn't an ONNX file"):
            visiondyno.evaluate("broken.onnx", data="set", on=client)
        with pytest.raises(ClassMismatch):
            visiondyno.evaluate(MODELS[0], data="set", classes=["cow"], on=client)
        found = visiondyno.compare(["broken.onnx", MODELS[1]], data="set", on=client, **FAST)
        assert [left.reference for left in found.left_out] == ["broken.onnx"]
        assert found.left_out[0].reason.startswith("broken.onnx isn't an ONNX file")
        large = here / "large.png"  # more than a request holds
        large.write_bytes(encoded(".png", 2000, 1800))
        assert large.stat().st_size > TOO_LARGE_FOR_A_REQUEST * 0.9
        given = MODELS[1], [large, here / "set" / "images" / "val" / "a.jpg"]
        assert visiondyno.predict(*given, on=client) == visiondyno.predict(*given)
        check_a_video(here, place, capsys)


def check_a_video(here: Path, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Sent along, it gives the same lines as here, and comes back drawn."""
    fourcc = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(here / "clip.mp4"), cv2.CAP_FFMPEG, fourcc, 10.0, (64, 48))
    for number in range(6):
        writer.write(np.full((48, 64, 3), number * 30, np.uint8))
    writer.release()
    said = []
    outs = ("--out", "drawn.webm", "--out", "found.jsonl")
    for where in ((), ("--on", place.where, *outs)):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["predict", MODELS[0], "clip.mp4", "--every", "2", "--track", "--json", *where])
        said.append(capsys.readouterr())
        assert ended.value.code == 0, said[-1].err
    assert said[0].out == said[1].out == (here / "found.jsonl").read_text()
    assert [json.loads(line)["frame"] for line in said[0].out.splitlines()] == [0, 2, 4]
    with VideoFile(here / "drawn.webm") as video:
        assert (video.header.frames_per_second, video.header.width) == (5.0, 64)


def test_without_an_endpoint_it_runs_here_and_the_report_says_so(here: Path) -> None:
    place = Place("runpod", api_key=KEY, endpoint="http://127.0.0.1:9/v2/none", fallback="inline")
    for model in MODELS:
        write_detector(here / model, [[0, 0, 4, 4, 0.5, 1]])
    found = visiondyno.compare(MODELS, data="set", on=place, **FAST)
    assert found.job is not None
    assert found.job.executor == "inline"
    assert any("Ran on the 'inline' executor instead of 'runpod'" in note for note in found.notes)
    assert [model.reference for model in found.models] == list(MODELS)


def test_files_without_shared_blobs_are_refused_with_the_next_step(here: Path) -> None:
    place = Place("runpod", api_key=KEY, endpoint="abc123")
    with pytest.raises(SpecError, match="VISIONDYNO_BLOBS_URL"):
        visiondyno.compare(MODELS, data="set", on=place, **FAST)


def test_an_interrupt_stops_the_comparison_there(
    tmp_path: Path, here: Path, environ: Callable[[Mapping[str, str]], None]
) -> None:
    def interrupt(event: JobEvent) -> None:
        if event.progress and event.progress.get("stage") == "loaded":
            raise KeyboardInterrupt

    with on_a_server(tmp_path, environ) as place, Client(place) as client:
        with pytest.raises(KeyboardInterrupt):
            visiondyno.compare(
                MODELS, data="set", on=client, on_event=interrupt, **{**FAST, "duration_s": 600}
            )
        jobs = client.health()["jobs"]
    assert (jobs["inProgress"] if "inProgress" in jobs else jobs["IN_PROGRESS"]) == 0


@pytest.mark.torch
def test_a_training_takes_a_folder_along(
    tmp_path: Path, here: Path, environ: Callable[[Mapping[str, str]], None]
) -> None:
    pytest.importorskip("torchvision")
    write_image_folder(here / "animals")
    model = {
        "type": "sequential",
        "layers": [{"type": "flatten"}, {"type": "linear", "in_features": 192, "out_features": 3}],
    }
    data = {"data": "animals", "image_size": 8, "channels": 3}
    with on_a_server(tmp_path, environ) as place, Client(place) as client:
        trainer = visiondyno.Trainer(client)
        there, _ = trainer.train_model(model, data, data, epochs=2, threads=1)
    with Client("inline") as client:
        expected, _ = visiondyno.Trainer(client).train_model(model, data, data, epochs=2, threads=1)
    assert there == expected
