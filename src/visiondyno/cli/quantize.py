"""`dyno quantize`."""

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from visiondyno.cli import options
from visiondyno.cli.before_after import compare_after
from visiondyno.cli.made_model import run_making, write_made
from visiondyno.cli.place import place_options
from visiondyno.cli.quantize_summary import print_made
from visiondyno.errors import SpecError, VisionDynoError
from visiondyno.places import Place
from visiondyno.runtimes.references import resolve_reference
from visiondyno.specs.model_changes import QuantizeInput
from visiondyno.specs.operations import parse

_METHODS = ("static-int8", "dynamic-int8", "fp16", "bf16")
_STATIC = "static-int8"
_OPENVINO_BF16 = "openvino-bf16:"
_OUT = Path("dyno-quantized")
_REPORT = "report"
_OF_COMPARISON = ("duration_s", "repeat", "max_images", "threads")
_OF_STATIC = frozenset(
    {"calibration_data", "calibration_images", "calibration", "activations", "weight_bits"}
)


def _methods(_: click.Context, __: click.Parameter, value: tuple[str, ...]) -> list[str]:
    parts = [part.strip() for text in value for part in text.split(",") if part.strip()]
    for part in parts:
        if part not in _METHODS:
            raise click.BadParameter(f"{part!r} is none of {', '.join(_METHODS)}.")
    return list(dict.fromkeys(parts)) or [_STATIC]


@click.command()
@click.argument("model")
@click.option(
    "--to",
    "methods",
    multiple=True,
    callback=_methods,
    metavar="NAME[,NAME]",
    help="static-int8, dynamic-int8, fp16, bf16; several at once. bf16 writes no file: OpenVINO "
    "computes in it with the file as it is. [default: static-int8]",
)
@click.option(
    "--calibrate",
    "calibration_data",
    metavar="REF",
    help="Of static-int8: images such as the model will see, to find ranges on. Never those of "
    "--data.",
)
@click.option(
    "--calibration-images",
    type=int,
    metavar="N",
    help="The first N of them. [default: 128]",
)
@click.option(
    "--calibration",
    type=click.Choice(["min_max", "entropy", "percentile"]),
    help="How a range is chosen. [default: percentile]",
)
@click.option(
    "--per-channel/--per-tensor",
    "per_channel",
    default=None,
    help="A scale for each output channel of a weight, or one for all. [default: per-channel]",
)
@click.option(
    "--exclude",
    multiple=True,
    callback=options.split_list,
    metavar="NAME[,NAME]",
    help="Nodes, or types of operators, that stay in floating point.",
)
@click.option(
    "--keep-head/--quantize-head",
    "keep_head",
    default=None,
    help="Whether what follows the last convolutions stays float. [default: keep-head]",
)
@click.option(
    "--activations",
    type=click.Choice(["uint8", "int8"]),
    help="Type of activations. [default: what the processor computes fastest]",
)
@click.option(
    "--weight-bits",
    type=int,
    metavar="7|8",
    help="7 for processors whose sums of 8 bits overflow: x86 without VNNI. [default: as the "
    "processor needs]",
)
@options.data
@click.option(
    "--check-images",
    type=int,
    metavar="N",
    help="Images that each file is checked on. [default: 32]",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=_OUT,
    show_default=True,
    metavar="FOLDER",
    help="Where the files go, and the report, in report/.",
)
@click.option(
    "--compare/--no-compare",
    "compare",
    default=True,
    show_default=True,
    help="Measure source and results side by side on --data.",
)
@click.option("--duration", "duration_s", type=float, metavar="S", help="As of dyno compare.")
@click.option("--repeat", type=int, metavar="N", help="As of dyno compare.")
@options.max_images
@options.threads
@options.offline
@place_options
@click.option("--json", "as_json", is_flag=True, help="Print the operations' outputs as JSON.")
def command(
    model: str,
    methods: list[str],
    data: str | None,
    out: Path,
    place: Place,
    **given: Any,
) -> None:
    """Write a model in int8 or fp16, and compare it with what it was.

    MODEL is an ONNX file in fp32, or the name of a shipped one. Each file carries its model card,
    takes and answers float32, and is checked against MODEL on the images of --data. The comparison
    at the end says what was won and lost, with intervals: size, accuracy, time, energy.
    """
    as_json = given.pop("as_json")
    compare = given.pop("compare") and not as_json
    measured = {name: given.pop(name) for name in _OF_COMPARISON}
    if compare and data is None:
        raise SpecError(
            "Which data are the results compared on? Give --data FOLDER (such as street:demo), or "
            "--no-compare."
        )
    specs = _specs(model, methods, data, options.given(given))
    outputs: dict[str, Any] = {}
    references: list[str] = []
    console = Console()
    for method, spec in specs.items():
        output = run_making(spec, place)
        path = write_made(output, place, out, f"{_stem(model)}-{method}", model)[0]
        outputs[method] = {**output, "path": str(path)}
        references.append(str(path))
        if not as_json:
            print_made(output, path, console)
    if "bf16" in methods:
        references.append(_bf16(model))
    if as_json:
        click.echo(json.dumps(outputs, indent=1))
    if compare and data is not None:
        compare_after(model, references, data, out / _REPORT, place, **measured)


def _specs(
    model: str, methods: list[str], data: str | None, given: dict[str, Any]
) -> dict[str, QuantizeInput]:
    """The operation of each method that makes a file, all checked before the first runs."""
    if _STATIC in methods and "calibration_data" not in given:
        raise SpecError(
            "static-int8 finds ranges on images: give --calibrate FOLDER, with images such as the "
            "model will see and others than those of --data; or take --to dynamic-int8 or fp16."
        )
    if _STATIC not in methods and _OF_STATIC & set(given):
        raise SpecError("Ranges are found for static-int8 only; add it to --to, or leave them out.")
    found = {}
    for method in methods:
        if method == "bf16":
            _bf16(model)
            continue
        left_out = frozenset() if method == _STATIC else _OF_STATIC
        own = {name: value for name, value in given.items() if name not in left_out}
        payload = {"model": model, "data": data, "method": method.replace("-", "_"), **own}
        found[method] = parse(QuantizeInput, payload, "The command's options are wrong")
    return found


def _bf16(model: str) -> str:
    """The reference by which OpenVINO runs the file in bfloat16.

    Raises:
        SpecError: it is no ONNX file.
    """
    try:
        resolved = resolve_reference(model)
    except VisionDynoError as error:
        raise SpecError(error.message) from error
    if resolved.path is None or resolved.runtime != "onnx":
        raise SpecError(
            f"bf16 is computed by OpenVINO from an ONNX file, and {model} is none; write it as one "
            f"with 'dyno export {model}' first."
        )
    return f"{_OPENVINO_BF16}{resolved.path}"


def _stem(model: str) -> str:
    """What the files are called: the model's own name."""
    name = model.rsplit(":", 1)[-1]
    return Path(name).stem
