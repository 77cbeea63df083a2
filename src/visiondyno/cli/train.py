"""`dyno train`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from visiondyno.cli import options
from visiondyno.cli import train_vision as vision
from visiondyno.cli.place import place_options
from visiondyno.cli.training_display import TrainingDisplay
from visiondyno.cli.training_end import (
    Line,
    files_of,
    keeping_what_is_known,
    print_lines,
    run_lines,
)
from visiondyno.client.callbacks import Callback
from visiondyno.client.client import Client
from visiondyno.client.loggers import parse_logger
from visiondyno.client.training_config import (
    TrainingConfig,
    architecture,
    make_config,
    read_config,
)
from visiondyno.client.training_report import (
    CONFIG,
    TrainingFolder,
    TrainingWatch,
    to_json,
)
from visiondyno.client.training_run import run_training
from visiondyno.errors import SpecError
from visiondyno.places import Place
from visiondyno.report.format import number, shorten
from visiondyno.report.yaml_spec import read_value

_EPILOG = (
    "Examples: dyno train --model ultralytics:yolov8n --data street --epochs 60 --imgsz 160; "
    "dyno train --model torchvision:resnet18 --data digits:train --validation digits:val "
    "--set training_data.channels=3 --epochs 3. Every training writes a config.yaml that repeats "
    "it: dyno train dyno-training/config.yaml."
)

_FIELDS = {
    "data": "training_data",
    "validation": "validation_data",
    "epochs": "epochs",
    "learning_rate": "hyperparameters.learning_rate",
    "batch_size": "hyperparameters.batch_size",
    "optimizer": "hyperparameters.optimizer",
    "loss": "hyperparameters.loss_function",
    "seed": "seed",
    "state": "model_state",
    "device": "device",
    "threads": "threads",
}
"""Options and the fields that they set."""


@click.command(epilog=_EPILOG)
@click.argument("config", required=False, type=click.Path(path_type=Path), metavar="[CONFIG.yaml]")
@click.option(
    "--model",
    metavar="KIND:NAME",
    help="ultralytics:NAME, torchvision:NAME, timm:NAME or transformers:NAME.",
)
@click.option("--data", metavar="REF", help="What to learn from: a folder, or mnist:train …")
@click.option(
    "--validation",
    metavar="REF",
    help="What to score on after each epoch, prepared alike. [default: of detectors the data's own "
    "split, else a fifth of the data]",
)
@click.option(
    "--imgsz",
    "image_size",
    type=int,
    metavar="N",
    help="Of detectors and --level image: image side, pixels. [default: 640]",
)
@click.option(
    "--level",
    type=click.Choice(["image"]),
    help="image: a classifier learns which classes are in an image labelled with boxes.",
)
@click.option(
    "--classes",
    multiple=True,
    callback=options.split_list,
    metavar="NAME[,NAME]",
    help="Learn these classes of the boxes only.",
)
@click.option(
    "--pretrained",
    is_flag=True,
    default=None,
    help="Of detectors and --level image: begin with the library's published weights.",
)
@click.option("--epochs", type=int, metavar="N", help="How many. [default: 1]")
@click.option("--lr", "learning_rate", type=float, metavar="X", help="Learning rate.")
@click.option(
    "--batch-size",
    type=int,
    metavar="N",
    help="Samples a step. [default: 32; of detectors and --level image the trainer's own]",
)
@click.option(
    "--optimizer",
    metavar="NAME",
    help="A class of torch.optim. [default: adam; of detectors and --level image the trainer's "
    "own]",
)
@click.option("--loss", metavar="NAME", help="A loss of torch.nn. [default: cross_entropy]")
@click.option("--seed", type=int, metavar="N", help="Of weights, order, dropout. [default: 0]")
@click.option("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N. [default: auto]")
@click.option("--threads", type=int, metavar="N", help="Of torch on the processor.")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Any field by its dotted name, such as hyperparameters.weight_decay=0.01.",
)
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Weights to begin with, as safetensors.",
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
    "--log",
    "loggers",
    multiple=True,
    metavar="LOGGER",
    help="Record it elsewhere too: mlflow:URI or wandb:PROJECT.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("dyno-training"),
    show_default=True,
    metavar="DIR",
    help="Where weights, history, page and config.yaml go.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    config: Path | None,
    model: str | None,
    *,
    changes: tuple[str, ...],
    place: Place,
    time_limit_s: float | None,
    loggers: tuple[str, ...],
    out: Path,
    as_json: bool,
    **given: Any,
) -> None:
    """Train a model from a YAML file or from options; write weights, curves and history.

    The file holds the fields of the operation 'train' (model_config, training_data, epochs …, or
    model, data … of detectors and image-level classifiers, whose result is a model reference);
    options override it. Relative paths in it are relative to its folder. Ctrl-C stops the
    training; the same command goes on from the last checkpoint of its worker.
    """
    said = options.given(given)
    recorders = [parse_logger(text, lambda said: click.echo(said, err=True)) for text in loggers]
    if vision.is_vision_training(config, model, said):
        detector = vision.vision_config(config, model, said, _changes(changes, {}))
        vision.train_vision(
            detector, place, recorders, time_limit_s=time_limit_s, out=out, as_json=as_json
        )
        return
    _refuse(said, vision.ONLY_HERE)
    asked = _config(config, model, _changes(changes, said))
    folder = TrainingFolder(out, asked)
    watch = TrainingWatch(asked)
    with folder.claimed():
        with keeping_what_is_known(folder, watch), TrainingDisplay(asked.epochs) as display:
            callbacks: list[Callback] = [watch, display, *recorders]
            with Client(place) as client:
                try:
                    state = run_training(asked, client, callbacks, time_limit_s)
                finally:
                    watch.note_job(client)
        folder.write(watch, state)
    if as_json:
        click.echo(to_json({**watch.summary(), "files": files_of(folder)}), nl=False)
    else:
        print_lines(_summary_lines(watch, folder), watch)


def _refuse(given: Mapping[str, Any], elsewhere: Mapping[str, str]) -> None:
    name = next((name for name in elsewhere if name in given), None)
    if name is not None:
        raise SpecError(
            f"{elsewhere[name]} is for detectors (ultralytics:yolov8n) and image-level classifiers "
            "(--level image); here --set has what belongs to the images, such as "
            "training_data.image_size=64."
        )


def _config(path: Path | None, model: str | None, changes: dict[str, Any]) -> TrainingConfig:
    if model is not None:
        changes = {"model_config": architecture(model), **changes}
    if path is not None:
        return read_config(path, changes)
    if model is None:
        raise SpecError(
            "Which model? Give a file that describes the training, or --model torchvision:resnet18 "
            "and --data."
        )
    if "training_data" not in changes:
        raise SpecError("Which data? Give --data FOLDER, or --data digits:train for the built-in.")
    return make_config({}, "The command's options are wrong", changes)


def _changes(texts: tuple[str, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    changes = {_FIELDS[name]: value for name, value in given.items()}
    if "model_state" in changes:
        changes["model_state"] = str(changes["model_state"])
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise SpecError(
                f"--set takes FIELD=VALUE, such as hyperparameters.weight_decay=0.01; got '{text}'."
            )
        changes[name] = read_value(value, f"--set {name}")
    return changes


def _summary_lines(watch: TrainingWatch, folder: TrainingFolder) -> list[Line]:
    files = files_of(folder)
    return [
        ("Trained", shorten(watch.config.title, 100)),
        ("Best epoch", _best(watch)),
        *run_lines(watch),
        ("Weights", f"{files['state']} (of the last epoch)"),
        ("Curves", files["page"]),
        ("Again", f"dyno train {folder.path / CONFIG}"),
    ]


def _best(watch: TrainingWatch) -> str:
    best = next((r for r in watch.history if r["epoch"] == watch.best_epoch), None)
    if best is None:
        return ""
    part, _, name = watch.config.monitor.partition("_")
    metrics = best[f"{part}_metrics"]
    shown = [f"{part} {name} {number(metrics[name], 4)}"]
    if name != "accuracy" and "accuracy" in metrics:
        shown.append(f"{part} accuracy {number(metrics['accuracy'], 4)}")
    early = " stopped early;" if (watch.result or {}).get("stopped_early") else ""
    return f"{watch.best_epoch} of {len(watch.history)};{early} {', '.join(shown)}"
