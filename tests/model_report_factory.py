"""What was found of one model: realistic, deterministic measures for `comparison_factory`."""

import numpy as np

from visiondyno.measurements.measure import Measure, measured, not_measured
from visiondyno.report.comparison import (
    ConfusionMatrix,
    ModelReport,
    PrecisionRecallCurve,
    ScenarioResult,
)
from worst_image_factory import worst_images

IMAGES = 128
RESAMPLES = 1000


def model_report(row, index, task, counts, energy):
    name, accuracy, p50, mib, joules = row
    generator = np.random.default_rng(100 + index)
    shared = np.random.default_rng(7).normal(0, 0.02, RESAMPLES)
    spread = shared + generator.normal(0, 0.007, RESAMPLES)
    samples = p50 * 0.92 + generator.gamma(2.0, p50 * 0.045, 640)
    samples[generator.integers(0, 640, 6)] *= 2.4
    main = {"detection": "map_50_95", "depth": "delta1"}.get(task, "top1")
    arrays = {main: np.clip(accuracy + spread, 0, 1)}
    measures = _accuracy_measures(task, accuracy, arrays[main])
    measures |= latency_measures(samples)
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
        worst_images=worst_images(task, generator),
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


def latency_measures(samples):
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
