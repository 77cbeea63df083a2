"""Realistic, deterministic `Comparison` objects for the report's tests: no clocks, no models."""

import base64

import cv2
import numpy as np

from visiondyno.environment import Environment
from visiondyno.measurements.measure import Measure, measured, not_measured
from visiondyno.report.comparison import (
    Box,
    Comparison,
    ConfusionMatrix,
    DatasetSummary,
    LeftOut,
    ModelReport,
    PrecisionRecallCurve,
    ScenarioResult,
    SkippedImage,
    Verdict,
    WorstImage,
)
from visiondyno.report.green import with_green_scores
from visiondyno.report.merge import merge_reports
from visiondyno.report.ranking import rank
from visiondyno.specs.operations import BenchmarkInput

IMAGES = 128
RESAMPLES = 1000
STREET = {"car": 412, "truck": 96, "pedestrian": 203, "sign": 131}
DIGITS = {str(digit): 100 + digit for digit in range(10)}

# name, accuracy, median latency in ms, peak memory in MiB, joules per image
DETECTORS = (
    ("street-s", 0.512, 21.4, 142.0, 0.91),
    ("street-n", 0.431, 8.7, 96.0, 0.38),
    ("nano-416", 0.418, 15.2, 118.0, 0.67),
)
CLASSIFIERS = (("digit-cnn", 0.981, 1.9, 71.0, 0.09), ("digit-mlp", 0.976, 0.6, 58.0, 0.03))
DEPTHS = (("depth-n", 0.902, 31.0, 120.0, 1.1), ("depth-s", 0.934, 84.0, 210.0, 3.4))
MANY = tuple(
    (
        f"models/zoo/detector-{letter}-with-a-rather-long-name-{i}.onnx",
        0.2 + 0.045 * i,
        4.0 * 1.7**i,
        60.0 * 1.3**i,
        0.2 * 1.6**i,
    )
    for i, letter in enumerate("abcdefgh")
)


def detector_comparison(
    rows=DETECTORS,
    *,
    energy="estimated",
    quiet=True,
    left_out=(),
    skipped=(),
    classes=None,
    reference=None,
    notes=(),
):
    """Detectors on synthetic streets; `energy` is `estimated`, `measured` or `absent`."""
    counts = classes or STREET
    models, paired = [], {}
    for index, row in enumerate(rows):
        report, arrays = _model(row, index, "detection", counts, energy)
        models.append(report)
        paired[report.reference] = arrays
    return _comparison(
        models,
        paired,
        "detection",
        counts,
        reference=reference,
        quiet=quiet,
        left_out=left_out,
        skipped=skipped,
        notes=notes,
    )


def many_detectors_comparison():
    """Eight models compete, on 80 classes."""
    classes = {f"class {index:02d}": 5 + (index * 37) % 90 for index in range(80)}
    return detector_comparison(MANY, classes=classes, energy="measured")


def classifier_comparison():
    """Two classifiers of digits."""
    models, paired = [], {}
    for index, row in enumerate(CLASSIFIERS):
        report, arrays = _model(row, index, "classification", DIGITS, "measured")
        models.append(report)
        paired[report.reference] = arrays
    return _comparison(models, paired, "classification", DIGITS)


def depth_comparison():
    """Two depth models; the data have no classes and nothing to count."""
    models, paired = [], {}
    for index, row in enumerate(DEPTHS):
        report, arrays = _model(row, index, "depth", {}, "measured")
        models.append(report)
        paired[report.reference] = arrays
    return _comparison(models, paired, "depth", {})


def scenario_comparison():
    """Four scenarios, LoadGen beside three of them; the third model's server found no rate."""
    base = detector_comparison()
    models = tuple(_with_scenarios(model, index) for index, model in enumerate(base.models))
    spec = base.spec.model_copy(
        update={
            "scenarios": ("single-stream", "multi-stream", "server", "offline"),
            "engine": "loadgen",
            "latency_limit_ms": 60.0,
        }
    )
    return base.model_copy(update={"models": models, "spec": spec})


def again(comparison, created_at, *, slower=1.0, machine_id=None, verdict=None, spec=None):
    """Another run of a comparison: latencies times `slower`, in digits of their own."""
    run = environment(machine_id) if machine_id else comparison.environment
    return comparison.model_copy(
        update={
            "created_at": created_at,
            "environment": run,
            "verdict": verdict or comparison.verdict,
            "spec": comparison.spec.model_copy(update=spec or {}),
            "models": tuple(_slower(model, slower) for model in comparison.models),
        }
    )


def merged_comparison():
    """Three runs of three detectors on one machine, the second one disturbed."""
    base = detector_comparison(energy="measured")
    noisy = Verdict(quiet=False, reasons=("p50 drifted by 12 %",))
    return merge_reports(
        [
            base,
            again(base, "2026-11-22T10:30:00+00:00", slower=1.3, verdict=noisy),
            again(base, "2026-11-22T11:30:00+00:00", slower=1.01),
        ]
    )


def failing_comparison():
    """One model measured on a noisy machine, two left out, two bad images."""
    return detector_comparison(
        DETECTORS[:1],
        energy="absent",
        quiet=False,
        left_out=(
            LeftOut(
                reference="llama2_70b", stage="task", reason="a text model, not a vision model"
            ),
            LeftOut(
                reference="broken.onnx", stage="load", reason="broken.onnx: isn't an ONNX file"
            ),
        ),
        skipped=(
            SkippedImage(image="a.jpg", reason="empty file"),
            SkippedImage(image="b.jpg", reason="box outside the image"),
        ),
        notes=("Accuracy was restricted to 4 of 4 classes.",),
    )


def _comparison(
    models, paired, task, counts, *, reference=None, quiet=True, left_out=(), skipped=(), notes=()
):
    reference = reference or models[0].reference
    models = with_green_scores(models, reference)
    spec = BenchmarkInput(
        models=tuple(m.reference for m in models) + tuple(o.reference for o in left_out),
        data={"detection": "street:demo", "depth": "rooms:demo"}.get(task, "digits"),
        reference=reference,
        region="NO",
        price="0.40",
    )
    ranking = rank(models, paired, spec)
    return Comparison(
        visiondyno="0.1.0",
        created_at="2026-11-22T09:30:00+00:00",
        duration_s=64.2,
        spec=spec,
        environment=environment(),
        dataset=DatasetSummary(
            reference=spec.data,
            task=task,
            digest="sha256:" + "ab" * 32,
            images=IMAGES,
            objects=sum(counts.values()),
            classes=counts,
            skipped=skipped,
        ),
        verdict=Verdict(
            quiet=quiet,
            reasons=() if quiet else ("other processes used 34 % of a core", "p50 drifted by 12 %"),
        ),
        models=models,
        left_out=left_out,
        differences=ranking.differences,
        winners=ranking.winners,
        pareto=ranking.pareto,
        green_reference=reference,
        notes=notes,
    )


def environment(machine_id="m-1f0c9a"):
    return Environment(
        machine_id=machine_id,
        hostname_hash="h-77aa",
        system="Debian GNU/Linux 12",
        kernel="6.1.0",
        cpu_model="Example CPU @ 2.60GHz",
        cpu_count=2,
        cpu_governor=None,
        memory_bytes=8 * 2**30,
        container="cgroup v2: 2.0 CPUs",
        virtual_machine="kvm",
        gpus=(),
        python="3.11.2",
        packages={"numpy": "2.3.1", "onnxruntime": "1.31.1", "opencv-python-headless": "4.12.0"},
        cannot_measure={
            "peak_vram_bytes": "no NVIDIA GPU",
            "energy": "RAPL isn't readable: /sys/class/powercap is absent",
        },
    )


def _model(row, index, task, counts, energy):
    name, accuracy, p50, mib, joules = row
    generator = np.random.default_rng(100 + index)
    shared = np.random.default_rng(7).normal(0, 0.02, RESAMPLES)
    spread = shared + generator.normal(0, 0.007, RESAMPLES)
    samples = p50 * 0.92 + generator.gamma(2.0, p50 * 0.045, 640)
    samples[generator.integers(0, 640, 6)] *= 2.4
    main = {"detection": "map_50_95", "depth": "delta1"}.get(task, "top1")
    arrays = {main: np.clip(accuracy + spread, 0, 1)}
    measures = _accuracy_measures(task, accuracy, arrays[main])
    measures |= _latency_measures(samples)
    measures |= _resource_measures(mib, joules, energy, samples)
    report = ModelReport(
        reference=f"visiondyno:{name}" if "/" not in name else name,
        name=name,
        description={
            "runtime": "onnxruntime 1.31.1",
            "device": "cpu",
            "precision": "fp32",
            "provider": "CPUExecutionProvider",
            "file_bytes": int(mib * 9000),
            "parameters": 912_345,
            "digest": "sha256:" + f"{index:02x}" * 32,
            "card": {"head": "yolox", "input": {"height": 416, "width": 416}},
            "card_source": {"head": "metadata", "input": "shape", "classes": "assumed"},
        },
        notes=("80 unnamed classes: assumed COCO",) if index == 2 else (),
        measures=measures,
        per_class=_per_class(task, counts, accuracy, generator),
        scenarios={
            "single-stream": ScenarioResult(
                measures={k: v for k, v in measures.items() if k.startswith("latency")},
                samples_ms=tuple(float(v) for v in samples),
                warmup_queries=40,
                early_stopping={
                    "latency_p90_ms": measured(
                        "latency_p90_ms", float(np.quantile(samples, 0.93)), "LoadGen's bound"
                    )
                },
            ),
            "offline": ScenarioResult(
                measures={"throughput_images_per_s": measures["throughput_images_per_s"]}
            ),
        },
        precision_recall=_curve(accuracy) if task == "detection" else None,
        confusion=_confusion(task, counts, accuracy, generator) if counts else None,
        worst_images=_worst(task, generator),
    )
    return report, arrays


def _accuracy_measures(task, accuracy, resampled):
    low, high = (float(v) for v in np.percentile(resampled, [2.5, 97.5]))

    def of(name, share):
        value = min(1.0, accuracy * share)
        return measured(
            name,
            value,
            "faster-coco-eval",
            interval=(low * share, min(1.0, high * share)),
            n=IMAGES,
        )

    if task == "depth":
        error = 1 - accuracy
        return {
            "accuracy": of("accuracy", 1),
            "delta1": of("delta1", 1),
            **{
                name: measured(
                    name,
                    error * share,
                    "per image",
                    interval=(error * share * 0.9, error * share * 1.1),
                )
                for name, share in (("abs_rel", 1.1), ("rmse", 6.0))
            },
        }
    if task == "classification":
        return {
            "accuracy": of("accuracy", 1),
            "top1": of("top1", 1),
            "top5": of("top5", 1.01),
            "precision": of("precision", 0.99),
            "recall": of("recall", 0.99),
            "f1": of("f1", 0.99),
        }
    return {
        "accuracy": of("accuracy", 1),
        "map_50_95": of("map_50_95", 1),
        "map_50": of("map_50", 1.5),
        "map_75": of("map_75", 1.05),
        "map_small": of("map_small", 0.4),
        "map_medium": of("map_medium", 0.9),
        "map_large": not_measured("map_large", "no labelled object is that large"),
        "precision": of("precision", 1.4),
        "recall": of("recall", 1.2),
        "f1": of("f1", 1.3),
        "f1_threshold": measured("f1_threshold", 0.37, "chosen on the scored split (optimistic)"),
    }


def _latency_measures(samples):
    ordered = np.sort(samples)
    n = len(ordered)
    found = {
        "latency_mean_ms": measured(
            "latency_mean_ms", samples.mean(), "mean; batch means with t", n=n,
            interval=(float(samples.mean() * 0.98), float(samples.mean() * 1.02)),
        )
    }  # fmt: skip
    for percent in (50, 90, 95, 99):
        at = int(n * percent / 100)
        width = int(2 * np.sqrt(n * percent / 100 * (1 - percent / 100))) + 1
        high = float(ordered[at + width]) if at + width < n else None
        name = f"latency_p{percent}_ms"
        found[name] = measured(
            name, ordered[at], "order statistics", interval=(float(ordered[at - width]), high), n=n
        )
    mean = float(samples.mean())
    for name, share in (
        ("decode", 0.12),
        ("preprocess", 0.08),
        ("inference", 0.7),
        ("postprocess", 0.1),
    ):
        found[f"{name}_mean_ms"] = measured(f"{name}_mean_ms", mean * share, "mean of stages", n=n)
    found["throughput_images_per_s"] = measured(
        "throughput_images_per_s",
        1300 / mean,
        "images over time",
        interval=(1270 / mean, 1330 / mean),
        n=IMAGES,
    )
    return found


def _resource_measures(mib, joules, energy, samples):
    found: dict[str, Measure] = {
        "peak_rss_bytes": measured("peak_rss_bytes", mib * 2**20, "kernel VmHWM", n=1),
        "peak_inference_rss_bytes": measured(
            "peak_inference_rss_bytes", mib * 0.9 * 2**20, "kernel VmHWM after reset", n=1
        ),
        "peak_vram_bytes": not_measured("peak_vram_bytes", "no NVIDIA GPU"),
        "cpu_percent": measured("cpu_percent", 187.0, "process time over wall time"),
        "gpu_percent": not_measured("gpu_percent", "no NVIDIA GPU"),
        "load_ms": measured("load_ms", mib * 2.1, "fresh process to loaded model", n=1),
        "first_inference_ms": measured(
            "first_inference_ms", samples.max() * 1.7, "first query", n=1
        ),
        "cost_usd_per_1000_images": measured(
            "cost_usd_per_1000_images",
            1000 / (1300 / samples.mean()) * 0.4 / 3600,
            "0.40 USD an hour",
        ),
    }
    if energy == "absent":
        for name in ("energy_joules_per_image", "co2_grams_per_1000_images"):
            found[name] = not_measured(name, "RAPL isn't readable")
        return found
    estimated = energy == "estimated"
    method = "assumed 4 W a thread and 20 W for RAM" if estimated else "RAPL package and DRAM"
    interval = None if estimated else (joules * 0.95, joules * 1.05)
    found["energy_joules_per_image"] = measured(
        "energy_joules_per_image", joules, method, interval=interval, estimated=estimated
    )
    found["co2_grams_per_1000_images"] = measured(
        "co2_grams_per_1000_images",
        joules * 475 / 3600,
        "475 g/kWh, world, 2023",
        estimated=estimated,
    )
    return found


def _per_class(task, counts, accuracy, generator):
    name = "map_50_95" if task == "detection" else "f1"
    found = {}
    for label in counts:
        value = float(np.clip(accuracy + generator.normal(0, 0.09), 0.02, 0.99))
        found[label] = {
            name: measured(name, value, "per class", interval=(value * 0.9, min(1, value * 1.1)))
        }
        if task == "detection":
            found[label]["map_50"] = measured("map_50", min(1, value * 1.4), "per class")
    return found


def _curve(accuracy):
    recall = np.linspace(0, 1, 101)
    precision = np.clip(1 / (1 + np.exp(12 * (recall - accuracy * 1.5))), 0, 1)
    return PrecisionRecallCurve(recall=tuple(recall.tolist()), precision=tuple(precision.tolist()))


def _confusion(task, counts, accuracy, generator):
    labels = list(counts) + (["background"] if task == "detection" else [])
    size = len(labels)
    matrix = np.zeros((size, size), int)
    for row, label in enumerate(labels):
        total = counts.get(label, 60)
        hit = int(total * min(0.98, accuracy * 1.3)) if label != "background" else 0
        matrix[row, row] = hit
        for _ in range(total - hit):
            column = int(generator.integers(0, size))
            matrix[row, column if generator.random() < 0.4 else size - 1] += 1
    if task == "detection":
        matrix[-1, -1] = 0
    return ConfusionMatrix(
        labels=tuple(labels), counts=tuple(tuple(int(v) for v in row) for row in matrix)
    )


def _slower(model, factor):
    def moved(name, measure):
        if not name.endswith("_ms") or measure.value is None or factor == 1:
            return measure
        interval = measure.interval and tuple(
            None if end is None else end * factor for end in measure.interval
        )
        return measure.model_copy(update={"value": measure.value * factor, "interval": interval})

    measures = {name: moved(name, measure) for name, measure in model.measures.items()}
    return model.model_copy(update={"measures": measures})


def _with_scenarios(model, index):
    generator = np.random.default_rng(40 + index)
    base = model.scenarios["single-stream"]
    samples = np.asarray(base.samples_ms)
    queries = {
        "multi-stream": 8 * samples[:400] * 0.93,
        "server": samples + generator.exponential(samples.mean() * 1.5, len(samples)),
    }
    scenarios = dict(model.scenarios)
    for name, latencies in queries.items():
        measures = {k: v for k, v in _latency_measures(latencies).items() if k.startswith("lat")}
        measures["throughput_images_per_s"] = measured(
            "throughput_images_per_s",
            600 / samples.mean(),
            f"{name}'s way to a rate",
            interval=(600 / samples.mean(), 620 / samples.mean()),
            n=len(latencies),
        )
        bound = measured("latency_p99_ms", float(latencies.max()), "LoadGen's bound", n=640)
        scenarios[name] = ScenarioResult(
            measures=measures,
            samples_ms=tuple(float(v) for v in latencies),
            early_stopping={"latency_p99_ms": bound},
        )
    if index == 2:
        reason = "no rate keeps p99 within 60 ms: the limit is near one image's time"
        scenarios["server"] = ScenarioResult(
            measures={
                name: not_measured(name, reason)
                for name in ("latency_p50_ms", "latency_p99_ms", "throughput_images_per_s")
            }
        )
    for name in ("single-stream", "server", "offline"):
        if index < 2 or name != "server":
            scenarios[f"{name} by LoadGen"] = _by_loadgen(scenarios[name], index)
    return model.model_copy(update={"scenarios": scenarios})


def _by_loadgen(ours, index):
    verdict = "INVALID" if index == 1 else "VALID"
    method = f"MLPerf LoadGen 6.0.17: {verdict} by its own rules"
    return ScenarioResult(
        measures={
            name: measured(name, measure.value * 1.02, method, n=700)
            for name, measure in ours.measures.items()
            if measure.value is not None and name != "latency_mean_ms"
        },
        notes=(f"LoadGen's verdict: {verdict}.",),
    )


def _worst(task, generator):
    images = []
    for index in range(3):
        width, height = {"detection": (320, 214), "depth": (480, 160)}.get(task, (112, 112))
        picture = (
            _scene(generator, width, height) if task != "classification" else _digit(index, width)
        )
        _, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 70])
        found = {
            "image": f"scene-{index:04d}.jpg",
            "errors": 9 - index if task == "detection" else 1,
            "width": width,
            "height": height,
            "jpeg_base64": base64.b64encode(encoded.tobytes()).decode(),
        }
        if task == "detection":
            found |= {
                "true_boxes": (
                    Box(xyxy=(40, 110, 110, 160), label="car", matched=True),
                    Box(xyxy=(150, 95, 240, 170), label="truck", matched=False),
                    Box(xyxy=(255, 90, 275, 150), label="pedestrian", matched=False),
                ),
                "predicted_boxes": (
                    Box(xyxy=(43, 108, 112, 158), label="car", score=0.91, matched=True),
                    Box(xyxy=(160, 99, 205, 165), label="car", score=0.55, matched=False),
                    Box(xyxy=(8, 8, 40, 60), label="sign", score=0.42, matched=False),
                ),
                "caption": "2 misses, 2 false alarms",
            }
        elif task == "depth":
            found |= {"caption": f"AbsRel 0.{30 - index}"}
        else:
            found |= {"caption": f"true {index}, predicted {index + 5} (0.71)"}
        images.append(WorstImage(**found))
    return tuple(images)


def _scene(generator, width, height):
    picture = np.full((height, width, 3), (205, 190, 170), np.uint8)
    picture[height // 2 :] = (92, 92, 96)
    for x in range(0, width, 40):
        top = int(generator.integers(20, 90))
        shade = tuple(int(v) for v in generator.integers(90, 190, 3))
        cv2.rectangle(picture, (x, top), (x + 37, height // 2), shade, -1)
    for x1, y1, x2, y2 in ((40, 110, 110, 160), (150, 95, 240, 170), (255, 90, 275, 150)):
        shade = tuple(int(v) for v in generator.integers(20, 230, 3))
        cv2.rectangle(picture, (x1, y1), (x2, y2), shade, -1)
    noise = generator.normal(0, 8, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def _digit(digit, size):
    picture = np.zeros((size, size, 3), np.uint8)
    cv2.putText(picture, str(digit), (28, 90), cv2.FONT_HERSHEY_SIMPLEX, 3, (255,) * 3, 6)
    return picture
