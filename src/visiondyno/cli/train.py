"""`dyno train`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from visiondyno.cli import options
from visiondyno.cli.place import place_options
from visiondyno.cli.training_display import TrainingDisplay
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
    PAGE,
    STATE,
    TrainingFolder,
    TrainingWatch,
    to_json,
)
from visiondyno.client.training_run import run_training
from visiondyno.errors import SpecError
from visiondyno.places import Place
from visiondyno.report.format import number, plural, shorten
from visiondyno.report.yaml_spec import read_value

_EPILOG = (
    "Example: dyno train --model torchvision:resnet18 --data digits:train --validation digits:val "
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
    "--model", metavar="KIND:NAME", help="torchvision:NAME, timm:NAME or transformers:NAME."
)
@click.option("--data", metavar="REF", help="What to learn from: a folder, or mnist:train …")
@click.option(
    "--validation", metavar="REF", help="What to score on after each epoch, prepared alike."
)
@click.option("--epochs", type=int, metavar="N", help="How many. [default: 1]")
@click.option("--lr", "learning_rate", type=float, metavar="X", help="Learning rate.")
@click.option("--batch-size", type=int, metavar="N", help="Samples a step. [default: 32]")
@click.option("--optimizer", metavar="NAME", help="A class of torch.optim. [default: adam]")
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

    The file holds the fields of the operation 'train' (model_config, training_data, epochs …);
    options override it. Relative paths in it are relative to its folder. Ctrl-C stops the
    training; the same command goes on from the last checkpoint of its worker.
    """
    asked = _config(config, model, _changes(changes, options.given(given)))
    recorders = [parse_logger(text, lambda said: click.echo(said, err=True)) for text in loggers]
    folder = TrainingFolder(out, asked)
    watch = TrainingWatch(asked)
    with _keeping_what_is_known(folder, watch), TrainingDisplay(asked.spec.epochs) as display:
        callbacks: list[Callback] = [watch, display, *recorders]
        with Client(place) as client:
            try:
                state = run_training(asked, client, callbacks, time_limit_s)
            finally:
                watch.note_job(client)
    folder.write(watch, state)
    if as_json:
        click.echo(to_json({**watch.summary(), "files": _files(out)}), nl=False)
    else:
        _print_summary(watch, out)


@contextmanager
def _keeping_what_is_known(folder: TrainingFolder, watch: TrainingWatch) -> Iterator[None]:
    """Writes history and page of the epochs that were done, before an error goes on its way."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            watch.ended = "It was interrupted."
        watch.put_before(folder.earlier_history())
        folder.write_unfinished(watch)
        if watch.history:
            done = f"Done: {plural(len(watch.history), 'epoch')}, written to {folder.path}."
            again = "The same command goes on from the last checkpoint that its worker kept."
            click.echo(f"{done} {again}", err=True)
        for name, text in _job_lines(watch):
            click.echo(f"{name}: {text}", err=True)
        raise


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


def _job_lines(watch: TrainingWatch) -> list[tuple[str, str]]:
    return watch.job.lines() if watch.job is not None and watch.job.is_told else []


def _files(out: Path) -> dict[str, str]:
    return {
        "state": str((out / STATE).resolve()),
        "page": str((out / PAGE).resolve()),
        "config": str((out / CONFIG).resolve()),
    }


def _print_summary(watch: TrainingWatch, out: Path) -> None:
    for name, text in _summary_lines(watch, out):
        click.echo(f"{name:<12} {text}")
    for note in watch.notes:
        click.echo(f"Note: {note}")


def _summary_lines(watch: TrainingWatch, out: Path) -> list[tuple[str, str]]:
    files = _files(out)
    speed = [f"{number(watch.seconds)} s"]
    if watch.seconds_an_epoch is not None:
        speed.append(f"{number(watch.seconds_an_epoch)} s an epoch")
    if watch.samples_per_s is not None:
        speed.append(f"{watch.samples_per_s:,.0f} training samples/s with validation")
    environment = watch.environment
    where = f"torch {environment['torch']} on {environment['device']}" if environment else ""
    lines = [
        ("Trained", shorten(watch.config.title, 100)),
        ("Best epoch", _best(watch)),
        ("Time", ", ".join(speed)),
        ("Worker", where),
        *_job_lines(watch),
        ("Weights", f"{files['state']} (of the last epoch)"),
        ("Curves", files["page"]),
        ("Again", f"dyno train {out / CONFIG}"),
    ]
    return [(name, text) for name, text in lines if text]


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
