"""`dyno prune`."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from visiondyno.cli import options
from visiondyno.cli.before_after import compare_after
from visiondyno.cli.place import place_options
from visiondyno.cli.training_display import TrainingDisplay
from visiondyno.cli.training_end import Line, keeping_what_is_known, print_lines, run_lines
from visiondyno.client.client import Client
from visiondyno.client.own_validation import choose_validation
from visiondyno.client.pruned_model import (
    REPORT,
    PrunedFolder,
    PruningConfig,
    make_pruning,
    run_pruning,
)
from visiondyno.client.training_report import TrainingWatch, to_json
from visiondyno.errors import SpecError
from visiondyno.places import Place
from visiondyno.report.format import number, shorten
from visiondyno.report.training import metric_title
from visiondyno.report.yaml_spec import read_value

_EPILOG = (
    "Example: dyno prune yolo --ratio .3 --data street --epochs 20 --out yolo-pruned. The folder "
    "that it leaves is a model like any other: compare, serve, export, or prune it again."
)
_FIELDS = {"validation": "validation_data"}
_MAIN = ("map_50_95", "image_ap")


@click.command(epilog=_EPILOG)
@click.argument("model")
@click.option(
    "--ratio",
    type=float,
    metavar="R",
    help="Share of each layer's channels to remove. [default: .3]",
)
@click.option(
    "--multiple-of",
    type=int,
    metavar="N",
    help="A layer is left the nearest multiple of N channels, as processors compute them. "
    "[default: 8]",
)
@click.option(
    "--importance",
    type=click.Choice(["magnitude", "random"]),
    help="Which channels go: those of the smallest weights, or any. [default: magnitude]",
)
@click.option(
    "--keep",
    "keep_layers",
    multiple=True,
    callback=options.split_list,
    metavar="NAME[,NAME]",
    help="Layers, or parts of the network, that keep all their channels.",
)
@click.option("--data", metavar="REF", help="What to train the pruned model on.")
@click.option(
    "--validation",
    metavar="REF",
    help="What to score on. [default: the data's own split, else a fifth of the data]",
)
@click.option("--epochs", type=int, metavar="N", help="Of that training; 0: none. [default: 10]")
@click.option(
    "--imgsz", "image_size", type=int, metavar="N", help="Image side. [default: as it was]"
)
@click.option(
    "--level",
    type=click.Choice(["image"]),
    help="image: of a library's published classifier (torchvision:resnet18).",
)
@click.option("--lr", "learning_rate", type=float, metavar="X", help="Learning rate.")
@click.option("--batch-size", type=int, metavar="N", help="Images a step.")
@click.option("--seed", type=int, metavar="N", help="Of order and augmentation. [default: 0]")
@click.option("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N. [default: auto]")
@click.option("--threads", type=int, metavar="N", help="Of torch on the processor.")
@options.max_images
@options.skip_bad
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="NAME=VALUE",
    help="More settings of the library's trainer, by its names, such as optimizer=SGD.",
)
@options.offline
@place_options
@click.option(
    "--time-limit",
    "time_limit_s",
    type=click.FloatRange(min=0.001),
    metavar="S",
    help="Stop it after S seconds. [default: never; on runpod and at a URL a day, or what "
    "--max-cost pays for]",
)
@click.option(
    "--compare/--no-compare",
    "compares",
    default=True,
    show_default=True,
    help="Measure both models side by side on the validation data.",
)
@click.option(
    "--duration",
    "duration_s",
    type=float,
    metavar="S",
    help="Of the comparison: least seconds of each scenario's measured part. [default: 10]",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("dyno-pruned"),
    show_default=True,
    metavar="DIR",
    help="Where the model goes, and the report, in report/.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON; compare nothing.")
def command(
    *,
    changes: tuple[str, ...],
    place: Place,
    time_limit_s: float | None,
    compares: bool,
    duration_s: float | None,
    out: Path,
    as_json: bool,
    **given: Any,
) -> None:
    """Remove channels of a trained model, train what is left, and compare the two.

    MODEL is the folder of a training, or published weights (ultralytics:yolov8n). Whole channels
    go, so that a smaller network of the same kind is left, which runs anywhere.
    Ctrl-C stops it; the same command goes on from the last checkpoint of its worker.
    """
    config = _config(options.given(given), changes)
    folder, watch = PrunedFolder(out, config), TrainingWatch(config)
    with folder.claimed():
        with (
            keeping_what_is_known(folder, watch),
            TrainingDisplay(config.epochs) as display,
            Client(place) as client,
        ):
            try:
                state = run_pruning(config, client, [watch, display], time_limit_s)
            finally:
                watch.note_job(client)
        folder.write(watch, state)
    if as_json:
        result = watch.result or {}
        told = {name: result.get(name) for name in ("pruning", "trained_model")}
        click.echo(to_json({**watch.summary(), **told, "folder": str(out.resolve())}), nl=False)
    else:
        print_lines(_lines(watch, config, out), watch)
    spec = config.spec
    data = spec.validation_data or spec.data
    if compares and data is not None and not as_json:
        compare_after(
            spec.model,
            [str(out)],
            data,
            out / REPORT,
            place,
            duration_s=duration_s,
            threads=spec.threads,
            # Where it was trained, unless that was left to the worker.
            device=None if spec.device == "auto" else spec.device,
            skip_bad=spec.skip_bad,
        )


def _config(given: Mapping[str, Any], changes: tuple[str, ...]) -> PruningConfig:
    fields = {_FIELDS.get(name, name): value for name, value in given.items()}
    if changes:
        fields["arguments"] = dict(_change(text) for text in changes)
    if "data" in fields and "validation_data" not in fields:
        chosen = choose_validation(str(fields["data"]))
        click.echo(chosen.said, err=True)
        fields["data"] = chosen.data
        if chosen.validation_data is not None:
            fields["validation_data"] = chosen.validation_data
        else:
            fields["validation_share"] = chosen.validation_share
    elif "data" not in fields:
        if fields.get("epochs", 0):
            raise SpecError("--epochs needs --data to train on; give both, or --epochs 0.")
        fields["epochs"] = 0
    return make_pruning(fields)


def _change(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise SpecError(f"--set takes NAME=VALUE, such as optimizer=SGD; got '{text}'.")
    return name, read_value(value, f"--set {name}")


def _lines(watch: TrainingWatch, config: PruningConfig, out: Path) -> list[Line]:
    told = (watch.result or {})["pruning"]
    removed = told["parameters_removed"]
    size = f"{told['image_size']}×{told['image_size']}"
    return [
        ("Pruned", shorten(config.title, 100)),
        ("Parameters", f"{_fewer(told, 'parameters')} ({removed:.1%} fewer)"),
        ("FLOPs", f"{_fewer(told, 'flops')} for an image of {size}, of {told['flops_of']}"),
        ("Layers", f"{len(told['layers'])} are narrower"),
        *_scores(watch, told),
        *(run_lines(watch) if watch.history else []),
        ("Model", f"{out.resolve()}{' (weights of the best epoch)' if watch.history else ''}"),
        ("Next", _next(watch, out)),
    ]


def _next(watch: TrainingWatch, out: Path) -> str:
    """What can be done with it: detectors of two stages can't be exported."""
    name = str((watch.result or {})["trained_model"]["name"])
    folder = shlex.quote(str(out))
    return f"dyno serve {folder}" if "rcnn" in name else f"dyno export {folder} --format onnx"


def _fewer(told: Mapping[str, Any], name: str) -> str:
    before, after = (float(told[f"{name}_{when}"]) for when in ("before", "after"))
    unit, each = ("M", 1e6) if before < 1e9 else ("G", 1e9)
    return f"{number(before / each, 4)} {unit} → {number(after / each, 4)} {unit}"


def _scores(watch: TrainingWatch, told: Mapping[str, Any]) -> list[Line]:
    """The main metric of the source, right after the pruning, and after the training."""
    best = next((one for one in watch.history if one["epoch"] == watch.best_epoch), {})
    columns = [
        ("before", told["metrics_before"]),
        ("right after pruning", told["metrics_pruned"]),
        (f"after epoch {watch.best_epoch} of {len(watch.history)}", best.get("val_metrics")),
    ]
    name = next((name for name in _MAIN for _, found in columns if name in (found or {})), None)
    if name is None:
        return []
    shown = [f"{number(found[name], 4)} {when}" for when, found in columns if found]
    return [(metric_title(name), ", ".join(shown))]
