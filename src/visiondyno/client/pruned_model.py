"""Pruning a trained model: what is asked for, its run, and the folder it leaves."""

from collections.abc import Iterable
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
from visiondyno.client.training_report import TrainingWatch, to_json
from visiondyno.client.vision_training import VisionTrainingFolder
from visiondyno.errors import SpecError
from visiondyno.report.yaml_spec import dump_fields, read_fields, read_text
from visiondyno.specs.model_changes import PruneInput
from visiondyno.specs.operations import parse
from visiondyno.whole_file import write_whole

PRUNING = "pruning.json"
REPORT = "report"

_HEADER = "# What 'dyno prune' was asked for.\n"
_WHAT = "The command's options are wrong"


@dataclass(frozen=True, slots=True)
class PruningConfig:
    """A pruning that was checked as far as it can be without its worker.

    Attributes:
        spec: the `prune` input.
    """

    spec: PruneInput

    @property
    def epochs(self) -> int:
        """How many the pruned model is trained for."""
        return self.spec.epochs

    @property
    def fields(self) -> dict[str, Any]:
        """The input's fields as on the wire, defaults written out, without what wasn't given."""
        return self.spec.model_dump(mode="json", exclude_none=True, exclude={"operation"})

    @property
    def title(self) -> str:
        """What is pruned, in a few words."""
        on = f", trained on {self.spec.data}" if self.spec.data and self.spec.epochs else ""
        return f"{self.spec.model} pruned by {self.spec.ratio:g}{on}"

    @property
    def monitor(self) -> str:
        """The metric that says which epoch is the best; the answer says which it was."""
        spec = self.spec
        if spec.validation_data is None and spec.validation_share is None:
            return "train_loss"
        return "val_image_ap" if spec.level == "image" else "val_map_50_95"

    @property
    def less_is_better(self) -> bool:
        """Of that metric."""
        return self.monitor == "train_loss"

    def to_yaml(self) -> str:
        """The fields as YAML."""
        return _HEADER + dump_fields(self.fields)

    def is_in(self, path: Path) -> bool:
        """Whether the file describes the same pruning."""
        try:
            fields = read_fields(read_text(path), str(path), "")
            return bool(parse(PruneInput, fields, str(path)) == self.spec)
        except SpecError:
            return False


class PrunedFolder(VisionTrainingFolder):
    """A model reference, with what was removed, the training and the comparison beside it."""

    ours: ClassVar[frozenset[str]] = VisionTrainingFolder.ours | {PRUNING, REPORT}

    def write(self, watch: TrainingWatch, state: ModelState) -> None:
        """Everything there is but the comparison.

        Raises:
            ModelError: the answer's record is of another version.
            StorageFull: a file can't be written.
        """
        if watch.history:
            super().write(watch, state)
        else:
            self.write_weights(watch, state)
            # By this file the same pruning knows the folder for its own.
            write_whole(self.path / "config.yaml", self._config.to_yaml().encode(), "The record")
        text = to_json((watch.result or {}).get("pruning"))
        write_whole(self.path / PRUNING, text.encode(), "The pruning's record")


def make_pruning(fields: dict[str, Any]) -> PruningConfig:
    """The pruning of a command's options.

    Raises:
        SpecError: one is missing or wrong.
    """
    return PruningConfig(parse(PruneInput, fields, _WHAT))


def run_pruning(
    config: PruningConfig,
    client: Client,
    callbacks: Iterable[Callback] = (),
    time_limit_s: float | None = None,
) -> ModelState:
    """Prune and train on; the weights of the best epoch. All else is told to the callbacks.

    Args:
        config: what is asked for.
        client: says where.
        callbacks: told in this thread.
        time_limit_s: see `client.time_limit.policy_within`.

    Raises:
        VisionDynoError: the job's own error, or what keeps it from being sent.
    """
    everyone = tuple(callbacks)
    told = EpochsTold(everyone)
    try:
        job_input = {"operation": "prune", **config.fields}
        for callback in everyone:
            callback.on_train_begin(dict(job_input))
        AnswerRoom(client, None).check_file()
        sent = Attaching(client).attach(job_input, as_progress_of(told.on_event))
        output = client.run(
            sent, policy=policy_within(client, time_limit_s), on_event=told.on_event
        )
        for record in output["history"]:
            told.tell(record)
        state = StateTransfer(client).receive(output, None)
        output["model_state"] = state
        for callback in everyone:
            callback.on_train_end(output)
    except BaseException as error:
        for callback in everyone:
            callback.on_error(error)
        raise
    return state
