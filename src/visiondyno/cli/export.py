"""`dyno export`."""

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from visiondyno.cli import options
from visiondyno.cli.made_model import make_ready, run_making, write_made
from visiondyno.cli.place import place_options
from visiondyno.errors import SpecError
from visiondyno.places import Place
from visiondyno.specs.model_changes import ExportInput
from visiondyno.specs.operations import parse

_SUFFIXES = {"onnx": (".onnx",), "openvino": (".xml", ".bin"), "tensorrt": (".onnx",)}
"""Of the files of a format, the main one's first."""
_SHOWN_METRICS = ("map_50_95", "map_50", "image_ap", "top1", "top5", "abs_rel", "delta1")
_EPILOG = (
    "Example: dyno export runs/street --data street:val. The file carries its model card: give it "
    "to every other command as it is."
)


@click.command(epilog=_EPILOG)
@click.argument("model")
@click.option(
    "--format",
    type=click.Choice(["onnx", "openvino", "tensorrt"]),
    default="onnx",
    show_default=True,
    help="What to write.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16"]),
    default="fp32",
    show_default=True,
    help="Of the weights and of what is computed; inputs and outputs stay float32.",
)
@click.option("--opset", type=int, metavar="N", help="Of ONNX. [default: the model's own]")
@click.option(
    "--batch",
    "batch_size",
    type=int,
    metavar="N",
    help="Fix the batch size. [default: any; of tensorrt 1]",
)
@click.option(
    "--imgsz",
    "image_size",
    type=int,
    metavar="PX",
    help="Side of the square that the graph takes. [default: the model's own]",
)
@click.option(
    "--data",
    metavar="REF",
    help="Images to check it on; labelled ones are scored by both. [default: noise]",
)
@click.option(
    "--check-images",
    type=int,
    metavar="N",
    help="The first so many of them. [default: 32]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="The file, or a folder for it. [default: in this folder, called as the model]",
)
@click.option(
    "--compare",
    "report",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Measure both side by side on --data, and write the report there.",
)
@options.offline
@place_options
@click.option("--json", "as_json", is_flag=True, help="Print the operation's output as JSON.")
def command(
    model: str,
    out: Path | None,
    report: Path | None,
    place: Place,
    as_json: bool,
    **given: Any,
) -> None:
    """Write a model as ONNX, OpenVINO or TensorRT, checked against it.

    MODEL is a model reference: an ONNX file, a model of Ultralytics, torchvision, timm or
    transformers, the folder of a training. What is written must answer what the model does, or
    nothing is written.
    """
    fields = {"model": model, **options.given(given)}
    spec: ExportInput = parse(ExportInput, fields, "The export's options are wrong")
    if report is not None and spec.data is None:
        raise SpecError("--compare measures both on labelled images; name them with --data.")
    if report is not None and as_json:
        raise SpecError("--json prints one document, and --compare a report; ask for one of them.")
    folder, stem = _target(out, spec)
    make_ready(folder, [f"{stem}{suffix}" for suffix in _SUFFIXES[spec.format]], model)
    output = run_making(spec, place)
    paths = write_made(output, place, folder, stem, model)
    if as_json:
        click.echo(json.dumps({**output, "paths": [str(path) for path in paths]}, indent=1))
    else:
        _print(output, paths)
    if report is not None:
        _compare(model, paths[0], spec, report, place)


def _target(out: Path | None, spec: ExportInput) -> tuple[Path, str]:
    """Folder, and name without its suffix."""
    from visiondyno.operations.export import file_stem

    if out is None:
        return Path(), file_stem(spec)
    suffix, wanted = out.suffix.lower(), _SUFFIXES[spec.format][0]
    if out.is_dir() or not suffix:
        return out, file_stem(spec)
    if suffix != wanted:
        raise SpecError(
            f"--out {out} ends in {out.suffix}, and {spec.format} is written as {wanted}; give "
            "such a name, or a folder that is there."
        )
    return out.parent, out.stem


def _print(output: dict[str, Any], paths: list[Path]) -> None:
    check = output["check"]
    size = f"{output['size_bytes'] / 1e6:.2f} MB"
    if output["source_size_bytes"]:
        size += f" (the source: {output['source_size_bytes'] / 1e6:.2f} MB)"
    click.echo(f"Written: {', '.join(str(path.resolve()) for path in paths)}")
    opset = f", opset {output['opset']}" if output["format"] == "onnx" else ""
    click.echo(f"{output['format']}, {output['precision']}{opset}, {size}")
    seen = f"{check['images']} images of {check['data']}" if check["images"] else "noise"
    click.echo(f"Checked on {seen}:")
    _print_outputs(check["outputs"])
    for line in (*_agreement_lines(check["agreement"]), *_metric_lines(check)):
        click.echo(line)
    for note in output["notes"]:
        click.echo(f"Note: {note}", err=True)


def _print_outputs(outputs: list[dict[str, Any]]) -> None:
    table = Table()
    table.add_column("output")
    for heading in ("largest difference", "mean difference", "largest of the source"):
        table.add_column(heading, justify="right")
    for one in outputs:
        numbers = (one["max_abs_difference"], one["mean_abs_difference"], one["max_abs_source"])
        table.add_row(one["name"], *("–" if n is None else f"{n:.3g}" for n in numbers))
    Console().print(table)


def _agreement_lines(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    if "boxes" in found:
        if not found["boxes"]:
            return ["The source finds no box in them."]
        line = f"{found['matched']:.1%} of its {found['boxes']} boxes are found again"
        pixels, score = found["max_box_difference_px"], found["max_score_difference"]
        apart = (
            "" if pixels is None else f", at most {pixels:.2g} px and a score of {score:.2g} apart"
        )
        return [f"{line}{apart}."]
    if "same_class" in found:
        classes = (
            f"The same class comes first in {found['same_class']:.1%} of the images; probabilities "
            f"are at most {found['max_probability_difference']:.2g} apart."
        )
        return [classes]
    return [f"Depth differs by {found['mean_relative_difference']:.2%} on average."]


def _metric_lines(check: dict[str, Any]) -> list[str]:
    lines = []
    for name in _SHOWN_METRICS:
        if name not in (check["metric_differences"] or {}):
            continue
        difference = check["metric_differences"][name]
        interval = difference["interval"]
        within = f" (95 %: {interval[0]:+.4f} to {interval[1]:+.4f})" if interval else ""
        before, after = check["source_metrics"][name], check["metrics"][name]
        change = f"{difference['difference']:+.4f}{within}"
        lines.append(f"{name}: {after:.4f}, the source's {before:.4f}: {change}")
    return lines


def _compare(model: str, made: Path, spec: ExportInput, report: Path, place: Place) -> None:
    from visiondyno.cli.before_after import compare_after

    assert spec.data is not None
    device = "cuda" if spec.format == "tensorrt" else None
    compare_after(model, [str(made)], spec.data, report, place, device=device)
