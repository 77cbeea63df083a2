"""Of merged comparisons: which runs are the newest, and which may be compared in what."""

from collections.abc import Iterable, Sequence

from visiondyno.measurements.measure import MEASURES
from visiondyno.report.comparison import ModelReport, Origin

ON_ANY_MACHINE = frozenset(
    name for name, kind in MEASURES.items() if kind.unit in {"fraction", "confidence", "ratio", "m"}
)
"""Accuracies: another machine moves them by rounding only. All others belong to one machine."""

_OF_ONE_DEVICE = frozenset(
    {
        "peak_rss_bytes",
        "peak_inference_rss_bytes",
        "peak_vram_bytes",
        "energy_joules_per_image",
        "co2_grams_per_1000_images",
        "green_score",
    }
)
"""On a GPU other parts of the machine hold the memory and use the energy than on a CPU."""


def apart(measure: str, models: Sequence[ModelReport]) -> str | None:
    """Why these models can't be compared in `measure`: "on different machines"; None if they can.

    Models of one comparison (without an `origin`) always can.
    """
    origins = [model.origin for model in models if model.origin is not None]
    if measure in ON_ANY_MACHINE:
        return None
    if len({origin.environment.machine_id for origin in origins}) > 1:
        return "on different machines"
    if measure in _OF_ONE_DEVICE and len({origin.spec.device for origin in origins}) > 1:
        return "on different devices"
    return None


def series_of(model: ModelReport) -> tuple[str, str, str, int | None]:
    """What the runs of one history share: model reference, machine, device and threads."""
    origin = model.origin
    if origin is None:
        return model.reference, "", "", None
    return origin.reference, *place_of(origin)


def place_of(origin: Origin) -> tuple[str, str, int | None]:
    """Machine, device and threads of a run."""
    return origin.environment.machine_id, origin.spec.device, origin.spec.threads


def newest(models: Sequence[ModelReport]) -> tuple[ModelReport, ...]:
    """The newest run of each series, in order; all models where nothing was merged.

    Only these are ranked and plotted: an earlier run of a model is no rival of the newest one.
    """
    latest: dict[tuple[str, str, str, int | None], ModelReport] = {}
    for model in models:
        key = series_of(model)
        if key not in latest or _made(latest[key]) < _made(model):
            latest[key] = model
    return tuple(model for model in models if latest[series_of(model)] is model)


def _made(model: ModelReport) -> str:
    return model.origin.created_at if model.origin is not None else ""


def date_of(origin: Origin) -> str:
    """The run's date and minute, for people."""
    return origin.created_at[:16].replace("T", " ")


def dates_of(origins: Iterable[Origin]) -> dict[str, str]:
    """`created_at` → date for people, to the second where two runs share a minute."""
    runs = {origin.created_at: origin for origin in origins}
    minutes = [date_of(origin) for origin in runs.values()]
    return {
        moment: date_of(origin)
        if minutes.count(date_of(origin)) == 1
        else moment[:19].replace("T", " ")
        for moment, origin in runs.items()
    }


def place_text(origin: Origin) -> str:
    """Where a run was made, in words."""
    machine = origin.environment
    threads = origin.spec.threads
    parts = [
        f"{machine.cpu_model}, {machine.cpu_count} CPUs",
        *(gpu.name for gpu in machine.gpus),
        f"machine {machine.machine_id}",
        f"device {origin.spec.device}",
        f"{threads} threads" if threads else "default threads",
    ]
    return ", ".join(parts)
