"""The ultralytics package, imported so that nothing of this process or machine is changed by it.

Its import asks a name server whether there is a network, writes a settings file into the user's
folder, and changes how torch saves, how NumPy and torch print, and how many threads OpenCV uses.
"""

import logging
import os
import re
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from visiondyno.errors import MissingExtra

LICENSE = "AGPL-3.0"

_WHILE_IMPORTED = {
    "YOLO_OFFLINE": "1",
    "YOLO_AUTOINSTALL": "0",
    "YOLO_VERBOSE": "0",
}
_SIZES = "nsmlx"
_importing = threading.Lock()


def import_ultralytics(what: str) -> ModuleType:
    """The package, whose logger says only errors, which installs nothing and asks no network.

    Where the process imported it before by itself, it is taken as it is: then `quiet` silences it.

    Args:
        what: needs it, for the message: `Training yolov8n`.

    Raises:
        MissingExtra: it isn't installed, or can't be imported.
    """
    try:
        with _importing, warnings.catch_warnings(), _process_as_it_was():
            warnings.simplefilter("ignore")
            import ultralytics
            import ultralytics.utils
    except ImportError as error:
        raise MissingExtra("ultralytics", what) from error
    package: ModuleType = ultralytics
    return package


@contextmanager
def quiet() -> Iterator[None]:
    """Meanwhile the library logs errors only, shows no bars, installs nothing, sends nothing."""
    from ultralytics.utils import LOGGER, SETTINGS, checks, events

    level, installs, sends = LOGGER.level, checks.AUTOINSTALL, events.events.enabled
    settings = dict.copy(SETTINGS)
    try:
        LOGGER.setLevel(logging.ERROR)
        checks.AUTOINSTALL = events.events.enabled = False
        # Values of the dict itself: its own methods would write the user's settings file.
        dict.update(SETTINGS, {name: False for name in _SENDERS if name in settings})
        yield
    finally:
        dict.update(SETTINGS, settings)
        checks.AUTOINSTALL, events.events.enabled = installs, sends
        LOGGER.setLevel(level)


def architecture_files() -> dict[str, Path]:
    """The package's files of architectures, by their names without `.yaml`; it is imported."""
    import ultralytics

    folder = Path(str(ultralytics.__file__)).parent / "cfg" / "models"
    return {path.stem: path for path in sorted(folder.rglob("*.yaml"))}


def find_architecture(name: str) -> tuple[Path, str] | None:
    """The package's file that a name means, and the size in the name (or an empty string).

    Args:
        name: such as `yolov8n`, `yolov5nu`, `yolov5n6`, `yolo11s-cls`; never a path.
    """
    files = architecture_files()
    name = re.sub(r"^(yolov[35].*)u$", r"\1", name)
    plain = re.sub(rf"^(yolov?\d+)[{_SIZES}]6", r"\1-p6", name)
    plain = re.sub(rf"^(yolov?\d+)[{_SIZES}](?![a-z])", r"\1", plain)
    path = files.get(name) or files.get(plain)
    return None if path is None else (path, size_of(name))


def size_of(name: str) -> str:
    """The letter of the size: `n` of `yolov8n-cls`; empty where there is none."""
    # YOLOv10-B has a file of its own, whose only scale it is.
    match = re.match(rf"yolov?\d+([{_SIZES}b])(?![a-z])", name)
    return match[1] if match else ""


_SENDERS = ("sync", "clearml", "comet", "dvc", "hub", "mlflow", "raytune", "tensorboard", "wandb")


@contextmanager
def _process_as_it_was() -> Iterator[None]:
    import cv2
    import numpy as np
    import torch

    save, threads = torch.save, cv2.getNumThreads()
    printing: dict[str, Any] = dict(np.get_printoptions())
    torch_printing = vars(torch._tensor_str.PRINT_OPTS).copy()
    environment = dict(os.environ)
    try:
        with tempfile.TemporaryDirectory(prefix="visiondyno-") as folder:
            os.environ.update(_WHILE_IMPORTED, YOLO_CONFIG_DIR=folder)
            yield
    finally:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        torch.save = save
        cv2.setNumThreads(threads)
        np.set_printoptions(**printing)
        vars(torch._tensor_str.PRINT_OPTS).update(torch_printing)
