"""Model states into an operation and out of it, and what the worker keeps of them.

The states that a worker received and answered are kept as canonical bytes under their identity, so
that the next one may be a difference to one of them: see `visiondyno.state`.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from visiondyno.blobs.base import is_sha256
from visiondyno.errors import BaseMissing, ModelError, TooLarge, Unavailable
from visiondyno.operations.worker_cache import WorkerCache
from visiondyno.operations.worker_files import WorkerFiles
from visiondyno.specs.training_operations import ModuleInput, StateReply
from visiondyno.specs.vision_training import TrainVisionInput
from visiondyno.state import (
    MAX_STATE_BYTES,
    EncodedState,
    ErrorFeedback,
    Placement,
    State,
    decode_identified,
    encode,
    from_module,
    from_safetensors,
    from_tensors,
    from_text,
    identity,
    inline_or_blob,
    safetensors_pieces,
    to_text,
)

if TYPE_CHECKING:
    from torch import nn

_STATES, _FEEDBACK = "states", "feedback"
_WHAT = "'model_state'"
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")

T = TypeVar("T")


@dataclass(frozen=True)
class ReceivedState:
    """The state that came with a job.

    Attributes:
        state: arrays by name, read-only.
        sha256: its identity.
    """

    state: State
    sha256: str


def receive_state(
    spec: ModuleInput | TrainVisionInput, files: WorkerFiles, max_bytes: int = MAX_STATE_BYTES
) -> ReceivedState | None:
    """The input's `model_state`, and keep it; None if there is none. Nothing in it is executed.

    Args:
        spec: with `model_state` as base64 or the name of a blob, encoded as `model_state_format`
            says; where that is None, a state itself, packed or not.
        files: of this worker.
        max_bytes: how long it may be, encoded and decoded.

    Raises:
        ModelError: it is a pickle, damaged, or something else.
        SpecError: there is no such format.
        TooLarge: it is longer than what is taken inside a job, or at all.
        BaseMissing: it is a difference to a state that isn't kept here, or no longer.
        NotFound, OperationFailed, TransportDown: its blob can't be had.
    """
    if spec.model_state is None:
        return None
    if spec.model_state.startswith("sha256:"):
        data = files.read(spec.model_state, _WHAT, max_bytes)
    else:
        text = spec.model_state
        data = _named(lambda: from_text(text))
    _refuse_pickle(data)
    kept = _KeptStates(files.cache)
    state, sha256 = _named(lambda: kept.decode(data, spec.model_state_format, max_bytes))
    with suppress(Unavailable):  # no room: a next difference to it is refused, nothing is lost
        kept.keep(state, sha256)
    return ReceivedState(state, sha256)


def answer_state(
    module: "nn.Module",
    reply: StateReply,
    received: ReceivedState | None,
    files: WorkerFiles,
    *,
    beside_bytes: int = 0,
) -> dict[str, Any]:
    """What an answer says of the module's state; the worker keeps what the client will have.

    Args:
        module: trained, on any device.
        reply: how the state may be encoded.
        received: what came with the job and was loaded into the module: the base of differences.
        files: of this worker.
        beside_bytes: what else of length the answer holds, which leaves less room for the state.

    Returns:
        `model_state` (base64, or `sha256:…` in the blob store above 7 MB), `model_state_format`,
        `model_state_sha256` (identity of what the client decodes), `model_state_bytes` (encoded);
        with `lossy`, `model_state_max_abs_error` and, where the error of an earlier reply to this
        client should have been added and isn't here, `model_state_feedback_reset: true`;
        `model_state_not_kept`, the reason, where no difference to this state can be sent next.

    Raises:
        ModelError: the module holds something that can't be sent.
        SpecError: `int8-delta` without a received state.
        StorageFull, TransportDown: the blob store can't take it.
    """
    feedback, reset = _feedback_of(reply, received, files.cache)
    base = received if reply.delta or reply.lossy == "int8-delta" else None
    encoded = encode(
        _state_of(module, received),
        base=base.state if base is not None and reply.lossy != "bf16" else None,
        lossy=reply.lossy,
        feedback=feedback,
    )
    answer = _placed(encoded, files, beside_bytes)
    if reply.lossy is not None:
        answer["model_state_max_abs_error"] = encoded.max_abs_error
    if reset:
        answer["model_state_feedback_reset"] = True
    return answer | _kept_for_next(encoded, feedback, files.cache)


def answer_whole(
    state: State, files: WorkerFiles, *, beside_bytes: int = 0
) -> tuple[dict[str, Any], str]:
    """What an answer says of a state that no difference is asked of.

    Returns:
        The fields, as of `answer_state`; and the SHA-256 of the state's safetensors file.

    Raises:
        StorageFull, TransportDown: the blob store can't take it.
    """
    encoded = encode(state)
    return _placed(encoded, files, beside_bytes), encoded.sha256


def _placed(encoded: EncodedState, files: WorkerFiles, beside_bytes: int) -> dict[str, Any]:
    beside = beside_bytes * 3 // 4  # base64 makes 4 bytes of 3
    inline = inline_or_blob(encoded.size_bytes + beside) is Placement.INLINE
    return {
        "model_state": to_text(encoded) if inline else files.publish(encoded.data),
        "model_state_format": encoded.format,
        "model_state_sha256": encoded.sha256,
        "model_state_bytes": encoded.size_bytes,
    }


class _KeptStates:
    """The states in a worker's cache."""

    def __init__(self, cache: WorkerCache) -> None:
        self._cache = cache
        self._bases: dict[str, State] = {}

    def decode(self, data: bytes, format_name: str | None, max_bytes: int) -> tuple[State, str]:
        try:
            return decode_identified(data, format_name, self._find, max_bytes=max_bytes)
        except BaseMissing:
            raise
        except ModelError:
            # Only on failure: checking each base would cost as much as the state itself.
            for sha256, base in self._bases.items():
                if identity(base) != sha256:
                    self._cache.drop(_STATES, sha256)
                    raise BaseMissing(
                        f"The model state is a delta to the state '{sha256}', and what is kept of "
                        "that here is damaged. Send the entire state instead",
                        sha256,
                    ) from None
            raise

    def keep(self, state: State, sha256: str) -> None:
        if self._cache.get(_STATES, sha256) is None:
            self._cache.put(_STATES, sha256, safetensors_pieces(state))

    def _find(self, sha256: str) -> State | None:
        data = self._cache.read(_STATES, sha256) if is_sha256(sha256) else None
        if data is None:
            return None
        try:
            self._bases[sha256] = from_safetensors(data, len(data))
        except ModelError:  # cut short by a power cut
            self._cache.drop(_STATES, sha256)
            return None
        return self._bases[sha256]


def _named(step: Callable[[], T]) -> T:
    """What `step` gives; its errors say where."""
    try:
        return step()
    except BaseMissing as error:
        raise BaseMissing(f"{_WHAT}: {error}", error.sha256) from error
    except (ModelError, TooLarge) as error:
        raise type(error)(f"{_WHAT}: {error}") from error


def _refuse_pickle(data: bytes) -> None:
    # The length that a safetensors file begins with may look like this; then a header follows.
    if data.startswith(_PICKLES) and data[8:9] != b"{":
        raise ModelError(
            f"{_WHAT} is a pickle, as torch.save writes it; opening one runs whatever its sender "
            "wrote, so it was not opened. Load it where you trust it and send safetensors: "
            "ModelState.of(module), or a file of safetensors' save_file with ModelState.load"
        )


def _state_of(module: "nn.Module", received: ReceivedState | None) -> State:
    if received is None:
        return from_module(module, copy=False)
    # Tied weights have several names: the client's own, or it and its base would be of two models.
    tensors = module.state_dict()
    return from_tensors({name: tensors[name] for name in received.state}, copy=False)


def _feedback_of(
    reply: StateReply, received: ReceivedState | None, cache: WorkerCache
) -> tuple[ErrorFeedback | None, bool]:
    """What an earlier reply lost; and whether it should be here and isn't."""
    if reply.lossy is None:
        return None, False
    if received is None:
        return ErrorFeedback(), False
    data = cache.read(_FEEDBACK, received.sha256)
    if data is None:
        return ErrorFeedback(), True
    try:
        return ErrorFeedback(from_safetensors(data, len(data))), False
    except ModelError:  # cut short by a power cut
        return ErrorFeedback(), True


def _kept_for_next(
    encoded: EncodedState, feedback: ErrorFeedback | None, cache: WorkerCache
) -> dict[str, str]:
    """Keep what the client's next request refers to; the reason if that isn't possible."""
    try:
        if feedback is not None:
            cache.put(_FEEDBACK, encoded.sha256, safetensors_pieces(feedback.residuals))
        _KeptStates(cache).keep(encoded.decoded, encoded.sha256)
    except Unavailable as error:
        return {"model_state_not_kept": error.message}
    return {}
