"""How a client sends states to its workers and takes them back: as little as the worker lacks."""

import logging
from typing import Any, Literal

from visiondyno.client.async_client import Json, OnEvent
from visiondyno.client.client import AnyPolicy, Client
from visiondyno.client.model_state import ModelState, TrainedSoFar
from visiondyno.errors import BaseMissing, OperationFailed
from visiondyno.state import Placement, decode, encode, encode_held, from_text, to_text

Lossy = Literal["bf16", "int8-delta"]

_log = logging.getLogger("visiondyno")


class StateTransfer:
    """Runs jobs that begin with a state, and may answer with one.

    A worker that has said it keeps a state is sent its name only, as a difference of nothing; one
    that has lost it meanwhile says so, and is sent the whole.
    """

    def __init__(self, client: Client, lossy: Lossy | None = None) -> None:
        """`lossy`: how answers may be rounded; see `visiondyno.specs.training_operations`."""
        self._client = client
        self._lossy = lossy

    def run(
        self, job_input: Json, start: ModelState | None, policy: AnyPolicy, on_event: OnEvent
    ) -> Json:
        """The job's output; `start` is what its `model_state` is.

        Raises:
            VisionDynoError: the job's own error.
        """
        if start is None:
            return self._client.run(job_input, policy=policy, on_event=on_event)
        try:
            output = self._run(job_input, start, policy, on_event)
        except BaseMissing:
            if not start.held_by(self._client.id):
                raise
            _log.info("The worker no longer holds %r; the job is sent again with all of it.", start)
            start.note_held(self._client.id, held=False)
            output = self._run(job_input, start, policy, on_event)
        start.note_held(self._client.id)
        return output

    def reply(self, start: ModelState | None) -> Json:
        """The job's `state_reply`: a difference to `start` may come, and a rounded state."""
        rounded = self._lossy if start is not None or self._lossy == "bf16" else None
        return {"delta": True} | ({} if rounded is None else {"lossy": rounded})

    def receive(self, output: Json, start: ModelState | None, epoch: int = 0) -> ModelState:
        """The state in a job's output, verified.

        Args:
            output: of the job.
            start: what it began with.
            epoch: how many epochs of `train_epoch` led to it.

        Raises:
            ModelError: it is damaged, or not what it is said to be.
            NotFound: its blob is gone.
        """
        try:
            text, kind = output["model_state"], output["model_state_format"]
        except KeyError as error:
            raise OperationFailed(
                f"The worker's answer has no {error}; it may be of another version than this one."
            ) from error
        is_blob = text.startswith("sha256:")
        data = self._client.get_blob(text) if is_blob else from_text(text)
        sha256 = output.get("model_state_sha256")
        bases = {} if start is None else {start.sha256: start}
        state = ModelState.adopt(
            decode(data, kind, bases, expected_sha256=sha256),
            sha256=sha256,
            trained=TrainedSoFar(epoch, output.get("optimizer_state")),
        )
        if sha256 is not None and "model_state_not_kept" not in output:
            state.note_held(self._client.id)
        return state

    def _run(
        self, job_input: Json, start: ModelState, policy: AnyPolicy, on_event: OnEvent
    ) -> Json:
        sent = job_input | self._on_wire(start)
        return self._client.run(sent, policy=policy, on_event=on_event)

    def _on_wire(self, state: ModelState) -> dict[str, Any]:
        held = state.held_by(self._client.id)
        encoded = encode_held(state, state.sha256) if held else encode(state)
        inline = encoded.placement is Placement.INLINE
        text = to_text(encoded) if inline else self._client.put_blob(encoded.data)
        return {"model_state": text, "model_state_format": encoded.format}
