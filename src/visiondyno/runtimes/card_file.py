"""Model cards as YAML files beside their models."""

from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from visiondyno.errors import ModelError
from visiondyno.specs.model_card import (
    BoxFormat,
    HeadName,
    ModelCard,
    OutputRole,
    ScoreActivation,
)
from visiondyno.specs.operations import describe_validation

_HEADER = """\
# Model card of {model}: how its input is made and its output read.
# Every field is explained in docs/model-cards.md. Where each part of this guess came from:
{origins}
"""
_COMMENTS = {
    "task:": "detection, classification or depth",
    "head:": ", ".join(get_args(HeadName)),
    "classes:": "in the order of the model's output",
    "input:": "the value fed is (pixel * scale - mean) / std",
    "resize:": "letterbox, letterbox_to_stride, letterbox_top_left, stretch or shortest_side_crop",
    "interpolation:": "linear, area, cubic or nearest",
    "crop_from:": "shortest side before the crop (shortest_side_crop only)",
    "stride:": "sides are padded to a multiple of it (letterbox_to_stride only)",
    "channels:": "rgb or bgr",
    "layout:": "nchw or nhwc",
    "dtype:": "float32, float16, uint8 or int8",
    "roles:": ", ".join(get_args(OutputRole)),
    "boxes:": ", ".join(get_args(BoxFormat)),
    "score_activation:": ", ".join(get_args(ScoreActivation)),
    "first_class:": "number of the first class: 1 where 0 is the background",
    "strides:": "input pixels a cell of each grid",
    "cell_offset:": "of a box's reference point in its cell, in strides",
    "alignment:": "none, median_scale or scale_and_shift (before scoring)",
    "confidence:": "lowest score kept when scoring accuracy",
    "nms_iou:": "null: no NMS",
    "several_classes_a_box:": "false: the best class of each box only",
    "max_candidates:": "best candidates kept before NMS",
    "max_detections:": "best boxes kept after NMS",
    "clip_to_image:": "cut boxes at the image's edges",
    "activation:": "of classifiers: softmax or sigmoid; none where the graph does it",
}


def card_path(model: Path) -> Path:
    """Where the card of `model` lies: `street-n.onnx` → `street-n.model.yaml`."""
    return model.with_name(f"{model.stem}.model.yaml")


def read_card(path: Path) -> ModelCard:
    """The card in the YAML file `path`.

    Raises:
        ModelError: it can't be read, isn't YAML, or a field is wrong (names the field).
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"Model card {path} can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"Model card {path} isn't UTF-8 text; save it as such.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        raise ModelError(f"Model card {path} isn't valid YAML{line}; correct it.") from error
    return parse_card(content, f"Model card {path}")


def parse_card(content: object, what: str) -> ModelCard:
    """`content` (of YAML or JSON) as a card, or a `ModelError` that begins with `what`."""
    try:
        return ModelCard.model_validate(content)
    except ValidationError as error:
        raise ModelError(f"{what} is wrong: {describe_validation(error)}.") from error


def card_text(card: ModelCard, model_name: str, origins: dict[str, str]) -> str:
    """The card as commented YAML, which `read_card` reads back to an equal card."""
    content = card.model_dump(mode="json", by_alias=True)
    for part in ("output", "detection", "depth"):
        if content[part] is None:
            del content[part]
    if card.output is not None:
        content["output"] = card.output.model_dump(mode="json", exclude_none=True)
    for field in ("quantisation", "stride"):
        if content["input"][field] is None:
            del content["input"][field]
    body = yaml.dump(content, Dumper=_CardDumper, sort_keys=False, allow_unicode=True, width=98)
    said = "\n".join(f"#   {part}: {origin}" for part, origin in origins.items())
    return (
        _HEADER.format(model=model_name, origins=said)
        + "\n".join(_with_comment(line) for line in body.splitlines())
        + "\n"
    )


class _CardDumper(yaml.SafeDumper):
    """Numbers of a list on one line, class names one a line, as people write them."""


def _represent_list(dumper: yaml.SafeDumper, data: list[Any]) -> yaml.Node:
    of_numbers = all(isinstance(item, int | float) for item in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=of_numbers)


_CardDumper.add_representer(list, _represent_list)


def _with_comment(line: str) -> str:
    key, _, _ = line.strip().partition(" ")
    if key not in _COMMENTS:
        return line
    indent = line[: len(line) - len(line.lstrip())]
    return f"{indent}# {_COMMENTS[key]}\n{line}"
