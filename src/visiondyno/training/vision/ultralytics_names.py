"""Which of Ultralytics' detectors a name means, as the configuration that builds it."""

import difflib
import re
from typing import Any

from visiondyno.errors import SpecError
from visiondyno.vision.ultralytics_library import (
    architecture_files,
    find_architecture,
    import_ultralytics,
)

_HEADS = frozenset({"Detect", "v10Detect"})
_FAMILY = re.compile(r"yolov?\d+")
_V5_OF_TODAY = re.compile(r"(yolov5[nsmlx]6?)u")
_SHOWN = ("yolov5n", "yolov8n", "yolo11n", "yolo26n")


def plain_name(name: str) -> str:
    """The name as a model's record holds it: `yolov5nu` and `yolov5n.yaml` are `yolov5n`."""
    stem = name.removesuffix(".yaml")
    u = _V5_OF_TODAY.fullmatch(stem)
    return u[1] if u else stem


def architecture(name: str) -> dict[str, Any]:
    """The configuration of a detector by name: layers, and the scale that its letter means.

    Args:
        name: `yolov8n`, `yolov5nu`, `yolo11s.yaml` …; never a path.

    Raises:
        SpecError: there is no such detector.
        MissingExtra: the library isn't installed.
    """
    import_ultralytics(f"Training {name}")
    from ultralytics.utils import YAML

    stem = plain_name(name)
    there = find_architecture(stem)
    if there is None:
        raise SpecError(_unknown(stem))
    path, size = there
    found: dict[str, Any] = YAML.load(path)
    scales = found.get("scales", {})
    if scales and not size:
        raise SpecError(
            f"'{name}' names a family of models, not one: add its size, such as "
            f"'{path.stem}{min(scales, key='nsmlx'.find)}'."
        )
    if scales:
        found["scale"] = size
    head = found["head"][-1][2]
    if head not in _HEADS:
        raise SpecError(f"'{name}' is no detector (it ends in {head}); take one such as 'yolov8n'.")
    return found


def _unknown(name: str) -> str:
    files = architecture_files()
    families = [stem for stem in files if _FAMILY.fullmatch(stem)]
    known = [*(files.keys() - families), *(stem + size for stem in families for size in "nsmlx")]
    near = difflib.get_close_matches(name, [*_SHOWN, *known], n=1)
    meant = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(_SHOWN)} and others."
    return f"The installed ultralytics has no detector '{name}'; {meant}"
