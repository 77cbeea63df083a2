"""Training a detector or an image-level classifier: its file, its run, and the folder it leaves."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from visiondyno.client.answer_room import AnswerRoom
from visiondyno.client.attachments import Attaching, as_progress_of
from visiondyno.client.callbacks import Callback, EpochsTold
from visiondyno.client.client import Client
from visiondyno.client.model_state import ModelState
from visiondyno.client.state_transfer import StateTransfer
from visiondyno.client.time_limit import policy_within
from visiondyno.client.training_config import HEADER, absolute_data, absolute_path
from visiondyno.client.training_report import OUR_FILES, STATE, TrainingFolder, TrainingWatch
from visiondyno.errors import ModelError, SpecError
from visiondyno.report.yaml_spec import dump_fields, read_fields, read_text
from visiondyno.specs.operations import parse
from visiondyno.specs.trained_model import RECORD, WEIGHTS, TrainedModel
from visiondyno.specs.vision_training import TrainVisionInput

NEEDS = "a training of a detector needs at least 'model' and 'data'"

_ON_WIRE_ONLY = frozenset({"operation", "model_state_format"})


@dataclass(frozen=True, slots=True)
class VisionTrainingConfig:
    """A training that was checked as far as it can be without its worker.

    Attributes:
        spec: the `train` input; `model_state` is the path of a safetensors file.
    """

    spec: TrainVisionInput

    @property
    def epochs(self) -> int:
        """How many."""
        return self.spec.epochs

    @property
    def fields(self) -> dict[str, Any]:
        """The input's fields as on the wire, defaults written out, without what wasn't given."""
        return self.spec.model_dump(mode="json", exclude_none=True, exclude=set(_ON_WIRE_ONLY))

    @property
    def title(self) -> str:
        """What is trained on what, in a few words."""
        return f"{self.spec.model} on {self.spec.data}"

    @property
    def monitor(self) -> str:
        """The metric that says which epoch is the best."""
        spec = self.spec
        if spec.validation_data is None and spec.validation_share is None:
            return "train_loss"
        return "val_image_ap" if spec.level == "image" else "val_map_50_95"

    @property
    def less_is_better(self) -> bool:
        """Of that metric."""
        return self.monitor == "train_loss"

    def to_yaml(self) -> str:
        """YAML that `read_vision_config` reads back to an equal value."""
        return HEADER + dump_fields(self.fields)

    def is_in(self, path: Path) -> bool:
        """Whether the file describes the same training."""
        try:
            return read_vision_config(path) == self
        except SpecError:
            return False


def describes_vision_training(path: Path) -> bool:
    """Whether a file is of this kind of training: it names a `model`, and no `model_config`.

    Raises:
        SpecError: it can't be read, or isn't YAML.
    """
    fields = read_fields(read_text(path), str(path), NEEDS)
    return "model" in fields and "model_config" not in fields


def read_vision_config(
    path: Path, changes: Mapping[str, Any] | None = None
) -> VisionTrainingConfig:
    """The training that a YAML file describes, with changes on top.

    Args:
        path: relative paths in it are relative to its folder.
        changes: fields and their values, over those of the file.

    Raises:
        SpecError: the file can't be read, isn't YAML, or a field is wrong; names file and field.
    """
    fields = read_fields(read_text(path), str(path), NEEDS)
    return make_vision_config(_with_absolute_paths(fields, path.parent), str(path), changes)


def make_vision_config(
    fields: Mapping[str, Any], what: str, changes: Mapping[str, Any] | None = None
) -> VisionTrainingConfig:
    """The training of these fields with changes on top; `what` names them in messages.

    Paths become absolute: what is written of the training is read in other folders.

    Raises:
        SpecError: a field is missing, wrong or unknown.
    """
    found = dict(fields)
    for name, value in (changes or {}).items():
        field, dot, inner = name.partition(".")
        if dot and field != "arguments":
            raise SpecError(
                f"{what}: '{name}' can't be set; of a detector's training only 'arguments' has "
                f"fields of its own{_near(field)}."
            )
        if dot:
            found["arguments"] = {**found.get("arguments", {}), inner: value}
        else:
            found[field] = value
    if (changes or {}).get("validation_data") is not None:
        found.pop("validation_share", None)
    absolute = _with_absolute_paths(found, Path.cwd())
    return VisionTrainingConfig(parse(TrainVisionInput, absolute, what))


def run_vision_training(
    config: VisionTrainingConfig,
    client: Client,
    callbacks: Iterable[Callback] = (),
    time_limit_s: float | None = None,
) -> ModelState:
    """Train, and return the weights of the best epoch; all else is told to the callbacks.

    Args:
        config: its files are read here.
        client: says where.
        callbacks: told in this thread.
        time_limit_s: see `client.time_limit.policy_within`.

    Raises:
        VisionDynoError: the job's own error, or what keeps it from being sent.
    """
    everyone = tuple(callbacks)
    told = EpochsTold(everyone)
    transfer = StateTransfer(client)
    try:
        path = config.spec.model_state
        start = None if path is None else ModelState.load(path)
        job_input = {"operation": "train", **config.fields}
        job_input.pop("model_state", None)
        for callback in everyone:
            callback.on_train_begin(dict(job_input))
        # Weights of a detector are hardly ever small enough for an answer of RunPod's.
        AnswerRoom(client, None).check_file()
        sent = Attaching(client).attach(job_input, as_progress_of(told.on_event))
        policy = policy_within(client, time_limit_s)
        output = transfer.run(sent, start, policy, told.on_event)
        for record in output["history"]:
            told.tell(record)
        state = transfer.receive(output, None)
        output["model_state"] = state
        for callback in everyone:
            callback.on_train_end(output)
    except BaseException as error:
        for callback in everyone:
            callback.on_error(error)
        raise
    return state


class VisionTrainingFolder(TrainingFolder):
    """Where such a training is written: a model reference, with history and page beside it."""

    weights: ClassVar[str] = WEIGHTS
    ours: ClassVar[frozenset[str]] = (OUR_FILES - {STATE}) | {RECORD, WEIGHTS}

    def write_weights(self, watch: TrainingWatch, state: ModelState) -> None:
        """Weights and record, and the entry in the index of trained models.

        Raises:
            ModelError: the answer's record is of another version.
            StorageFull: a file can't be written.
        """
        from visiondyno.runtimes.trained_models import register, write_trained

        record = record_of(watch)
        written = write_trained(self.path, record, dict(state))
        register(self.path, written)


def record_of(watch: TrainingWatch) -> TrainedModel:
    """What the job's answer says of the trained model.

    Raises:
        ModelError: it can't be understood.
    """
    answer = (watch.result or {}).get("trained_model")
    try:
        record: TrainedModel = parse(TrainedModel, answer, "The worker's answer")
    except SpecError as error:
        raise ModelError(
            f"{error} The worker may be of another version than this one; update it."
        ) from error
    return record


def _with_absolute_paths(fields: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    found = dict(fields)
    for name in ("data", "validation_data"):
        if isinstance(found.get(name), str):
            found[name] = absolute_data(found[name], folder)
    if isinstance(found.get("model_state"), str):
        found["model_state"] = str(absolute_path(found["model_state"], folder))
    return found


def _near(name: str) -> str:
    near = difflib.get_close_matches(name, list(TrainVisionInput.model_fields), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""
