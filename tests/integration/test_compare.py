"""`visiondyno.compare` whole: real child processes, real data, a real report."""

import json
from pathlib import Path

import numpy as np
import psutil
import pytest

import visiondyno
from dataset_factory import BOXES, SIZES, write_coco, write_image_folder
from tiny_models import detector_card, write_constant_model, write_detector
from visiondyno.cli import main
from visiondyno.errors import ClassMismatch, DatasetError, ModelError, SpecError
from visiondyno.job import JobEvent
from visiondyno.measurements.measure import MEASURES
from visiondyno.report.comparison import Comparison
from visiondyno.specs.model_card import InputCard, ModelCard

FAST = {"duration_s": 0.05, "resamples": 100}


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_coco(tmp_path / "data")
    return tmp_path / "data"


def perfect_on(path: Path, name: str) -> Path:
    """A detector that answers the true boxes of one image, in its own pixels, to every image."""
    width, height = SIZES[name]
    rows = [
        [left / width * 32, top / height * 32, right / width * 32, bottom / height * 32, 0.9, c]
        for c, (left, top, right, bottom) in BOXES[name]
    ]
    return write_detector(path, rows)


@pytest.fixture
def models(tmp_path: Path) -> tuple[str, str]:
    good = perfect_on(tmp_path / "good.onnx", "a.jpg")
    bad = write_detector(tmp_path / "bad.onnx", [[0, 0, 4, 4, 0.5, 1]])
    return str(good), str(bad)


def test_a_comparison_holds_every_measure_with_unit_and_method(
    data: Path, models: tuple[str, str]
) -> None:
    found = visiondyno.compare(models, data=str(data), **FAST)
    assert [model.name for model in found.models] == ["good", "bad"]
    for model in found.models:
        expected = set(MEASURES) - {
            *("top1", "top5", "abs_rel", "rmse", "delta1"),
            *("image_ap", "image_auc", "image_accuracy", "agreement"),
        }
        assert set(model.measures) == expected
        for name, measure in model.measures.items():
            assert measure.unit == MEASURES[name].unit
            assert measure.value is not None or measure.reason, name
            assert (
                measure.value != 0
                or name in {"map_small", "map_medium", "map_large"}
                or (model.name == "bad")
            ), name
        samples = model.scenarios["single-stream"].samples_ms
        assert len(samples) >= 64
        assert model.measures["latency_p50_ms"].n == len(samples)
        assert model.measures["peak_rss_bytes"].value > 20e6  # type: ignore[operator]
        assert not model.measures["peak_rss_bytes"].estimated
    good, bad = (model.measures["map_50_95"].value for model in found.models)
    assert good is not None
    assert bad is not None
    assert good > bad
    assert found.dataset.images == len(SIZES)
    assert found.dataset.objects == sum(map(len, BOXES.values()))
    assert {winner.category for winner in found.winners} >= {"accuracy", "memory", "overall"}
    assert found.green_reference == models[0]
    assert Comparison.model_validate_json(found.to_json()) == found


def test_a_model_that_fails_is_listed_and_the_others_go_on(
    data: Path, models: tuple[str, str], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    other = write_detector(
        tmp_path / "cats.onnx", [[0, 0, 4, 4, 0.5, 1]], detector_card(("a", "b"))
    )
    nan = write_detector(tmp_path / "nan.onnx", [[0, 0, float("nan"), 4, 0.5, 1]])
    given = [str(broken), models[0], "wav2vec2", str(other), str(nan)]
    found = visiondyno.compare(given, data=str(data), reference=str(broken), **FAST)
    assert [model.reference for model in found.models] == [models[0]]
    left = {item.reference: item for item in found.left_out}
    assert set(left) == {str(broken), "wav2vec2", str(other), str(nan)}
    assert "audio" in left["wav2vec2"].reason
    assert "NaN" in left[str(nan)].reason
    assert left[str(nan)].stage == "accuracy pass" or left[str(nan)].stage == "loaded"
    assert "car" in left[str(other)].reason
    assert found.green_reference == models[0]
    assert any("broken.onnx could not be measured" in note for note in found.notes)


def test_a_single_failing_model_is_its_own_error(data: Path, tmp_path: Path) -> None:
    other = write_detector(tmp_path / "c.onnx", [[0, 0, 4, 4, 0.5, 1]], detector_card(("a", "b")))
    with pytest.raises(ClassMismatch, match="stop sign"):
        visiondyno.compare([str(other)], data=str(data), **FAST)


def test_several_failing_models_are_all_named(data: Path) -> None:
    with pytest.raises(ModelError, match=r"None of the 2 models .*text.*audio"):
        visiondyno.compare(["roberta_base", "wav2vec2"], data=str(data), **FAST)


def test_classes_narrow_what_is_scored(data: Path, models: tuple[str, str]) -> None:
    found = visiondyno.compare([models[0]], data=str(data), classes=["car"], **FAST)
    assert found.dataset.classes == {"car": 2}
    assert set(found.models[0].per_class) == {"car"}


def test_bad_images_are_skipped_alike_for_all_models_and_counted(
    data: Path, models: tuple[str, str]
) -> None:
    (data / "images" / "d.webp").write_bytes(b"")
    path = data / "images" / "b.png"
    content = bytearray(path.read_bytes())
    content[60:-60] = bytes(len(content) - 120)  # header and end stay whole
    path.write_bytes(content)
    with pytest.raises(DatasetError):
        visiondyno.compare(models, data=str(data), **FAST)
    found = visiondyno.compare(models, data=str(data), skip_bad=True, **FAST)
    assert found.dataset.images == 2
    assert {Path(bad.image).name for bad in found.dataset.skipped} == {"b.png", "d.webp"}
    assert all(model.measures["map_50_95"].n == 2 for model in found.models)


def test_a_classifier_is_scored_on_an_image_folder(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "data")
    classes = tuple(sorted(path.name for path in (tmp_path / "data").iterdir()))
    card = ModelCard(
        task="classification",
        head="classification",
        classes=classes,
        input=InputCard(height=32, width=32, resize="stretch"),
        activation="softmax",
    )
    logits = np.arange(len(classes), 0, -1, dtype=np.float32)[None]
    path = write_constant_model(tmp_path / "net.onnx", logits, card)
    found = visiondyno.compare([str(path)], data=str(tmp_path / "data"), **FAST)
    counts = found.dataset.classes
    assert found.models[0].measures["top1"].value == pytest.approx(
        counts[classes[0]] / sum(counts.values())
    )
    accuracy, top1 = (found.models[0].measures[name] for name in ("accuracy", "top1"))
    assert (accuracy.value, accuracy.interval) == (top1.value, top1.interval)
    assert found.models[0].worst_images[0].caption.endswith(")")


def test_scenarios_can_be_left_out_and_say_so(data: Path, models: tuple[str, str]) -> None:
    found = visiondyno.compare([models[0]], data=str(data), scenarios=["offline"], **FAST)
    measures = found.models[0].measures
    assert "latency_p50_ms" not in measures
    assert measures["throughput_images_per_s"].value is not None
    assert "single-stream" in (measures["co2_grams_per_1000_images"].reason or "")


def test_cost_and_carbon_follow_price_and_region(data: Path, models: tuple[str, str]) -> None:
    found = visiondyno.compare([models[0]], data=str(data), region="FRA", price="3.60", **FAST)
    measures = found.models[0].measures
    rate = measures["throughput_images_per_s"].value
    assert rate is not None
    assert measures["cost_usd_per_1000_images"].value == pytest.approx(1.0 / rate)
    energy = measures["energy_joules_per_image"]
    assert energy.value is not None
    carbon = measures["co2_grams_per_1000_images"]
    assert carbon.value == pytest.approx(energy.value * 1000 / 3.6e6 * 56)
    assert carbon.estimated == energy.estimated


def test_a_cancelled_comparison_leaves_no_process(data: Path, models: tuple[str, str]) -> None:
    def interrupt(event: JobEvent) -> None:
        if event.progress and event.progress["stage"] == "loaded":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        visiondyno.compare([models[0]], data=str(data), duration_s=600, on_event=interrupt)
    mine = psutil.Process().children(recursive=True)
    assert not [child for child in mine if "visiondyno.sandbox" in " ".join(child.cmdline())]


def test_the_report_reproduces_itself_and_guards_against_regressions(
    data: Path, models: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def dyno(*arguments: str) -> int:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        code = ended.value.code
        assert isinstance(code, int)
        return code

    first, second = tmp_path / "first", tmp_path / "second"
    options = ["--duration", "0.05", "--resamples", "100"]
    assert dyno("compare", *models, "--data", str(data), *options, "--out", str(first)) == 0
    said = capsys.readouterr().out
    assert f"Report: {first / 'report.html'}" in said
    assert {path.name for path in first.iterdir()} == {
        "report.html",
        "report.json",
        "report.md",
        "report.csv",
        "comparison.yaml",
    }
    again = ["compare", str(first / "comparison.yaml"), "--out", str(second)]
    guard = ["--baseline", str(first), "--fail-if", "map_50_95<-0.01"]
    assert dyno(*again, *guard) == 0
    old, new = (json.loads((out / "report.json").read_text()) for out in (first, second))
    assert old["spec"] == new["spec"]
    assert old["dataset"] == new["dataset"]
    accuracy = [
        [
            (m["measures"]["map_50_95"]["value"], m["measures"]["map_50_95"]["interval"])
            for m in report["models"]
        ]
        for report in (old, new)
    ]
    assert accuracy[0] == accuracy[1]
    assert "cached" in new["models"][0]["measures"]["map_50_95"]["method"]
    assert "cached" not in old["models"][0]["measures"]["map_50_95"]["method"]

    write_detector(Path(models[0]), [[0, 0, 4, 4, 0.5, 1]])  # the model got worse
    assert dyno(*again, *guard) == 3
    assert "map_50_95" in capsys.readouterr().err


def test_evaluate_gives_the_accuracy_alone(data: Path, models: tuple[str, str]) -> None:
    output = visiondyno.evaluate(models[0], data=str(data), resamples=100)
    compared = visiondyno.compare([models[0]], data=str(data), **FAST).models[0]
    metrics = output["metrics"]
    assert metrics["map_50_95"] == compared.measures["map_50_95"].model_dump(mode="json")
    assert "latency_p50_ms" not in metrics


def test_repeats_take_turns_and_their_spread_enters_the_intervals(
    data: Path, models: tuple[str, str]
) -> None:
    stages: list[str] = []

    def listen(event: JobEvent) -> None:
        if event.progress and event.progress["stage"].startswith("loaded"):
            stages.append(f"{Path(event.progress['model']).stem} {event.progress['stage']}")

    found = visiondyno.compare(models, data=str(data), repeat=3, on_event=listen, **FAST)
    assert stages == [f"{name} loaded {n} of 3" for n in (1, 2, 3) for name in ("good", "bad")]
    for model in found.models:
        assert "3 fresh processes" in model.measures["latency_p50_ms"].method
        assert model.measures["load_ms"].interval is not None
        assert model.measures["load_ms"].n == 3
        assert len(model.scenarios["single-stream"].samples_ms) >= 3 * 64


def test_a_pass_of_the_past_is_used_only_while_nothing_changed(
    data: Path, models: tuple[str, str], tmp_path: Path
) -> None:
    def method(**options: object) -> str:
        found = visiondyno.compare([models[0]], data=str(data), **{**FAST, **options})
        return found.models[0].measures["map_50_95"].method

    assert "cached" not in method()
    assert "cached" in method()
    assert "cached" not in method(use_cache=False)
    assert "cached" not in method(threads=1)
    assert "cached" not in method(max_images=3)
    stored = list((tmp_path / "cache").rglob("*.npz"))
    for path in stored:
        path.write_bytes(b"damaged")
    assert "cached" not in method()
    assert [path.read_bytes() == b"damaged" for path in stored].count(False) == 1
    write_detector(Path(models[0]), [[0, 0, 4, 4, 0.5, 1]])
    assert "cached" not in method()


def test_all_scenarios_with_both_engines(data: Path, models: tuple[str, str]) -> None:
    found = visiondyno.compare(
        [models[0]],
        data=str(data),
        scenarios=["single-stream", "multi-stream", "server", "offline"],
        engine="loadgen",
        rate_per_s=300,
        **FAST,
    )
    scenarios = found.models[0].scenarios
    names = ["single-stream", "multi-stream", "server", "offline"]
    assert set(scenarios) == {*names, *(f"{name} by LoadGen" for name in names)}
    assert len(scenarios["server"].samples_ms) == 662
    for name in names:
        theirs = scenarios[f"{name} by LoadGen"]
        assert "MLPerf LoadGen" in next(iter(theirs.measures.values())).method
        assert theirs.notes[0].startswith("LoadGen's verdict")
    assert (
        found.models[0].measures["latency_p50_ms"]
        == (scenarios["single-stream"].measures["latency_p50_ms"])
    )


def test_a_rate_is_searched_for_under_a_limit(data: Path, models: tuple[str, str]) -> None:
    found = visiondyno.compare(
        [models[0]], data=str(data), scenarios=["server"], latency_limit_ms=250, **FAST
    )
    result = found.models[0].scenarios["server"]
    rate = result.measures["throughput_images_per_s"]
    assert rate.value is not None
    assert "within 250 ms" in rate.method
    bound = result.early_stopping["latency_p99_ms"].value
    assert bound is not None
    assert bound <= 250


def test_the_server_scenario_needs_a_rate_or_a_limit(data: Path, models: tuple[str, str]) -> None:
    with pytest.raises(SpecError, match="--rate"):
        visiondyno.compare(models, data=str(data), scenarios=["server"], **FAST)


@pytest.fixture
def classifier(tmp_path: Path) -> str:
    """Says of every image that a car is there, and nothing else."""
    card = ModelCard(
        task="classification",
        head="classification",
        classes=("car", "truck", "stop sign"),
        input=InputCard(height=32, width=32, resize="stretch", scale=1.0),
        activation="none",
    )
    answer = np.array([[0.9, 0.05, 0.05]], np.float32)
    return str(write_constant_model(tmp_path / "classes.onnx", answer, card))


def test_beside_a_classifier_detectors_are_asked_what_both_can_answer(
    data: Path, models: tuple[str, str], classifier: str, tmp_path: Path
) -> None:
    args = [*models, classifier, "--data", str(data), "--duration", "0.05", "--resamples", "100"]
    out = tmp_path / "report"
    with pytest.raises(SystemExit, match="0"):
        main(["compare", *args, "--scenario", "single-stream", "--out", str(out)])
    found = Comparison.model_validate_json((out / "report.json").read_text())
    assert found.dataset.level == "image"
    # Images that hold each class, of four.
    assert found.dataset.classes == {"car": 2, "truck": 1, "stop sign": 1}
    good, bad, classes = found.models
    for model in found.models:
        assert model.measures["accuracy"].value == model.measures["image_ap"].value
        assert "map_50_95" not in model.measures
    assert "score of 0.25" in good.measures["f1"].method
    assert "score of 0.5" in classes.measures["f1"].method
    # Of four images two hold a car: always saying so is right for half of them.
    assert classes.per_class["car"]["image_accuracy"].value == 0.5
    assert classes.per_class["car"]["recall"].value == 1.0
    assert bad.per_class["truck"]["recall"].value == 1.0
    assert {d.measure for d in found.differences} >= {"image_ap", "image_accuracy", "f1"}
    said = "which classes are in the image?"
    for form in ("report.html", "report.md"):
        assert said in (out / form).read_text()
    assert any("(classes)" in note and "image level" in note for note in found.notes)
    assert classes.worst_images[0].true_boxes
    assert "missed" in classes.worst_images[0].caption
    # The predictions are the same at any level: they come from the cache.
    again = visiondyno.compare([models[0]], data=str(data), level="image", **FAST)
    assert "cached" in again.models[0].measures["image_ap"].method
    assert again.models[0].measures["image_ap"].value == good.measures["image_ap"].value
    assert any("as was asked for" in note for note in again.notes)


def test_evaluate_scores_a_classifier_at_image_level(data: Path, classifier: str) -> None:
    output = visiondyno.evaluate(classifier, data=str(data), classes=["car"], resamples=100)
    assert output["level"] == "image"
    assert output["metrics"]["image_ap"]["value"] == 0.5
    assert any("image level" in note for note in output["notes"])


def test_image_level_needs_boxes(tmp_path: Path, models: tuple[str, str]) -> None:
    write_image_folder(tmp_path / "folders")
    with pytest.raises(SpecError, match="--level"):
        visiondyno.compare(models, data=str(tmp_path / "folders"), level="image", **FAST)


def test_models_or_a_pair_must_be_named(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["compare", "--data", str(data)])
    assert "--pair" in capsys.readouterr().err
    (tmp_path / "comparison.yaml").write_text("models: [a.onnx]\ndata: street\n")
    file = str(tmp_path / "comparison.yaml")
    with pytest.raises(SystemExit, match="2"):
        main(["compare", file, "--pair", "yolov5-yolov8"])
    assert "names its models itself" in capsys.readouterr().err
