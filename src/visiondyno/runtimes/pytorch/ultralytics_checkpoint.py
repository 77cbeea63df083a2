"""Ultralytics' `.pt` files, read without making any of the objects that they hold.

Such a file is a pickle of whole modules: opened as Ultralytics opens it, it may run anything. Here
torch's restricted reader puts an inert object in the place of each, and only what is data is taken
of them: the architecture as a dict, class names, tensors. The network is then built anew.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from visiondyno.errors import ModelError, Unavailable
from visiondyno.runtimes.pytorch.module import reason
from visiondyno.runtimes.pytorch.ultralytics_names import OTHER_NETWORKS, Task, not_covered

if TYPE_CHECKING:
    import torch

_INERT = (
    "ultralytics.",
    "torch.",
    "torchvision.",
    "numpy.",
    "pathlib.",
    "collections.",
    "_codecs.",
)
"""What real checkpoints refer to: modules, losses, settings, paths and numbers of metrics."""
_ALSO_INERT = frozenset(
    f"{module}.{name}"
    for module in ("builtins", "__builtin__")
    for name in ("set", "frozenset", "slice", "complex", "bytearray")
)
_MOST_PARTS = 100_000
_YOLOV5_REPOSITORY = ("models.yolo", "models.common", "models.experimental")
_TASKS: dict[str, Task] = {
    "DetectionModel": "detection",
    "YOLOv10DetectionModel": "detection",
    "ClassificationModel": "classification",
}

_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a `.pt` file of Ultralytics says.

    Attributes:
        task: of the network.
        architecture: as the YAML file of the architecture; not checked yet.
        classes: in the order of the output.
        image_size: (height, width) that it was trained at, or None where it doesn't say.
        state: tensors by name, as `state_dict` has them.
        layers: name of each module to the name of its class.
        settings: name of each module to those of its settings that no tensor holds.
        mean, std: of a classifier's transforms, RGB, where it keeps them.
    """

    task: Task
    architecture: dict[str, Any]
    classes: tuple[str, ...]
    image_size: tuple[int, int] | None
    state: "Mapping[str, torch.Tensor]"
    layers: Mapping[str, str]
    settings: Mapping[str, Mapping[str, float]]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class _Inert:
    """Stands for any object of a checkpoint: keeps what it is given and does nothing."""

    path: ClassVar[str] = ""
    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any) -> "_Inert":
        made = super().__new__(cls)
        made.arguments = arguments
        made.state = {}
        return made

    def __init__(self, *arguments: Any) -> None:
        """Takes whatever the object's own class would take."""

    def __setstate__(self, state: Any) -> None:
        self.state = state


def read_checkpoint(path: Path) -> Checkpoint:
    """The network in the file `path`.

    Raises:
        ModelError: it can't be read, isn't a checkpoint of Ultralytics, refers to what no such
            checkpoint holds, or is of a task that isn't covered.
        Unavailable: this torch can't read it safely.
    """
    content = _content(path)
    found = [content[key] for key in ("ema", "model") if isinstance(content.get(key), _Inert)]
    if not found or content.get("modelopt"):
        what = "a quantised network" if found else "no network of Ultralytics"
        raise ModelError(
            f"{path} holds {what}; give a .pt file that Ultralytics trained, or an ONNX export."
        )
    try:
        return _described(path, found[0], content)
    except ModelError:
        raise
    except Exception as error:
        # What is missing, or of another type, or refers to itself.
        raise ModelError(
            f"{path} isn't a whole checkpoint of Ultralytics ({reason(error)}); save or download "
            "it again."
        ) from error


def _content(path: Path) -> dict[str, Any]:
    import torch

    if not hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"):
        raise Unavailable(
            f"torch {torch.__version__} can't read {path} without running what it holds; install "
            "torch 2.6 or newer."
        )
    try:
        with _lock, _only_inert(path) as foreign:
            if not foreign:
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Damaged archives and pickles raise what comes: RuntimeError, EOFError, KeyError …
        raise ModelError(
            f"{path} can't be read as a checkpoint of PyTorch ({reason(error)}); save or download "
            "it again."
        ) from error
    if foreign:
        raise _refused(path, foreign)
    return content if isinstance(content, dict) else {}


@contextmanager
def _only_inert(path: Path) -> Iterator[list[str]]:
    """Inside, torch puts inert objects for all that the file refers to; gives what it may not."""
    from torch import serialization

    # Classes that somebody else allowed in this process would be made as they are.
    others = serialization.get_safe_globals()
    serialization.clear_safe_globals()
    try:
        names = sorted(serialization.get_unsafe_globals_in_checkpoint(path))
        is_inert = {name: name.startswith(_INERT) or name in _ALSO_INERT for name in names}
        stand_ins = [(type("_Inert", (_Inert,), {"path": name}), name) for name in names]
        with serialization.safe_globals(stand_ins):
            yield [name for name in names if not is_inert[name]]
    finally:
        serialization.add_safe_globals(others)


def _refused(path: Path, foreign: list[str]) -> ModelError:
    if any(name.startswith(_YOLOV5_REPOSITORY) for name in foreign):
        return ModelError(
            f"{path} was trained by the YOLOv5 repository, whose checkpoints only its own code can "
            "read; export it there to ONNX."
        )
    return ModelError(
        f"{path} refers to '{foreign[0]:.100}', which no checkpoint of Ultralytics does. It could "
        "run code where it is opened otherwise, and wasn't opened; ask whoever made it for an "
        "ONNX export."
    )


def _described(path: Path, network: _Inert, content: dict[str, Any]) -> Checkpoint:
    kind = network.path.rpartition(".")[2]
    if kind not in _TASKS:
        raise not_covered(str(path), OTHER_NETWORKS.get(kind, kind))
    modules = dict(islice(_modules(network, ""), _MOST_PARTS))
    if len(modules) == _MOST_PARTS:
        raise ValueError(f"it has over {_MOST_PARTS} layers")
    mean, std = _normalisation(network.state.get("transforms"))
    return Checkpoint(
        task=_TASKS[kind],
        architecture=_plain(network.state["yaml"], count(1)),
        classes=_names(network.state["names"]),
        image_size=_image_size(content.get("train_args")),
        state=dict(_tensors(modules)),
        layers={name: module.path.rpartition(".")[2] for name, module in modules.items()},
        settings={name: _settings(module) for name, module in modules.items()},
        mean=mean,
        std=std,
    )


def _modules(module: _Inert, name: str) -> Iterator[tuple[str, _Inert]]:
    if name:
        yield name, module
    for key, child in module.state.get("_modules", {}).items():
        if isinstance(child, _Inert):
            yield from _modules(child, f"{name}.{key}" if name else key)


def _tensors(modules: Mapping[str, _Inert]) -> "Iterator[tuple[str, torch.Tensor]]":
    import torch

    for name, module in modules.items():
        passing = module.state.get("_non_persistent_buffers_set", ())
        kept = module.state.get("_parameters", {}) | module.state.get("_buffers", {})
        for key, tensor in kept.items():
            if isinstance(tensor, torch.Tensor) and key not in passing:
                yield f"{name}.{key}", tensor


def _settings(module: _Inert) -> dict[str, float]:
    """Of normalisations: what is added to the variance."""
    eps = module.state.get("eps")
    return {"eps": eps} if isinstance(eps, float) else {}


def _plain(value: Any, parts: Iterator[int]) -> Any:
    """The value, if it is data all through; `parts` counts what it holds.

    A few lists that hold each other again and again are a short file of billions of values.
    """
    if next(parts) > _MOST_PARTS:
        raise ValueError(f"its architecture has over {_MOST_PARTS} parts")
    if isinstance(value, dict):
        return {str(key): _plain(item, parts) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, parts) for item in value]
    if isinstance(value, _Inert) and value.path.startswith("pathlib."):
        return "/".join(map(str, value.arguments))
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError("its architecture isn't plain data")


def _names(names: Any) -> tuple[str, ...]:
    if isinstance(names, dict):
        names = [names[index] for index in range(len(names))]
    return tuple(str(name) for name in names)


def _image_size(arguments: Any) -> tuple[int, int] | None:
    if isinstance(arguments, _Inert):
        arguments = arguments.state
    size = arguments.get("imgsz") if isinstance(arguments, dict) else None
    sides = [size, size] if isinstance(size, int) else size
    if not isinstance(sides, list | tuple) or len(sides) != 2:
        return None
    return (int(sides[0]), int(sides[1])) if min(sides) > 0 else None


def _normalisation(
    transforms: Any,
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    steps = transforms.state.get("transforms", []) if isinstance(transforms, _Inert) else []
    for step in steps:
        if isinstance(step, _Inert) and step.path.endswith(".Normalize"):
            return _triple(step.state["mean"]), _triple(step.state["std"])
    return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def _triple(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
