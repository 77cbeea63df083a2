"""What a request to `/predict` asks for, from its query and its `Accept` header."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar
from urllib.parse import parse_qsl

from visiondyno.errors import SpecError
from visiondyno.serving.config import ServingConfig
from visiondyno.vision.chosen_classes import class_ids
from visiondyno.vision.video_form import FrameChoice

Form = Literal["json", "ndjson", "jpeg", "png"]
N = TypeVar("N", int, float)

_FORMS: dict[str, Form] = {
    "json": "json",
    "ndjson": "ndjson",
    "jpeg": "jpeg",
    "jpg": "jpeg",
    "annotated": "jpeg",
    "png": "png",
}
_MEDIA: dict[str, Form] = {
    "application/json": "json",
    "application/x-ndjson": "ndjson",
    "image/jpeg": "jpeg",
    "image/png": "png",
    "image/*": "jpeg",
}
_OF_VIDEO = ("every", "fps", "start_s", "end_s", "max_frames", "track")
_TRUTHS = {"true": True, "1": True, "false": False, "0": False}
_MOST_PARAMETERS = 200


@dataclass(frozen=True, slots=True)
class Asked:
    """A request's wishes; None where it has none.

    Attributes:
        conf, iou: thresholds, 0 to 1.
        classes: names or ids as they were given, still with commas.
        form: what the answer is to be.
        frames: which of a video.
        track: whether a video's objects are numbered.
        of_video: the parameters that only a video has, of those that were given.
    """

    conf: float | None = None
    iou: float | None = None
    classes: tuple[str, ...] = ()
    form: Form = "json"
    frames: FrameChoice = field(default_factory=FrameChoice)
    track: bool = False
    of_video: tuple[str, ...] = ()

    @property
    def of_items(self) -> dict[str, Any]:
        """What it asks of each item by its form: a picture, or nothing."""
        return {"format": self.form} if self.form in ("jpeg", "png") else {}

    @property
    def needs_model(self) -> bool:
        """Whether it can be judged only by what the model is."""
        wishes = (self.conf is not None, self.iou is not None, bool(self.classes), self.track)
        return any(wishes)


def read_asked(query: str, accept: str = "") -> Asked:
    """The wishes in a query string and an `Accept` header; `format` goes before the header.

    Raises:
        SpecError: a parameter is unknown, given twice or has a value that can't be.
    """
    given, classes = _parameters(query)
    frames = FrameChoice(
        every=_number(given, "every", int, 1, 10**9),
        frames_per_second=_number(given, "fps", float, 1e-6, 1e6),
        start_s=_number(given, "start_s", float, 0, 1e9) or 0.0,
        most=_number(given, "max_frames", int, 1, 10**9),
        end_s=_number(given, "end_s", float, 0, 1e9),
    )
    if frames.every is not None and frames.frames_per_second is not None:
        raise SpecError("Give one of 'every' and 'fps': both say which frames of the video.")
    if frames.end_s is not None and frames.end_s <= frames.start_s:
        raise SpecError("'end_s' must be after 'start_s': no frame of the video is between them.")
    return Asked(
        conf=_number(given, "conf", float, 0, 1),
        iou=_number(given, "iou", float, 0, 1),
        classes=classes,
        form=_form(given, accept),
        frames=frames,
        track=_truth(given, "track"),
        of_video=tuple(name for name in _OF_VIDEO if name in given),
    )


def options_of(asked: Asked, config: ServingConfig, model: Mapping[str, Any]) -> dict[str, Any]:
    """The options of each item: what was asked, or else what the server is set to.

    Args:
        asked: the request's wishes.
        config: the server's.
        model: `ModelDescription` as JSON.

    Raises:
        SpecError: a class isn't known, or the model has nothing that an option could apply to.
    """
    card = model["card"]
    if asked.track and card["task"] != "detection":
        raise SpecError(f"A {card['task']} model finds no boxes to track: leave 'track' away.")
    if card["task"] == "depth":
        _refuse_of_depth(asked)
        return asked.of_items
    conf = config.conf if asked.conf is None else asked.conf
    iou = config.iou if asked.iou is None else asked.iou
    classes = class_ids(asked.classes or config.classes, card["classes"])
    found = {
        "conf": conf,
        "iou": iou,
        "classes": classes or None,
    }
    return {name: value for name, value in found.items() if value is not None} | asked.of_items


def _refuse_of_depth(asked: Asked) -> None:
    given = {"conf": asked.conf, "iou": asked.iou, "classes": asked.classes or None}
    wrong = next((name for name, value in given.items() if value is not None), None)
    if wrong is not None:
        raise SpecError(f"A depth model has neither scores nor classes: leave '{wrong}' away.")


def _parameters(query: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """All that were given, and the classes."""
    try:
        pairs = parse_qsl(
            query, keep_blank_values=True, errors="strict", max_num_fields=_MOST_PARAMETERS
        )
    except ValueError:
        raise SpecError(
            "The query can't be read: it isn't UTF-8, or has more than "
            f"{_MOST_PARAMETERS} parameters."
        ) from None
    given: dict[str, str] = {}
    classes: list[str] = []
    known = {"conf", "iou", "classes", "format", *_OF_VIDEO}
    for name, value in pairs:
        if name not in known:
            raise SpecError(
                f"There is no parameter '{name:.80}'; there are {', '.join(sorted(known))}."
            )
        if not value:
            raise SpecError(f"The parameter '{name}' has no value; give one, or leave it away.")
        if name == "classes":
            classes.append(value)
        elif name in given:
            raise SpecError(f"The parameter '{name}' is given twice; give it once.")
        else:
            given[name] = value
    return given, tuple(classes)


def _number(
    given: Mapping[str, str], name: str, kind: Callable[[str], N], least: float, most: float
) -> N | None:
    """A parameter's number, if it was given."""
    text = given.get(name)
    if text is None:
        return None
    try:
        value = kind(text)
    except ValueError:
        value = kind("-1")
    if not math.isfinite(value) or not least <= value <= most:
        sort = "a whole number" if kind is int else "a number"
        raise SpecError(
            f"The parameter '{name}' is '{text:.40}'; give {sort} from {least:g} to {most:g}."
        )
    return value


def _truth(given: Mapping[str, str], name: str) -> bool:
    text = given.get(name, "false").lower()
    if text not in _TRUTHS:
        raise SpecError(f"The parameter '{name}' is '{text:.40}'; give true or false.")
    return _TRUTHS[text]


def _form(given: Mapping[str, str], accept: str) -> Form:
    wanted = given.get("format")
    if wanted is not None:
        if wanted not in _FORMS:
            raise SpecError(
                f"The parameter 'format' is '{wanted:.40}'; give json, ndjson, jpeg, png or "
                "annotated (jpeg)."
            )
        return _FORMS[wanted]
    if not accept or "*/*" in accept:
        return "json"
    ranges = [(*_media_range(part), -place) for place, part in enumerate(accept.split(",")[:50])]
    known = [(share, place, _MEDIA[name]) for name, share, place in ranges if name in _MEDIA]
    best = max((one for one in known if one[0] > 0), default=None)
    return "json" if best is None else best[2]


def _media_range(text: str) -> tuple[str, float]:
    """A media range of `Accept` and its weight (RFC 9110, 12.5.1)."""
    name, *parameters = (part.strip().lower() for part in text.split(";"))
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return name, float(parameter[2:])
            except ValueError:
                return name, 0.0
    return name, 1.0
