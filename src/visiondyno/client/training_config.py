"""A training as a file: the fields of the `train` input in YAML, with changes on top.

Two fields hold paths here, and are read when the training starts: `model_state` (a safetensors
file of weights), and `program` of an `exported` model.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from visiondyno.datasets.registry import builtin_datasets
from visiondyno.errors import SpecError
from visiondyno.report.format import plural
from visiondyno.report.yaml_spec import dump_fields, read_fields, read_text
from visiondyno.specs.inline_data import InlineData
from visiondyno.specs.training import EarlyStopping, Hyperparameters, ModelConfig
from visiondyno.specs.training_data import ImageData
from visiondyno.specs.training_operations import StateReply, TrainInput
from visiondyno.training.metrics import MORE_IS_BETTER

DATA_FIELDS = ("training_data", "validation_data")
NEEDS = "a training needs at least 'model_config' and 'training_data'"
ARCHITECTURES = ("torchvision", "timm", "transformers")
HEADER = """\
# Repeats this training: dyno train config.yaml
# Paths are absolute, or relative to this file's folder.
"""
_CONFIG_KINDS: dict[str, type[BaseModel]] = {
    get_args(kind.model_fields["type"].annotation)[0]: kind
    for kind in get_args(get_args(ModelConfig)[0])
}
_TAGS = frozenset({"inline", "images", "reference", "blob"})


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """A training that was checked as far as it can be without its worker.

    Attributes:
        spec: the `train` input; `model_state` and `program` may be paths.
    """

    spec: TrainInput

    @property
    def fields(self) -> dict[str, Any]:
        """The input's fields as on the wire, defaults written out, without what wasn't given."""
        left_out = {"operation", "state_reply"}
        return self.spec.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=left_out)

    @property
    def epochs(self) -> int:
        """How many at most."""
        return self.spec.epochs

    @property
    def title(self) -> str:
        """What is trained on what, in a few words."""
        config = self.spec.config.model_dump()
        name = config.get("name") or {
            "sequential": plural(len(config.get("layers", ())), "layer"),
            "exported": "exported program",
            "keras": "Keras model",
        }.get(config["type"], config["type"])
        data = self.fields["training_data"]
        if isinstance(data, dict):
            data = data.get("data") or f"{plural(len(data['labels']), 'inline sample')}"
        return f"{name} on {data}"

    @property
    def monitor(self) -> str:
        """The metric that says which epoch is the best: early stopping's, or else the loss."""
        if self.spec.early_stopping is not None:
            return self.spec.early_stopping.monitor
        return "train_loss" if self.spec.validation_data is None else "val_loss"

    @property
    def less_is_better(self) -> bool:
        """Of the monitored metric."""
        stopping = self.spec.early_stopping
        if stopping is None or stopping.mode is None:
            return self.monitor.partition("_")[2] not in MORE_IS_BETTER
        return stopping.mode == "min"

    def to_yaml(self) -> str:
        """YAML that `read_config` reads back to an equal value."""
        return HEADER + dump_fields(self.fields)

    def is_in(self, path: Path) -> bool:
        """Whether the file describes the same training."""
        try:
            return read_config(path).spec == self.spec
        except SpecError:
            return False


def read_config(path: Path, changes: Mapping[str, Any] | None = None) -> TrainingConfig:
    """The training that a YAML file describes, with changes on top.

    Args:
        path: relative paths in it are relative to its folder.
        changes: see `parse_config`.

    Raises:
        SpecError: the file can't be read, isn't YAML, or a field is wrong; names file and field.
    """
    return parse_config(read_text(path), str(path), path.parent, changes)


def parse_config(
    text: str, what: str, folder: Path, changes: Mapping[str, Any] | None = None
) -> TrainingConfig:
    """As `read_config`, of a text.

    Args:
        text: the YAML.
        what: what messages call it.
        folder: relative paths in the text are relative to it.
        changes: dotted names of fields (`hyperparameters.learning_rate`) and their values, over
            those of the text. Relative paths in them are relative to the working folder.
    """
    fields = read_fields(text, what, NEEDS)
    return make_config(_with_absolute_paths(fields, folder), what, changes)


def make_config(
    fields: Mapping[str, Any], what: str, changes: Mapping[str, Any] | None = None
) -> TrainingConfig:
    """The training of these fields with changes on top.

    Raises:
        SpecError: a field is missing, wrong or unknown; an unknown one comes with a suggestion.
    """
    changed = json.loads(_as_json(fields, what))
    for name, value in sorted((changes or {}).items(), key=_data_last):
        _change(changed, name, value, what)
    changed = _with_absolute_paths(changed, Path.cwd())
    if "model_state_format" in changed:
        raise SpecError(
            f"{what}: leave out 'model_state_format'; 'model_state' is a safetensors file here."
        )
    try:
        return TrainingConfig(TrainInput.model_validate(json.loads(_as_json(changed, what))))
    except ValidationError as error:
        raise SpecError(f"{what}: {_described(error)}") from error


def architecture(reference: str) -> dict[str, Any]:
    """The `model_config` of `torchvision:resnet18`, `timm:NAME` or `transformers:NAME`.

    Raises:
        SpecError: it is none of these.
    """
    kind, colon, name = reference.partition(":")
    if not colon or kind not in ARCHITECTURES or not name:
        raise SpecError(
            f"'{reference}' names no architecture to train; write torchvision:NAME (such as "
            "torchvision:resnet18), timm:NAME or transformers:NAME, or describe it as "
            "'model_config' in a file."
        )
    return {"type": kind, "name": name}


def _as_json(fields: Mapping[str, Any], what: str) -> str:
    # YAML knows dates, binary values and lists that hold themselves; the wire knows none of them.
    try:
        return json.dumps(fields)
    except (TypeError, ValueError, RecursionError) as error:
        raise SpecError(
            f"{what}: a value can't travel in a job ({error}); write a text in quotes."
        ) from error


def _data_last(change: tuple[str, Any]) -> bool:
    # Other data prepared alike: so it needs the preparation of the training data first.
    return change[0] == "validation_data"


def _change(fields: dict[str, Any], name: str, value: Any, what: str) -> None:
    if name in DATA_FIELDS and isinstance(value, str):
        fields[name] = _exchanged_data(fields, name, value)
        return
    *parents, last = name.split(".")
    place: Any = fields
    for depth, part in enumerate(parents):
        if isinstance(place, dict) and part in DATA_FIELDS and isinstance(place.get(part), str):
            place[part] = {"data": place[part]}
        place = _child(place, part, ".".join(parents[: depth + 1]), what)
    if isinstance(place, list):
        place[_index(place, last, name, what)] = value
    elif isinstance(place, dict):
        place[last] = value
    else:
        raise SpecError(f"{what}: '{name}' can't be set: '{'.'.join(parents)}' holds no fields.")


def _child(place: Any, part: str, name: str, what: str) -> Any:
    if isinstance(place, list):
        return place[_index(place, part, name, what)]
    if not isinstance(place, dict):
        raise SpecError(f"{what}: '{name}' can't be set: there are no fields above it.")
    if place.get(part) is None:
        place[part] = {}
    return place[part]


def _index(place: list[Any], part: str, name: str, what: str) -> int:
    if part.isascii() and part.isdigit() and int(part) < len(place):
        return int(part)
    raise SpecError(
        f"{what}: '{name}' can't be set: '{part}' isn't an index from 0 to {len(place) - 1}."
    )


def _exchanged_data(fields: Mapping[str, Any], name: str, reference: str) -> Any:
    """Another reference, prepared as the one in its place; validation data as training data are."""
    own, training = fields.get(name), fields.get("training_data")
    if reference.startswith("sha256:"):
        return reference
    if isinstance(own, dict) and "features" not in own:
        return {**own, "data": reference}
    if name == "validation_data" and isinstance(training, dict) and "data" in training:
        return {**training, "data": reference, "max_images": None}
    return reference


def _with_absolute_paths(fields: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The fields with paths that are there made absolute: a worker may start in another folder."""
    found = dict(fields)
    for name in DATA_FIELDS:
        value = found.get(name)
        if isinstance(value, str):
            found[name] = absolute_data(value, folder)
        elif isinstance(value, dict) and isinstance(value.get("data"), str):
            found[name] = {**value, "data": absolute_data(value["data"], folder)}
    state, config = found.get("model_state"), found.get("model_config")
    if isinstance(state, str) and not state.startswith("sha256:"):
        found["model_state"] = str(absolute_path(state, folder))
    if isinstance(config, dict) and isinstance(config.get("program"), str):
        program = absolute_path(config["program"], folder)
        if program.is_file():
            found["model_config"] = {**config, "program": str(program)}
    return found


def absolute_data(reference: str, folder: Path) -> str:
    """A dataset reference that is a path in `folder` as an absolute one; others as they are."""
    builtin = {dataset.name for dataset in builtin_datasets()}
    stem, colon, split = reference.rpartition(":")
    if reference.startswith("sha256:") or reference.partition(":")[0] in builtin:
        return reference
    for text, ending in ((reference, ""), (stem, colon + split)):
        if text and (path := absolute_path(text, folder)).exists():
            return f"{path}{ending}"
    return reference


def absolute_path(text: str, folder: Path) -> Path:
    """The path as seen from `folder`, absolute."""
    try:
        return (folder / Path(text).expanduser()).resolve()
    except (OSError, RuntimeError, ValueError):  # too long for a path, or '~nobody'
        return Path(text)


def _described(error: ValidationError) -> str:
    """The first problem in one sentence; with a suggestion where a field is unknown."""
    first = error.errors(include_url=False)[0]
    loc = [str(part) for part in first["loc"]]
    parents = [part for part in loc[:-1] if part not in _TAGS and part not in _CONFIG_KINDS]
    if first["type"] == "extra_forbidden":
        return _unknown_field(loc[-1], ".".join(parents), _known_fields(loc[:-1]))
    if first["type"] == "missing" and loc[0] in DATA_FIELDS and len(loc) > 1:
        return f"'{loc[0]}' needs 'data', a dataset reference, or both 'features' and 'labels'."
    place = ".".join([*parents, *(part for part in loc[-1:] if part not in _TAGS)])
    if first["type"] in ("union_tag_invalid", "union_tag_not_found"):
        return f"'{place}.type' must be one of {', '.join(_CONFIG_KINDS)}."
    if first["type"] == "missing":
        return f"'{place}' is missing; {NEEDS}." if len(loc) == 1 else f"'{place}' is missing."
    value = first.get("input")
    given = f", got {value!r:.80}" if isinstance(value, str | int | float | bool | None) else ""
    message = first["msg"].removeprefix("Value error, ")
    return f"'{place}': {message}{given}." if place else f"{message}."


def _unknown_field(name: str, place: str, known: Sequence[str]) -> str:
    where = f" in '{place}'" if place else ""
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"there is no field '{name}'{where}; did you mean '{near[0]}'?"
    return f"there is no field '{name}'{where}; the fields are {', '.join(sorted(known))}."


def _known_fields(loc: Sequence[str]) -> list[str]:
    parts: dict[str, type[BaseModel]] = {
        "hyperparameters": Hyperparameters,
        "early_stopping": EarlyStopping,
        "state_reply": StateReply,
        "images": ImageData,
        "inline": InlineData,
        **_CONFIG_KINDS,
    }
    kind = next((parts[part] for part in reversed(loc) if part in parts), TrainInput)
    names = [found.alias or name for name, found in kind.model_fields.items()]
    hidden = {"operation", "state_reply", "model_state_format"}
    return [name for name in names if name not in hidden]
