"""The model card: what a model file doesn't say itself about its input and its output.

A card lies beside its model as `NAME.model.yaml` (for `street-n.onnx`: `street-n.model.yaml`).
`dyno models init FILE` writes one with the best guess.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

HeadName = Literal[
    "yolov8",
    "yolov5",
    "yolox",
    "fastestdet",
    "end_to_end",
    "classification",
    "detr",
    "boxes_scores_classes",
    "nanodet",
    "retinanet",
    "depth",
    "native",
]
"""How a model's output is read; see the classes in `visiondyno.vision.heads`. `native`: by the
model's own library, which prepares its images too; the card's input then says the largest size."""

ResizeMode = Literal[
    "letterbox", "letterbox_to_stride", "letterbox_top_left", "stretch", "shortest_side_crop"
]
"""`letterbox`: keep the aspect ratio, pad on both sides (Ultralytics). `letterbox_to_stride`: the
same, padded only to the next multiple of `stride` (Ultralytics' `auto`, of models that take any
size); images of different shapes are then run apart. `letterbox_top_left`: keep
it, image at the top left, pad right and bottom (YOLOX). `stretch`: ignore it.
`shortest_side_crop`: scale the shortest side to `crop_from`, crop the centre (ImageNet)."""

OutputRole = Literal[
    "predictions",
    "boxes",
    "scores",
    "classes",
    "count",
    "centerness",
    "boxes_and_scores",
    "unused",
]
"""What one of a model's outputs holds."""

BoxFormat = Literal[
    "xyxy_pixels",
    "xyxy_normalised",
    "yxyx_normalised",
    "cxcywh_normalised",
    "anchor_offsets",
    "distances",
]
"""How four numbers are a box. Pixels are the input's; `normalised` is a fraction of the input's
width and height. `anchor_offsets` (RetinaNet) and `distances` (FCOS) need a grid."""

ScoreActivation = Literal["none", "sigmoid", "softmax_with_background"]
"""What makes class scores of the output; `none` where the graph does it itself.
`softmax_with_background`: the last class means "no object" (DETR)."""


class Quantisation(BaseModel):
    """What an integer stands for: `(integer - zero_point) * scale` (ONNX `DequantizeLinear`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scale: Annotated[float, Field(gt=0)]
    zero_point: Annotated[int, Field(ge=-128, le=255)] = 0


class InputCard(BaseModel):
    """From a decoded image to the model's input tensor.

    The value fed for channel c is `(pixel * scale - mean[c]) / std[c]`, in the order `channels`.
    A quantised input is fed `round(value / quantisation.scale) + quantisation.zero_point`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    height: Annotated[int, Field(ge=1, le=16384)]
    width: Annotated[int, Field(ge=1, le=16384)]
    resize: ResizeMode = "letterbox"
    interpolation: Literal["linear", "area", "cubic", "nearest"] = "linear"
    pad_value: Annotated[int, Field(ge=0, le=255)] = 114
    crop_from: Annotated[int, Field(ge=1)] | None = None
    """Length of the shortest side before the crop, pixels (`shortest_side_crop` only)."""
    stride: Annotated[int, Field(ge=1)] | None = None
    """Sides are padded to a multiple of it (`letterbox_to_stride` only)."""
    channels: Literal["rgb", "bgr"] = "rgb"
    scale: Annotated[float, Field(gt=0)] = 1 / 255
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    layout: Literal["nchw", "nhwc"] = "nchw"
    dtype: Literal["float32", "float16", "uint8", "int8"] = "float32"
    quantisation: Quantisation | None = None
    """Of uint8 and int8 inputs. uint8 without it takes the pixels as they are."""

    @model_validator(mode="after")
    def _quantisation_fits(self) -> Self:
        if self.dtype.startswith("float") and self.quantisation is not None:
            raise ValueError(f"a {self.dtype} input takes no 'quantisation'; leave it out")
        if self.dtype == "int8" and self.quantisation is None:
            raise ValueError("an int8 input needs 'quantisation' (scale and zero_point)")
        return self

    @model_validator(mode="after")
    def _stride_fits(self) -> Self:
        if self.resize != "letterbox_to_stride":
            if self.stride is not None:
                raise ValueError(f"resize '{self.resize}' takes no 'stride'; leave it out")
            return self
        if self.stride is None:
            raise ValueError("resize 'letterbox_to_stride' needs 'stride'")
        if self.height % self.stride or self.width % self.stride:
            raise ValueError(
                f"height and width of resize 'letterbox_to_stride' must be multiples of its "
                f"stride, {self.stride}"
            )
        return self


class OutputCard(BaseModel):
    """How a model's outputs are laid out, where its head leaves a choice.

    None means the head's own convention; see `Head.output_of` and docs/model-cards.md.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    roles: tuple[OutputRole, ...] | None = None
    """What each of the model's outputs holds, in the graph's order."""
    boxes: BoxFormat | None = None
    score_activation: ScoreActivation | None = None
    first_class: Annotated[int, Field(ge=0, le=1)] | None = None
    """Number of the first named class: 0, or 1 where 0 is the background."""
    strides: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """Input pixels a cell of each grid, in the order of the output."""
    cell_offset: Annotated[float, Field(ge=0, le=1)] | None = None
    """Where in its cell a box's reference point lies, in strides: 0 or 0.5."""
    quantisation: tuple[Quantisation | None, ...] | None = None
    """Of each output that holds integers standing for real numbers, in the graph's order."""


_ANY_HEAD = frozenset({"roles", "quantisation"})
_OUTPUT_FIELDS: dict[HeadName, frozenset[str]] = {
    "yolov8": _ANY_HEAD | {"boxes"},
    "end_to_end": _ANY_HEAD | {"boxes"},
    "detr": _ANY_HEAD | {"boxes", "score_activation"},
    "boxes_scores_classes": _ANY_HEAD | {"boxes", "first_class"},
    "nanodet": _ANY_HEAD | {"score_activation", "strides", "cell_offset"},
    "retinanet": _ANY_HEAD | {"boxes", "score_activation", "strides", "cell_offset"},
}
_GRID_BOXES = ("anchor_offsets", "distances")
_ANY_SIZE_HEADS: tuple[HeadName, ...] = ("yolov8", "yolov5", "end_to_end", "native")
"""Heads whose boxes need no word on the input's size."""


class DetectionCard(BaseModel):
    """How boxes are chosen from a detector's output."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    confidence: Annotated[float, Field(ge=0, le=1)] = 0.001
    """Lowest score kept when scoring accuracy (a higher cut lowers mAP)."""
    nms_iou: Annotated[float, Field(gt=0, le=1)] | None = 0.7
    """IoU above which the lower-scored box of a class is dropped. None: no NMS."""
    several_classes_a_box: bool = True
    max_candidates: Annotated[int, Field(ge=1)] = 30000
    """Best candidates kept before NMS."""
    max_detections: Annotated[int, Field(ge=1)] = 300
    """Best boxes kept after NMS. COCO's rule then scores the best 100."""
    clip_to_image: bool = True
    """Cut boxes at the image's edges. Ultralytics does; YOLOX and FastestDet don't, and their
    published figures count boxes as they come (clipping adds .015 mAP to FastestDet)."""


class DepthCard(BaseModel):
    """What a depth model's output means, and how it is laid over the truth before scoring."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    output: Literal["depth", "inverse_depth"] = "inverse_depth"
    alignment: Literal["none", "median_scale", "scale_and_shift"] = "scale_and_shift"
    """Per image, by least squares in the output's own space (MiDaS, Ranftl et al. 2020), or by the
    ratio of medians (Eigen et al. 2014). `none` where the output is in metres."""


class ModelCard(BaseModel):
    """Everything needed to run a model file and to read its output."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_: Literal["visiondyno.model/1"] = Field("visiondyno.model/1", alias="schema")
    task: Literal["detection", "classification", "depth"]
    head: HeadName
    classes: tuple[str, ...] = ()
    """In the order of the model's output; none of depth models."""
    input: InputCard
    output: OutputCard | None = None
    """Of heads that leave a choice."""
    detection: DetectionCard | None = None
    """Of detectors only."""
    depth: DepthCard | None = None
    """Of depth models only."""
    activation: Literal["none", "softmax", "sigmoid"] = "none"
    """What makes a classifier's output probabilities; `none` where the graph does it itself."""
    license: str | None = None
    source: str | None = None

    @model_validator(mode="after")
    def _output_fits_the_head(self) -> Self:
        if self.output is None:
            return self
        allowed = _OUTPUT_FIELDS.get(self.head, _ANY_HEAD)
        said = {name for name, value in self.output if value is not None}
        if said - allowed:
            raise ValueError(
                f"head '{self.head}' takes no 'output.{min(said - allowed)}'; leave it out"
            )
        boxes = self.output.boxes
        if boxes is not None and (boxes in _GRID_BOXES) != (self.head == "retinanet"):
            raise ValueError(f"head '{self.head}' can't read boxes as '{boxes}'")
        background = self.output.score_activation == "softmax_with_background"
        if background and self.head != "detr":
            raise ValueError(f"head '{self.head}' has no class of background; use sigmoid or none")
        return self

    @model_validator(mode="after")
    def _input_fits_the_head(self) -> Self:
        if self.input.resize != "letterbox_to_stride":
            return self
        boxes = self.output.boxes if self.output else None
        if self.head not in _ANY_SIZE_HEADS or boxes not in (None, "xyxy_pixels"):
            raise ValueError(
                f"resize 'letterbox_to_stride' feeds many sizes, and head '{self.head}' reads "
                "boxes by one; use 'letterbox'"
            )
        return self
