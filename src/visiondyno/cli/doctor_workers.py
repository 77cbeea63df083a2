"""`dyno doctor --workers`: how many workers this machine has room for."""

import dataclasses
import json
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from visiondyno.errors import Unavailable
from visiondyno.probes.gpu_catalogue import cheapest_fitting, suggestion
from visiondyno.probes.machine import capture_environment
from visiondyno.probes.slots import (
    GpuMemory,
    SlotSuggestion,
    comfortable_bytes,
    gpu_memories,
    host_memory,
    suggest_cpu_slots,
    suggest_slots,
)
from visiondyno.runtimes.model_files import model_size_bytes
from visiondyno.runtimes.references import resolve_reference

EXAMPLES = "a model of each size"
_EXAMPLE_MB = (20, 95, 150)


@dataclasses.dataclass(frozen=True, slots=True)
class _Row:
    """One suggestion: for which model, on what."""

    model: str
    model_bytes: int
    on: str
    suggestion: SlotSuggestion


def suggest(model: str, as_json: bool) -> None:
    """Print suggestions for `model`, or for `EXAMPLES`.

    Raises:
        ModelError: it can't be found or read.
    """
    models = _models(model)
    try:
        gpus, why_none = gpu_memories(), ""
    except Unavailable as error:
        gpus, why_none = (), error.message
    rows = [row for name, size in models for row in _rows(name, size, gpus)]
    if as_json:
        found: dict[str, Any] = {
            "suggestions": [dataclasses.asdict(row) for row in rows],
            "no_gpu_because": why_none or None,
            "rented": [_rented(name, size) for name, size in models if size],
        }
        click.echo(json.dumps(found, indent=1))
        return
    if why_none:
        click.echo(f"{why_none} So this is for workers on the CPU.")
    table = Table()
    for column in ("model", "on", "slots", "share", "why"):
        table.add_column(column, justify="right" if column in ("slots", "share") else "left")
    for row in rows:
        found_here = row.suggestion
        share = "" if found_here.fraction is None else f"{found_here.fraction:g}"
        table.add_row(row.model, row.on, str(found_here.slots), share, found_here.reason)
    Console(markup=False).print(table)
    first = next((row.suggestion for row in rows if row.suggestion.slots), None)
    if first is not None and len(models) == 1:
        click.echo(f"dyno worker --redis URL --slots {first.slots}{_share_flag(first)}")
    if len(models) == 1 and models[0][1]:
        click.echo(f"On RunPod: {suggestion(comfortable_bytes(models[0][1]))}")
    click.echo("A starting point: look at 'dyno workers list' while real jobs run.")


def _rented(model: str, model_bytes: int) -> dict[str, Any]:
    """The cheapest GPU of the price table that runs the model."""
    needed_bytes = comfortable_bytes(model_bytes)
    gpu = cheapest_fitting(needed_bytes)
    return {"model": model, "needed_bytes": needed_bytes, **dataclasses.asdict(gpu)}


def _models(model: str) -> list[tuple[str, int]]:
    if model == EXAMPLES:
        return [(f"{size} MB", size * 10**6) for size in _EXAMPLE_MB]
    return [(model, model_size_bytes(resolve_reference(model)) or 0)]


def _rows(model: str, model_bytes: int, gpus: tuple[GpuMemory, ...]) -> list[_Row]:
    ram_bytes = host_memory().available_bytes
    if not gpus:
        cpu_count = capture_environment().cpu_count
        found = suggest_cpu_slots(model_bytes, cpu_count, ram_bytes)
        return [_Row(model, model_bytes, "CPU", found)]
    return [
        _Row(
            model,
            model_bytes,
            f"GPU {gpu.index}, {gpu.name}",
            suggest_slots(
                model_bytes, gpu.total_bytes, gpu.free_bytes, ram_available_bytes=ram_bytes
            ),
        )
        for gpu in gpus
    ]


def _share_flag(found: SlotSuggestion) -> str:
    return "" if found.fraction is None else f" --gpu-memory-fraction {found.fraction:g}"
