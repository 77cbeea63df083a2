"""`dyno train` of a detector or an image-level classifier."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

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
from visiondyno.client.own_validation import choose_validation
from visiondyno.client.training_report import CONFIG, TrainingWatch, to_json
from visiondyno.client.vision_training import (
    VisionTrainingConfig,
    VisionTrainingFolder,
    describes_vision_training,
    make_vision_config,
    read_vision_config,
    run_vision_training,
)
from visiondyno.errors import SpecError
from visiondyno.places import Place
from visiondyno.report.format import number, shorten
from visiondyno.report.training import metric_title
from visiondyno.training.vision.choosing import choose_trainer, is_detector

ONLY_HERE = {
    "image_size": "--imgsz",
    "level": "--level",
    "classes": "--classes",
    "pretrained": "--pretrained",
}
"""Options that other trainings don't take."""

_FIELDS = {
    "data": "data",
    "validation": "validation_data",
    "epochs": "epochs",
    "learning_rate": "learning_rate",
    "batch_size": "batch_size",
    "optimizer": "arguments.optimizer",
    "seed": "seed",
    "state": "model_state",
    "device": "device",
    "threads": "threads",
    **{name: name for name in ONLY_HERE},
}


def is_vision_training(config: Path | None, model: str | None, given: Mapping[str, Any]) -> bool:
    """Whether this is a detector's or an image-level classifier's training."""
    if model is not None:
        return is_detector(model) or "level" in given
    return config is not None and describes_vision_training(config)


def vision_config(
    path: Path | None, model: str | None, given: Mapping[str, Any], changes: Mapping[str, Any]
) -> VisionTrainingConfig:
    """The training that options, and a file below them, describe.

    Raises:
        SpecError: no model or data are named, or a field is wrong.
        DatasetError: the data's splits can't be read.
    """
    if "loss" in given:
        raise SpecError("--loss is for other trainings: a detector's loss belongs to its library.")
    fields = {_FIELDS[name]: value for name, value in given.items()} | dict(changes)
    if model is not None:
        fields["model"] = model
    if "model_state" in fields:
        fields["model_state"] = str(fields["model_state"])
    if "data" in fields and not {"validation_data", "validation_share"} & fields.keys():
        chosen = choose_validation(str(fields["data"]))
        click.echo(chosen.said, err=True)
        fields["data"] = chosen.data
        if chosen.validation_data is not None:
            fields["validation_data"] = chosen.validation_data
        else:
            fields["validation_share"] = chosen.validation_share
    if path is not None:
        config = read_vision_config(path, fields)
    elif "data" not in fields:
        raise SpecError("Which data? Give --data FOLDER, or --data street for the built-in scenes.")
    else:
        config = make_vision_config({}, "The command's options are wrong", fields)
    choose_trainer(config.spec.model, config.spec.level)
    return config


def train_vision(
    asked: VisionTrainingConfig,
    place: Place,
    recorders: Sequence[Callback],
    *,
    time_limit_s: float | None,
    out: Path,
    as_json: bool,
) -> None:
    """Train; write weights, record, curves and history; say what to do next."""
    folder = VisionTrainingFolder(out, asked)
    watch = TrainingWatch(asked)
    with folder.claimed():
        with (
            keeping_what_is_known(folder, watch),
            TrainingDisplay(asked.epochs) as display,
            Client(place) as client,
        ):
            callbacks = [watch, display, *recorders]
            try:
                state = run_vision_training(asked, client, callbacks, time_limit_s)
            finally:
                watch.note_job(client)
        folder.write(watch, state)
    if as_json:
        model = (watch.result or {}).get("trained_model")
        summary = {**watch.summary(), "trained_model": model, "files": files_of(folder)}
        click.echo(to_json(summary), nl=False)
    else:
        print_lines(_lines(watch, asked, folder), watch)


def _lines(
    watch: TrainingWatch, asked: VisionTrainingConfig, folder: VisionTrainingFolder
) -> list[Line]:
    out = folder.path
    return [
        ("Trained", shorten(asked.title, 100)),
        ("Best epoch", _best(watch)),
        *run_lines(watch),
        ("Model", f"{out.resolve()} (weights of the best epoch)"),
        ("Curves", files_of(folder)["page"]),
        ("Again", f"dyno train {shlex.quote(str(out / CONFIG))}"),
        ("Next", _next(asked, out)),
    ]


def _best(watch: TrainingWatch) -> str:
    best = next((r for r in watch.history if r["epoch"] == watch.best_epoch), None)
    if best is None:
        return ""
    told = best.get("val_metrics") or best["train_metrics"]
    first = watch.config.monitor.partition("_")[2]
    names = [first, *(name for name in ("map_50", "image_accuracy", "f1") if name in told)]
    shown = [f"{metric_title(name)} {number(told[name], 4)}" for name in names if name in told]
    return f"{watch.best_epoch} of {len(watch.history)}; {', '.join(shown)}"


def _next(asked: VisionTrainingConfig, out: Path) -> str:
    spec, folder = asked.spec, shlex.quote(str(out))
    data = shlex.quote(spec.validation_data or spec.data)
    # Other classes of the data can't be scored: the model doesn't know them.
    classes = f" --classes {shlex.quote(','.join(spec.classes))}" if spec.classes else ""
    if spec.data.partition(":")[0] == "street":
        return f"dyno compare {folder} visiondyno:street-n --data {data}{classes}"
    return f"dyno evaluate {folder} --data {data}{classes}"
