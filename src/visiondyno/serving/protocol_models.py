"""The models that a server announces in the Open Inference Protocol, and what it says of them.

NAME is the graph as its file has it: what Triton would serve for that file. NAME-images takes image
files and gives predictions: all that `POST /predict` does, for clients of this protocol.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from visiondyno.runtimes.base import GraphTensor
from visiondyno.serving.config import ServingConfig
from visiondyno.serving.protocol_requests import VERSION

IMAGES_SUFFIX = "-images"
IMAGE_INPUT = "image"
_TYPE_PREFIX = "TYPE_"


@dataclass(frozen=True, slots=True)
class AnnouncedModel:
    """A model as clients of the protocol know it.

    Attributes:
        name: in addresses.
        takes_images: whether it is NAME-images.
        platform: the protocol's name for the format.
        backend: Triton's name for what runs it.
        inputs, outputs: all there are, with dimension 0.
        most_rows: most along dimension 0 in one request, where that is the batch; else 0.
        shares_runs: whether requests of several clients may share a run.
    """

    name: str
    takes_images: bool
    platform: str
    backend: str
    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]
    most_rows: int
    shares_runs: bool

    def metadata(self) -> dict[str, Any]:
        """The protocol's `$metadata_model_response`."""
        return {
            "name": self.name,
            "versions": [VERSION],
            "platform": self.platform,
            "inputs": [_metadata(one) for one in self.inputs],
            "outputs": [_metadata(one) for one in self.outputs],
        }

    def configuration(self, config: ServingConfig) -> dict[str, Any]:
        """Triton's `ModelConfig` as JSON: dimensions without the batch where that is one."""
        device = config.device
        group: dict[str, Any] = {
            "name": f"{self.name}_0",
            "kind": "KIND_CPU" if device == "cpu" else "KIND_GPU",
            "count": config.replicas_most,
        }
        if device != "cpu":
            group["gpus"] = [int(device.partition(":")[2] or 0)]
        found = {
            "name": self.name,
            "platform": self.platform,
            "backend": self.backend,
            "version_policy": {"specific": {"versions": [int(VERSION)]}},
            "max_batch_size": self.most_rows,
            "input": [self._configured(one) for one in self.inputs],
            "output": [self._configured(one) for one in self.outputs],
            "instance_group": [group],
        }
        if self.shares_runs:
            delay_us = round(config.batch_delay_ms * 1000)
            found["dynamic_batching"] = {"max_queue_delay_microseconds": delay_us}
        return found

    def _configured(self, form: GraphTensor) -> dict[str, Any]:
        kind = "STRING" if form.datatype == "BYTES" else form.datatype
        dims = form.shape[1:] if self.most_rows else form.shape
        return {"name": form.name, "data_type": _TYPE_PREFIX + kind, "dims": list(dims)}


def announce(config: ServingConfig, model: Mapping[str, Any]) -> dict[str, AnnouncedModel]:
    """The models by name.

    Args:
        config: of the server.
        model: as `replicas.Readiness.model`.
    """
    found = []
    if model["graph"] is not None:
        found.append(_graph(config, model["graph"]))
    if (outputs := _image_outputs(model["card"]["task"])) is not None:
        found.append(_images(config, outputs))
    return {one.name: one for one in found}


def _graph(config: ServingConfig, graph: Mapping[str, Any]) -> AnnouncedModel:
    return AnnouncedModel(
        name=config.model_name,
        takes_images=False,
        platform="onnx_onnxv1",
        backend="onnxruntime",
        inputs=_forms(graph["inputs"]),
        outputs=_forms(graph["outputs"]),
        most_rows=config.max_images if graph["has_free_rows"] else 0,
        shares_runs=bool(graph["has_free_rows"]),
    )


def _images(config: ServingConfig, outputs: tuple[GraphTensor, ...]) -> AnnouncedModel:
    return AnnouncedModel(
        name=config.model_name + IMAGES_SUFFIX,
        takes_images=True,
        platform="visiondyno_images",
        backend="visiondyno",
        inputs=(GraphTensor(IMAGE_INPUT, "BYTES", (-1,)),),
        outputs=outputs,
        most_rows=0,  # an image may give any number of rows, so dimension 0 isn't the batch
        shares_runs=True,
    )


def _image_outputs(task: str) -> tuple[GraphTensor, ...] | None:
    """One row for each prediction; `image_index` says of which image. None: not in this form."""
    labels = (
        GraphTensor("scores", "FP32", (-1,)),
        GraphTensor("classes", "INT64", (-1,)),
        GraphTensor("names", "BYTES", (-1,)),
    )
    index = GraphTensor("image_index", "INT32", (-1,))
    if task == "detection":
        return (index, GraphTensor("boxes_xyxy", "FP32", (-1, 4)), *labels)
    return (index, *labels) if task == "classification" else None


def _forms(told: Sequence[Mapping[str, Any]]) -> tuple[GraphTensor, ...]:
    return tuple(GraphTensor(one["name"], one["datatype"], tuple(one["shape"])) for one in told)


def _metadata(form: GraphTensor) -> dict[str, Any]:
    return {"name": form.name, "datatype": form.datatype, "shape": list(form.shape)}
