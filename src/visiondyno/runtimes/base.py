"""The runtime seam: what executes a model."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from numpy.typing import NDArray

from visiondyno.errors import SpecError
from visiondyno.measurements.operators import OperatorRun
from visiondyno.predictions import Image, Predictions
from visiondyno.specs.model_card import ModelCard

Device = str
"""`cpu`, `cuda` or `cuda:N`. Explicit: a device that isn't there is an error, never another one."""

Progress = Callable[[str, int, int | None], None]
"""Told while a file comes: its name, bytes there so far, and in all (None: unknown)."""

Precision = Literal["fp32", "fp16", "bf16", "int8", "mixed"]

_DEVICE = re.compile(r"cpu|cuda(?::(\d+))?")


def gpu_number(device: Device) -> int | None:
    """Which GPU a device is: 0 of `cuda`, N of `cuda:N`; None of the processor.

    Raises:
        SpecError: it isn't the name of a device.
    """
    match = _DEVICE.fullmatch(device)
    if match is None:
        raise SpecError(f"'{device}' isn't a device; use cpu, cuda or cuda:N.")
    return None if device == "cpu" else int(match[1] or 0)


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How a model is to be loaded.

    Attributes:
        device: where it runs.
        intra_op_threads: threads inside one operator; None leaves the runtime's own default.
        card: overrides every other source of the model card.
        gpu_memory_limit_bytes: the most GPU memory that the runtime may reserve; None without a
            limit. Nothing on the CPU.
        profile: time each operator of every inference; see `LoadedModel.operator_times`. It slows
            inference down.
    """

    device: Device = "cpu"
    intra_op_threads: int | None = None
    card: ModelCard | None = None
    gpu_memory_limit_bytes: int | None = None
    profile: bool = False


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What was loaded, and how it really runs.

    Attributes:
        reference: as the user gave it.
        runtime: the runtime's name and version, e.g. `onnxruntime 1.31.1`.
        device: the device in use.
        precision: the effective precision of the weights.
        provider: what executes it, e.g. `CPUExecutionProvider`.
        card: input, head and classes in use.
        card_source: for each top-level part of the card, where it came from (`metadata`,
            `card FILE`, `shape`, `assumed`), in words for the report.
        batch_size: the fixed batch size, or None where any size works.
        parameters: number of weights, or None where it can't be known.
        file_bytes: size of the model file.
        digest: `sha256:…` of the model file.
        notes: what a reader of the report must know (e.g. "80 unnamed classes: assumed COCO").
    """

    reference: str
    runtime: str
    device: Device
    precision: Precision
    provider: str
    card: ModelCard
    card_source: dict[str, str]
    batch_size: int | None
    parameters: int | None
    file_bytes: int
    digest: str
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class GraphTensor:
    """An input or output of a model's graph.

    Attributes:
        name: the graph's own.
        datatype: as the Open Inference Protocol calls it (`FP32`, `INT64`, `BYTES` for strings).
        shape: -1 for sizes known at run time only.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


class GraphModel(ABC):
    """A capability of loaded models: their graph as it is, without any step around it.

    Contract: `run_graph` gives the outputs as the graph made them, unscaled and unchecked (NaN
    too), and keeps no state: the same feeds give the same outputs. From one thread at a time, and
    never while `LoadedModel.infer` runs. After the model's `close` it raises `ModelError`.

    Attributes:
        inputs: all that must be fed.
        outputs: all there are.
        has_free_rows: dimension 0 of every input and output is one and the same free size, by the
            graph's own word: feeds may be joined along it, and their outputs taken apart.
    """

    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]
    has_free_rows: bool

    @abstractmethod
    def run_graph(
        self, feeds: Mapping[str, NDArray[Any]], wanted: Sequence[str]
    ) -> list[NDArray[Any]]:
        """The outputs called `wanted`, in that order.

        Args:
            feeds: an array for each input, of its type and shape; strings as objects of `str`.
            wanted: at least one name of `outputs`.

        Raises:
            ModelError: the graph can't run on these feeds.
        """


class LoadedModel(ABC):
    """A model ready to run. The three steps are apart because each is measured apart.

    Contract: `postprocess(infer(preprocess(images)))` is `predict(images)`, one prediction an
    image in order, boxes in pixels of the image as given. Every batch size from 1 up works: a
    model of fixed batch size is padded or run in pieces, inside `infer`. An output of NaN raises
    `ModelError`. Calling anything after `close` raises `ModelError`.
    Thread safety: `preprocess` and `postprocess` keep no state and may be called from any thread;
    `infer` from one thread at a time.

    Attributes:
        files: what was read: the model file and its external weights; none where there is no file.
        graph: the model's graph, of runtimes that can run it by itself; else None.
        operator_times: of models loaded with `profile`, where the runtime has a profiler; else
            None. Called once, after the last inference: operators of every inference since the
            load, in order; those of an inference that was run in pieces as a run for each piece.
    """

    description: ModelDescription
    files: tuple[Path, ...] = ()
    graph: GraphModel | None = None
    operator_times: Callable[[], list[OperatorRun]] | None = None

    @abstractmethod
    def preprocess(self, images: Sequence[Image]) -> Any:
        """Decoded images to the model's input; what it returns is for `infer` and `postprocess`."""

    @abstractmethod
    def infer(self, prepared: Any) -> Any:
        """Run the model: exactly the time called inference."""

    @abstractmethod
    def postprocess(
        self,
        outputs: Any,
        prepared: Any,
        *,
        confidence: float | None = None,
        iou: float | None = None,
    ) -> list[Predictions]:
        """The model's output to predictions.

        `confidence` replaces the card's lowest score (detectors), `iou` the overlap above which
        the worse of two boxes is dropped (detectors whose card has such a step; else nothing).
        """

    @abstractmethod
    def close(self) -> None:
        """Free memory of host and device. Calling it again does nothing."""

    def predict(
        self, images: Sequence[Image], *, confidence: float | None = None
    ) -> list[Predictions]:
        """All three steps."""
        prepared = self.preprocess(images)
        return self.postprocess(self.infer(prepared), prepared, confidence=confidence)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Runtime(ABC):
    """What executes a model.

    Contract: `load` raises `ModelError` for a file it can't read or understand, `Unavailable` for
    a device that isn't here (`MissingExtra` for a package), and never runs a model elsewhere than
    asked. `load` opens no connection: a model whose weights aren't here is a `ModelError` that
    names `dyno models pull`. Importing the runtime's module imports none of its packages.
    """

    name: str

    def fetch(self, reference: str, on_progress: Progress | None = None) -> None:  # noqa: B027 - most runtimes read files that are here
        """Download the weights that `reference` names unless they are here already.

        Raises:
            ModelError: there is no such model, or what came isn't what was announced.
            Unavailable: the server can't be reached, or `VISIONDYNO_OFFLINE` is set and weights are
                missing.
        """

    @abstractmethod
    def load(self, reference: str, options: LoadOptions) -> LoadedModel:
        """Read the model and make it ready for its first inference."""
