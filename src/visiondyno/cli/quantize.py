"""`dyno quantize`."""

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from visiondyno.cli import options
from visiondyno.cli.before_after import compare_after
from visiondyno.cli.made_model import make_ready, run_making, write_made
from visiondyno.cli.place import place_options
from visiondyno.cli.quantize_summary import print_made
from visiondyno.errors import ModelError, SpecError
from visiondyno.places import Place
from visiondyno.runtimes.references import resolve_reference
from visiondyno.specs.model_changes import ExportInput, QuantizeInput
from visiondyno.specs.operations import OperationInput, parse

_METHODS = ("static-int8", "dynamic-int8", "fp16", "bf16")
_STATIC = "static-int8"
_OPENVINO_BF16 = "openvino-bf16:"
_EXPORTED = "fp32"
"""What a model of torch is exported as, to be quantized and compared with."""
_OUT = Path("dyno-quantized")
_REPORT = "report"
_OF_COMPARISON = ("duration_s", "repeat", "max_images", "threads")
_OF_STATIC = frozenset(
    {"calibration_data", "calibration_images", "calibration", "activations", "weight_bits"}
)
_OF_INT8 = frozenset({"per_channel", "exclude", "keep_head"})


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
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print the operations' outputs as JSON, and compare nothing.",
)
def command(
    model: str,
    methods: list[str],
    data: str | None,
    out: Path,
    place: Place,
    **given: Any,
) -> None:
    """Write a model in int8 or fp16, and compare it with what it was.

    MODEL is an ONNX file in fp32, the name of a shipped one, or what 'dyno export' can write as
    one, which is done first. Each file carries its model card, takes and answers float32, and is
    checked against MODEL on the images of --data. The comparison at the end says what was won and
    lost, with intervals: size, accuracy, time, energy.
    """
    as_json = given.pop("as_json")
    compare = given.pop("compare") and not as_json
    measured = {name: given.pop(name) for name in _OF_COMPARISON}
    if compare and data is None:
        raise SpecError(
            "Which data are the results compared on? Give --data FOLDER (such as street:demo), or "
            "--no-compare."
        )
    making = _Making(model, out, place, as_json)
    specs = _specs(making.source, methods, data, options.given(given))
    making.make_ready([*specs])
    if making.source != model:
        making.run(_EXPORTED, _export_spec(model, data, given["check_images"]), must=True)
    for method, spec in specs.items():
        making.run(method, spec, must=len(specs) == 1)
    if "bf16" in methods:
        making.take_bf16()
    if as_json:
        click.echo(json.dumps(making.outputs, indent=1))
    if len(making.failed) == len(specs) and "bf16" not in methods:
        making.require_all()
    if compare and data is not None:
        results = [one for one in (model, *making.references) if one != making.source]
        compare_after(making.source, results, data, out / _REPORT, place, **measured)
    making.require_all()


class _Making:
    """The forms of one model.

    Attributes:
        source: what is quantized and compared with: the model, or the ONNX file that it is
            exported to. Against a model of torch, a form would win what ONNX Runtime wins.
        outputs: by form, the operation's, with `path`; or `error`.
        references: of the forms that were made.
        failed: why others weren't.
    """

    def __init__(self, model: str, out: Path, place: Place, as_json: bool) -> None:
        from visiondyno.operations.export import stem_of

        self._model, self._out, self._place = model, out, place
        self._stem = stem_of(model)
        self._console = None if as_json else Console()
        self.failed: list[ModelError] = []
        resolved = resolve_reference(model)
        is_file = resolved.runtime == "onnx" and resolved.path is not None
        self.source = model if is_file else str(out / self._name(_EXPORTED))
        self.outputs: dict[str, dict[str, Any]] = {}
        self.references: list[str] = []

    def make_ready(self, methods: list[str]) -> None:
        """Find out before the work whether the files can be written."""
        exported = [] if self.source == self._model else [_EXPORTED]
        make_ready(self._out, [self._name(one) for one in (*exported, *methods)], self._model)

    def run(self, form: str, spec: OperationInput, *, must: bool) -> None:
        """Make one; why it can't be made is told, and the others are made all the same.

        Raises:
            ModelError: it can't, and `must`.
        """
        try:
            output = run_making(spec, self._place)
        except ModelError as error:
            if must:
                raise
            self.failed.append(error)
            self.outputs[form] = {"error": error.message}
            click.echo(f"{form} wasn't made: {error.message}", err=True)
            return
        stem = f"{self._stem}-{form}"
        path = write_made(output, self._place, self._out, stem, self._model)[0]
        self.outputs[form] = {**output, "path": str(path)}
        self.references.append(str(path))
        if self._console is not None:
            print_made(output, path, self._console)

    def take_bf16(self) -> None:
        """The source as OpenVINO runs it in bfloat16: no file of its own."""
        path = resolve_reference(self.source).path
        reference = f"{_OPENVINO_BF16}{path}"
        self.outputs["bf16"] = {"reference": reference}
        self.references.append(reference)
        if self._console is not None:
            click.echo(f"bf16: nothing is written; run it as {reference}")

    def require_all(self) -> None:
        """End with an error where a form wasn't made.

        Raises:
            ModelError: says how many.
        """
        if self.failed:
            raise ModelError(
                f"{len(self.failed)} of the forms weren't made; each one's line says why, and the "
                "others are whole."
            )

    def _name(self, form: str) -> str:
        return f"{self._stem}-{form}.onnx"


def _export_spec(model: str, data: str | None, check_images: int | None) -> ExportInput:
    given = options.given({"model": model, "data": data, "check_images": check_images})
    spec: ExportInput = parse(ExportInput, given, "The command's options are wrong")
    return spec


def _specs(
    source: str, methods: list[str], data: str | None, given: dict[str, Any]
) -> dict[str, QuantizeInput]:
    """The operation of each method that makes a file, all checked before the first runs."""
    if _STATIC in methods and "calibration_data" not in given:
        raise SpecError(
            "static-int8 finds ranges on images: give --calibrate FOLDER, with images such as the "
            "model will see and others than those of --data; or take --to dynamic-int8 or fp16."
        )
    if _STATIC not in methods and _OF_STATIC & set(given):
        raise SpecError("Ranges are found for static-int8 only; add it to --to, or leave them out.")
    if not any(method.endswith("int8") for method in methods) and _OF_INT8 & set(given):
        raise SpecError(
            "--exclude, --quantize-head and --per-tensor are of int8; add static-int8 or "
            "dynamic-int8 to --to, or leave them out."
        )
    found = {}
    for method in methods:
        if method == "bf16":
            continue
        left_out = frozenset() if method == _STATIC else _OF_STATIC
        left_out |= frozenset() if method.endswith("int8") else _OF_INT8
        own = {name: value for name, value in given.items() if name not in left_out}
        payload = {"model": source, "data": data, "method": method.replace("-", "_"), **own}
        found[method] = parse(QuantizeInput, payload, "The command's options are wrong")
    return found
