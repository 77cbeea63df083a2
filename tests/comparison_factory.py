"""Realistic, deterministic `Comparison` objects for the report's tests: no clocks, no models."""

from model_report_factory import IMAGES, model_report
from scenario_factory import with_scenarios
from visiondyno.environment import Environment
from visiondyno.report.comparison import Comparison, DatasetSummary, LeftOut, SkippedImage, Verdict
from visiondyno.report.green import with_green_scores
from visiondyno.report.merge import merge_reports
from visiondyno.report.ranking import rank
from visiondyno.specs.operations import BenchmarkInput

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
        report, arrays = model_report(row, index, "detection", counts, energy)
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
        report, arrays = model_report(row, index, "classification", DIGITS, "measured")
        models.append(report)
        paired[report.reference] = arrays
    return _comparison(models, paired, "classification", DIGITS)


def depth_comparison():
    """Two depth models; the data have no classes and nothing to count."""
    models, paired = [], {}
    for index, row in enumerate(DEPTHS):
        report, arrays = model_report(row, index, "depth", {}, "measured")
        models.append(report)
        paired[report.reference] = arrays
    return _comparison(models, paired, "depth", {})


def scenario_comparison():
    """Four scenarios, LoadGen beside three of them; the third model's server found no rate."""
    base = detector_comparison()
    models = tuple(with_scenarios(model, index) for index, model in enumerate(base.models))
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
