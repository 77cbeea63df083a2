"""Inputs of the operations that make another model of a model, and of the one that profiles it."""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from visiondyno.specs.operations import OperationInput
from visiondyno.specs.training import Name, Seed

Reference = Annotated[str, Field(min_length=1, max_length=4096)]
Device = Annotated[str, Field(pattern=r"^(cpu|cuda(:[0-9]{1,2})?)$")]
Threads = Annotated[int, Field(ge=1, le=1024)]
CheckImages = Annotated[int, Field(ge=1, le=100_000)]


class ExportInput(OperationInput):
    """Write the model that a reference names in another form, checked against it.

    Attributes:
        model: model reference.
        format: `onnx`; `openvino` (an .xml and a .bin file); `tensorrt` (an ONNX file that holds
            the engine of this machine's GPU, as ONNX Runtime's TensorRT provider writes it).
        precision: of the weights and of what is computed; inputs and outputs stay float32.
        opset: of ONNX; that of the file, or the exporter's own default, if None.
        batch_size: of the exported graph; None: any.
        image_size: side of the square that the exported graph takes, pixels; the model's own if
            None.
        data: images to compare the two on; noise of the model's size if None. Labelled data are
            scored by both as well.
        check_images: the first so many of them are compared.
    """

    operation: Literal["export"] = "export"
    model: Reference
    format: Literal["onnx", "openvino", "tensorrt"] = "onnx"
    precision: Literal["fp32", "fp16"] = "fp32"
    opset: Annotated[int, Field(ge=11, le=25)] | None = None
    batch_size: Annotated[int, Field(ge=1, le=1024)] | None = None
    image_size: Annotated[int, Field(ge=32, le=4096)] | None = None
    data: Reference | None = None
    check_images: CheckImages = 32

    @model_validator(mode="after")
    def _opset_is_onnx(self) -> Self:
        if self.format != "onnx" and self.opset is not None:
            raise ValueError("'opset' is for 'format': 'onnx'; leave it out")
        return self


class QuantizeInput(OperationInput):
    """Write an ONNX model with weights, and what is computed, in fewer bits.

    Attributes:
        model: model reference: an ONNX file, or what can be exported to one.
        method: `static_int8`: weights and activations, whose ranges are found on calibration
            images; `dynamic_int8`: weights, activations while it runs; `fp16`.
        calibration_data: images of the kind that the model will see, never those it is scored on.
        calibration_images: the first so many of them.
        calibration: how a range is chosen: `min_max`; `entropy` (least divergence of the two
            distributions, Migacz 2017); `percentile` (99.99 % of the values), which rare large
            values don't widen.
        per_channel: each output channel of a weight has a scale of its own.
        activations: type of the activations; None: what the worker's processor computes fastest.
        weight_bits: 7 where sums of products of 8 bits overflow, which is so on x86 without VNNI;
            None: as the worker's processor needs.
        exclude: nodes, or types of operators, that stay in floating point.
        keep_head: nodes behind the last convolution (decoding of boxes, NMS) stay so too: their
            numbers have ranges of their own, and rounding them moves boxes.
        data, check_images: as of `ExportInput`.
    """

    operation: Literal["quantize"] = "quantize"
    model: Reference
    method: Literal["static_int8", "dynamic_int8", "fp16"] = "static_int8"
    calibration_data: Reference | None = None
    calibration_images: Annotated[int, Field(ge=1, le=10_000)] = 128
    calibration: Literal["min_max", "entropy", "percentile"] = "percentile"
    per_channel: bool = True
    activations: Literal["uint8", "int8"] | None = None
    weight_bits: Literal[7, 8] | None = None
    exclude: Annotated[tuple[Name, ...], Field(max_length=10_000)] = ()
    keep_head: bool = True
    data: Reference | None = None
    check_images: CheckImages = 32

    @model_validator(mode="after")
    def _calibrates(self) -> Self:
        if self.method == "static_int8" and self.calibration_data is None:
            raise ValueError("'static_int8' needs 'calibration_data': images such as it will see")
        if self.method != "static_int8" and self.calibration_data is not None:
            raise ValueError(f"'{self.method}' is not calibrated; leave 'calibration_data' out")
        return self

    @model_validator(mode="after")
    def _takes_what_it_uses(self) -> Self:
        of_static = () if self.method == "static_int8" else ("activations", "weight_bits")
        of_int8 = ("exclude",) if self.method == "fp16" else ()
        for name in (*of_static, *of_int8):
            if getattr(self, name):
                raise ValueError(f"'{self.method}' has no '{name}'; leave it out")
        if self.method == "fp16" and not (self.per_channel and self.keep_head):
            raise ValueError("'fp16' has no 'per_channel' and no 'keep_head'; leave them out")
        return self


class PruneInput(OperationInput):
    """Remove channels of a trained network, and train what is left on.

    Attributes:
        model: the folder of a training, or weights of a library that can be trained on.
        ratio: share of each layer's channels to remove.
        multiple_of: what is left of a layer is the nearest multiple of so many channels, since
            processors compute them in blocks; 1: as near to `ratio` as can be.
        importance: by what channels are chosen: `magnitude` (L2 norm of the group's weights, Li et
            al. 2017), `random` (to compare with).
        keep_layers: names of layers that keep all their channels.
        data: labelled data to train on; without it nothing is trained.
        validation_data, validation_share, epochs, image_size, batch_size, learning_rate, seed,
            device, threads, arguments, max_images: as of `TrainVisionInput`; `image_size` is the
            model's own if None.
        level: of a library's weights, as of `TrainVisionInput`; a trained model has its own.
        skip_bad: as of `TrainVisionInput`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    operation: Literal["prune"] = "prune"
    model: Reference
    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.3
    multiple_of: Annotated[int, Field(ge=1, le=256)] = 8
    importance: Literal["magnitude", "random"] = "magnitude"
    keep_layers: Annotated[tuple[Name, ...], Field(max_length=10_000)] = ()
    data: Reference | None = None
    validation_data: Reference | None = None
    validation_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    epochs: Annotated[int, Field(ge=0, le=50_000)] = 10
    image_size: Annotated[int, Field(ge=32, le=4096)] | None = None
    batch_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    learning_rate: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] | None = None
    seed: Seed = 0
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:[0-9]{1,2})?)$")] = "auto"
    threads: Annotated[int, Field(ge=1, le=256)] | None = None
    arguments: Annotated[dict[Name, Any], Field(default_factory=dict)]
    max_images: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    level: Literal["image"] | None = None
    skip_bad: bool = False

    @model_validator(mode="after")
    def _trains_on_data(self) -> Self:
        if self.data is None and self.epochs:
            raise ValueError("'epochs' needs 'data' to train on; give both, or 'epochs': 0")
        return self


class ProfileInput(OperationInput):
    """Find out where a model's time goes: of each operator, and how near the machine's limits.

    Attributes:
        model: model reference.
        data: the first images of it are run; noise of the model's size if None.
        batch_size: images in one run.
        runs: measured ones, after `warm_up_runs`.
        device, threads: as of `BenchmarkInput`.
    """

    operation: Literal["profile"] = "profile"
    model: Reference
    data: Reference | None = None
    batch_size: Annotated[int, Field(ge=1, le=1024)] = 1
    runs: Annotated[int, Field(ge=5, le=10_000)] = 50
    warm_up_runs: Annotated[int, Field(ge=1, le=1000)] = 5
    device: Device = "cpu"
    threads: Threads | None = None
