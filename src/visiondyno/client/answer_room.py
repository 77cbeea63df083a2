"""Whether a job's answer can come back from a RunPod endpoint, found out before it is paid for."""

import logging
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from visiondyno.client.client import Client
from visiondyno.client.model_state import ModelState
from visiondyno.client.state_transfer import Lossy
from visiondyno.errors import VisionDynoError
from visiondyno.settings import load_settings
from visiondyno.specs.training import ExportedConfig, KerasConfig, ModelConfig
from visiondyno.state import INLINE_LIMIT_BYTES
from visiondyno.training.modules import build_module

_NO_BLOB = f"sha256:{'0' * 64}"
_MODEL_CONFIG: TypeAdapter[Any] = TypeAdapter(ModelConfig)

_log = logging.getLogger("visiondyno")


class AnswerRoom:
    """What comes back inside a job's answer, and what needs the store of blobs.

    RunPod takes 10 MB for an answer, and its workers and this client share no files but those of
    the store of blobs. Elsewhere there always is one.

    Args:
        client: where jobs run.
        lossy: how answers are rounded.
    """

    def __init__(self, client: Client, lossy: Lossy | None) -> None:
        self._client = client
        self._lossy = lossy
        self._has_store = False
        self._has_warned = False

    def check_state(self, config: Any, start: ModelState | None) -> None:
        """That the state of a training can be had once it is done.

        Args:
            config: the module's, as it travels.
            start: the state that it begins with, which has the size of what comes back.

        Raises:
            SpecError: it is too large for an answer, and client and workers share no store.
            VisionDynoError: it is too large, and the store doesn't answer.
        """
        size_bytes = None if start is None else sum(tensor.nbytes for tensor in start.values())
        if size_bytes is not None and self._fits(size_bytes):
            return
        trouble = self._trouble()
        if trouble is None:
            return
        if size_bytes is None:
            size_bytes = state_bytes(config)
        if size_bytes is None:
            self._warn(trouble)
        elif not self._fits(size_bytes):
            raise type(trouble)(
                f"The trained state, of {size_bytes / 1e6:.1f} MB, doesn't fit into an answer of "
                f"RunPod's. {trouble.message}"
            )

    def check_file(self) -> None:
        """That a file can come back, which goes by the store whatever its size.

        Raises:
            VisionDynoError: client and workers share no store, or it doesn't answer.
        """
        trouble = self._trouble()
        if trouble is not None:
            raise trouble

    def _fits(self, size_bytes: int) -> bool:
        return size_bytes // (2 if self._lossy == "bf16" else 1) <= INLINE_LIMIT_BYTES

    def _trouble(self) -> VisionDynoError | None:
        """Why nothing comes by the store; asked until it has answered once."""
        if self._has_store:
            return None
        if self._client.place.endpoint_url(load_settings()) is None:
            self._has_store = True
            return None
        try:
            self._client.has_blob(_NO_BLOB)
        except VisionDynoError as error:
            return error
        self._has_store = True
        return None

    def _warn(self, trouble: VisionDynoError) -> None:
        if not self._has_warned:
            self._has_warned = True
            _log.warning(
                "How large the trained state will be isn't known here; above %.0f MB it can't come "
                "back. %s",
                INLINE_LIMIT_BYTES / 1e6,
                trouble.message,
            )


def state_bytes(config: Any) -> int | None:
    """How many bytes a module's state has, without any of them; None where that isn't known here.

    Not known are a model of Keras, one whose package isn't installed here, and one that a worker
    will refuse.

    Args:
        config: a `model_config`.
    """
    try:
        checked = _MODEL_CONFIG.validate_python(config)
    except ValidationError:
        return None
    if isinstance(checked, ExportedConfig):
        return _program_bytes(checked)
    if isinstance(checked, KerasConfig):
        return None
    try:
        import torch

        with torch.device("meta"):
            state: Mapping[str, Any] = build_module(checked).state_dict()
    except (ImportError, VisionDynoError):
        return None
    return sum(int(tensor.numel() * tensor.element_size()) for tensor in state.values())


def _program_bytes(config: ExportedConfig) -> int | None:
    """What travels inside a job has its weights in it; of a blob nothing is known."""
    program = config.program
    return None if program.startswith("sha256:") else len(program) * 3 // 4
