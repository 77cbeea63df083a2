"""The model card: what a model file doesn't say itself about its input and its output.

A card lies beside its model as `NAME.model.yaml` (for `street-n.onnx`: `street-n.model.yaml`).
`dyno models init FILE` writes one with the best guess.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

HeadName = Literal["yolov8", "yolov5", "yolox", "fastestdet", "end_to_end", "classification"]
"""How a model's output is read; see the classes in `visiondyno.vision.heads`."""

ResizeMode = Literal["letterbox", "letterbox_top_left", "stretch", "shortest_side_crop"]
"""`letterbox`: keep the aspect ratio, pad on both sides (Ultralytics). `letterbox_top_left`: keep
it, image at the top left, pad right and bottom (YOLOX). `stretch`: ignore it.
`shortest_side_crop`: scale the shortest side to `crop_from`, crop the centre (ImageNet)."""


class InputCard(BaseModel):
    """From a decoded image to the model's input tensor.

    The value fed for channel c is `(pixel * scale - mean[c]) / std[c]`, in the order `channels`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    height: Annotated[int, Field(ge=1, le=16384)]
    width: Annotated[int, Field(ge=1, le=16384)]
    resize: ResizeMode = "letterbox"
    interpolation: Literal["linear", "area", "cubic", "nearest"] = "linear"
    pad_value: Annotated[int, Field(ge=0, le=255)] = 114
    crop_from: Annotated[int, Field(ge=1)] | None = None
    """Length of the shortest side before the crop, pixels (`shortest_side_crop` only)."""
    channels: Literal["rgb", "bgr"] = "rgb"
    scale: Annotated[float, Field(gt=0)] = 1 / 255
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    layout: Literal["nchw", "nhwc"] = "nchw"
    dtype: Literal["float32", "float16", "uint8"] = "float32"


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


class ModelCard(BaseModel):
    """Everything needed to run a model file and to read its output."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_: Literal["visiondyno.model/1"] = Field("visiondyno.model/1", alias="schema")
    task: Literal["detection", "classification"]
    head: HeadName
    classes: tuple[str, ...]
    input: InputCard
    detection: DetectionCard | None = None
    """Of detectors only."""
    activation: Literal["none", "softmax", "sigmoid"] = "none"
    """What makes a classifier's output probabilities; `none` where the graph does it itself."""
    license: str | None = None
    source: str | None = None
