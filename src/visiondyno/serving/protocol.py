"""The Open Inference Protocol (KServe, version 2), the same for HTTP and for gRPC.

With Triton's extensions for binary tensor data, statistics and model configuration, and its index
of the model repository: what perf_analyzer asks a server.
"""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, TypeVar

from visiondyno import __version__
from visiondyno.errors import (
    InputError,
    NotFound,
    NotReady,
    OperationFailed,
    VisionDynoError,
    error_classes,
)
from visiondyno.serving.config import ServingConfig
from visiondyno.serving.inference import Inference
from visiondyno.serving.pool import Predicted
from visiondyno.serving.protocol_images import image_items, image_outputs
from visiondyno.serving.protocol_models import AnnouncedModel, announce
from visiondyno.serving.protocol_requests import VERSION, InferRequest
from visiondyno.serving.tensors import Tensor
from visiondyno.serving.wire import Answer, Item, Kind

SERVER = "visiondyno"
EXTENSIONS = ("binary_tensor_data", "model_configuration", "statistics")

_OFF_THE_LOOP_BYTES = 64_000
T = TypeVar("T")


class InferenceProtocol:
    """Answers in the protocol's own words, whichever way they go out. On the event loop."""

    def __init__(self, inference: Inference, config: ServingConfig) -> None:
        self._inference = inference
        self._config = config
        self._models: dict[str, AnnouncedModel] = {}

    @property
    def is_ready(self) -> bool:
        """Whether a request would be answered."""
        return self._inference.pool.can_answer

    def server_metadata(self) -> dict[str, Any]:
        """The protocol's `$metadata_server_response`."""
        return {"name": SERVER, "version": __version__, "extensions": list(EXTENSIONS)}

    def models(self) -> dict[str, AnnouncedModel]:
        """All of them, by name.

        Raises:
            NotReady: no replica was ready yet, so that nobody knows what the model takes.
        """
        if not self._models:
            model = self._inference.pool.model
            if model is None:
                raise NotReady("The model isn't loaded yet; come again.", 1.0)
            self._models = announce(self._config, model)
        return self._models

    def model(self, name: str, version: str = "") -> AnnouncedModel:
        """The model of this name; `version` empty: the only one.

        Raises:
            NotFound: there is no such model, or not this version of it.
            NotReady: as `models` says.
        """
        models = self.models()
        if name not in models:
            listed = " and ".join(repr(one) for one in models)
            raise NotFound(f"There is no model '{name:.100}'; there is {listed or 'none'}.")
        if version not in ("", VERSION):
            raise NotFound(f"Model '{name}' has no version '{version:.40}'; it has {VERSION}.")
        return models[name]

    def configuration(self, name: str, version: str = "") -> dict[str, Any]:
        """Triton's `ModelConfig` of a model; raises as `model`."""
        return self.model(name, version).configuration(self._config)

    def statistics(self, name: str = "", version: str = "") -> dict[str, Any]:
        """Triton's `$stats_model_response`, of all models if `name` is empty; raises as `model`."""
        models = [self.model(name, version)] if name else list(self.models().values())
        of = self._inference.statistics
        stats = [
            {
                "name": one.name,
                "version": VERSION,
                **(of.images if one.takes_images else of.graph).as_json(),
            }
            for one in models
        ]
        return {"model_stats": stats}

    def index(self, *, only_ready: bool = False) -> list[dict[str, str]]:
        """Triton's `$repository_index_response`."""
        if self.is_ready:
            state, reason = "READY", ""
        elif only_ready:
            return []
        else:
            state, reason = "UNAVAILABLE", "no replica is ready"
        return [
            {"name": name, "version": VERSION, "state": state, "reason": reason}
            for name in self.models()
        ]

    async def infer_graph(
        self, model: AnnouncedModel, payload: bytes, form: dict[str, Any]
    ) -> Predicted:
        """What the graph answers to a request as it came.

        Args:
            model: the graph's.
            payload: HTTP's body or the message of gRPC.
            form: of the payload: `form` and, of HTTP, `json_size`; see `tensor_batches`.

        Raises:
            VisionDynoError: as `Inference.predict` says, or what the answer tells.
        """
        options = {**form, "model": model.name, "most_rows": model.most_rows}
        (predicted,) = await self._inference.predict([Item(Kind.TENSORS, payload, options)])
        raise_of(predicted.answer)
        return predicted

    async def infer_images(
        self, model: AnnouncedModel, read: Callable[[], InferRequest], size_bytes: int
    ) -> tuple[InferRequest, list[Tensor], list[Predicted]]:
        """What the model predicts for the images of a request: request, outputs and answers.

        Args:
            model: that takes images.
            read: reads the request, which has `size_bytes`.
            size_bytes: large ones are read in a thread.

        Raises:
            VisionDynoError: as `Inference.predict` says, or what the first wrong image is.
        """
        told = self._inference.pool.model
        assert told is not None, "a model is announced"

        def prepare() -> tuple[InferRequest, list[str], list[Item]]:
            request = read()
            wanted = request.wanted([one.name for one in model.outputs])
            return request, wanted, image_items(request, model, self._config, told)

        started = time.monotonic()
        try:
            request, wanted, items = await _off_the_loop(size_bytes, prepare)
        except VisionDynoError as error:
            self._inference.refused(error)
            took_ms = (time.monotonic() - started) * 1e3
            self._inference.statistics.refused(took_ms)
            raise
        predicted = await self._inference.predict(items)
        for number, one in enumerate(predicted):
            raise_of(one.answer, f"Image {number}: " if len(predicted) > 1 else "")
        return request, image_outputs(model, wanted, predicted), predicted


def raise_of(answer: Answer, before: str = "") -> None:
    """Raise the error that an answer tells of, if it does.

    Raises:
        VisionDynoError: of the answer's own class; `before` is put before its message.
    """
    if answer.status < 400:
        return
    told = json.loads(answer.body)
    kind = error_classes().get(told["code"], VisionDynoError)
    message = before + told["message"]
    if answer.status >= 500 and issubclass(kind, InputError):
        raise OperationFailed(message)  # the model's fault, not that of who asked
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    raise error


async def _off_the_loop(size_bytes: int, work: Callable[[], T]) -> T:
    return await asyncio.to_thread(work) if size_bytes > _OFF_THE_LOOP_BYTES else work()
