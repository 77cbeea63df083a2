"""One model's report, put together from what its child measured and how its predictions scored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from visiondyno.datasets.class_mapping import ClassMapping
from visiondyno.environment import Environment
from visiondyno.measurements.measure import MEASURES, Measures, not_measured
from visiondyno.measuring.scenario_results import (
    loadgen_result,
    scenario_result,
    start_up_measures,
)
from visiondyno.probes.carbon import co2_grams_per_1000_images
from visiondyno.probes.cost import cost_usd_per_1000_images
from visiondyno.report.comparison import ModelReport, ScenarioResult
from visiondyno.specs.operations import BenchmarkInput
from visiondyno.vision.accuracy.base import Accuracy


@dataclass(frozen=True, slots=True)
class ScoredModel:
    """A measured model: its report, and what the ranking needs besides."""

    reference: str
    report: ModelReport
    accuracy: Accuracy
    mapping: ClassMapping


def make_report(
    found: Sequence[Mapping[str, Any]],
    accuracy: Accuracy,
    mapping: ClassMapping,
    spec: BenchmarkInput,
    environment: Environment,
) -> ModelReport:
    """The report but for green score and gallery, which need the other models and the images.

    Args:
        found: what each of the model's child processes returned.
        accuracy: of its predictions.
        mapping: of its classes to the data's.
        spec: of the comparison.
        environment: the machine.
    """
    description = found[0]["description"]
    scenarios: dict[str, ScenarioResult] = {}
    for scenario in spec.scenarios:
        scenarios[scenario] = scenario_result(scenario, found)
        if f"{scenario} by LoadGen" in found[0]:
            scenarios[f"{scenario} by LoadGen"] = loadgen_result(scenario, found)
    measures: Measures = {**accuracy.measures, **start_up_measures(found)}
    # Single-stream last: of what both scenarios read, its value is the flat one.
    for name in ("offline", "single-stream"):
        if name in scenarios:
            measures.update(scenarios[name].measures)
    measures.update(_derived(measures, spec, environment))
    return ModelReport(
        reference=description["reference"],
        name=_short_name(description["reference"]),
        description=description,
        notes=(*description["notes"], *mapping.notes),
        measures={name: measures[name] for name in MEASURES if name in measures},
        per_class=accuracy.per_class,
        scenarios=scenarios,
        precision_recall=accuracy.precision_recall,
        confusion=accuracy.confusion,
    )


def _derived(measures: Measures, spec: BenchmarkInput, environment: Environment) -> Measures:
    """What follows from energy and throughput: CO2 and cost."""
    energy = measures.get("energy_joules_per_image") or not_measured(
        "energy_joules_per_image", "the single-stream scenario was not run"
    )
    rate = measures.get("throughput_images_per_s") or not_measured(
        "throughput_images_per_s", "the offline scenario was not run"
    )
    device, _, index = spec.device.partition(":")
    gpus = {gpu.index: gpu.name for gpu in environment.gpus}
    gpu_name = gpus.get(int(index or 0)) if device == "cuda" else None
    return {
        "co2_grams_per_1000_images": co2_grams_per_1000_images(energy, spec.region),
        "cost_usd_per_1000_images": cost_usd_per_1000_images(rate, spec.price, gpu_name),
    }


def _short_name(reference: str) -> str:
    """What a table shows: a file's stem, or the name after the prefix.

    Of a file that is run by the runtime before the colon both are said: beside it may stand the
    same file by itself.
    """
    prefix, colon, name = reference.partition(":")
    if colon and "/" not in prefix:
        return f"{prefix}:{PurePath(name).stem}" if PurePath(name).suffix == ".onnx" else name
    return PurePath(reference).stem or reference
