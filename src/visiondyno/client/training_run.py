"""Run the training that a configuration describes, anywhere."""

import base64
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from visiondyno.client.callbacks import Callback
from visiondyno.client.client import Client
from visiondyno.client.model_state import ModelState
from visiondyno.client.time_limit import policy_within
from visiondyno.client.trainer import Trainer
from visiondyno.client.training_config import TrainingConfig
from visiondyno.errors import SpecError

_MAX_INLINE_BYTES = 5_000_000


def run_training(
    config: TrainingConfig,
    client: Client,
    callbacks: Iterable[Callback] = (),
    time_limit_s: float | None = None,
) -> ModelState:
    """Train, and return the weights after the last epoch; all else is told to the callbacks.

    Args:
        config: files that it names are read here.
        client: says where.
        callbacks: told in this thread.
        time_limit_s: the job is stopped after so long; None: where a job without a limit would be
            stopped after ten minutes, a day, or as long as the client's limit of cost pays for;
            else never.

    Raises:
        VisionDynoError: the job's own error, or what keeps it from being sent.
    """
    state = _state(config)
    fields = config.fields
    fields["model_config"] = _with_program(fields["model_config"], client)
    for name in ("model_state", "model_state_format"):
        fields.pop(name, None)
    trainer = Trainer(client, callbacks=tuple(callbacks))
    trained, _ = trainer.train_model(
        fields.pop("model_config"),
        fields.pop("training_data"),
        fields.pop("validation_data", None),
        fields.pop("hyperparameters", None),
        fields.pop("epochs"),
        model_state=state,
        policy=policy_within(client, time_limit_s),
        **fields,
    )
    return trained


def _state(config: TrainingConfig) -> ModelState | None:
    path = config.spec.model_state
    return None if path is None else ModelState.load(path)


def _with_program(model_config: dict[str, Any], client: Client) -> dict[str, Any]:
    """The configuration with the program itself where it names a file."""
    program = model_config.get("program")
    if not isinstance(program, str) or program.startswith("sha256:"):
        return model_config
    path = Path(program)
    try:
        data = path.read_bytes() if path.is_absolute() else None
    except OSError as error:
        raise SpecError(
            f"The program {path} can't be read ({error.strerror}); check 'model_config.program'."
        ) from error
    if data is None:
        raise SpecError(
            f"There is no file '{program:.100}'; 'model_config.program' is what torch.export.save "
            "wrote."
        )
    if len(data) > _MAX_INLINE_BYTES:
        return {**model_config, "program": client.put_blob(data)}
    return {**model_config, "program": base64.b64encode(data).decode()}
