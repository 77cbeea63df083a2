"""The package `ultralytics` without what it does besides: no network, no installs, no prints.

Importing it changes what belongs to the process (how numbers print, OpenCV's threads, warnings, the
environment, `torch.save`) and writes the user's settings. Here all of that is put back, and its
settings are files of this process that are removed with it. Where ultralytics was imported before,
by the user's own code, it stays as that made it.
"""

import atexit
import logging
import os
import shutil
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

import cv2
import numpy as np

from visiondyno.errors import MissingExtra

_PARTS = ("ultralytics.nn.tasks", "ultralytics.data.augment")
_LOGGER = "ultralytics"
_REPORTS_ELSEWHERE = (
    "sync",
    "api_key",
    "clearml",
    "comet",
    "dvc",
    "hub",
    "mlflow",
    "neptune",
    "platform",
    "raytune",
    "tensorboard",
    "wandb",
    "vscode_msg",
)
"""Its settings by which it tells others of what it does."""

_lock = threading.RLock()
_inside = 0
_undo = ExitStack()


def import_ultralytics(needed_for: str) -> str:
    """Import the package; its modules can then be imported like others.

    Args:
        needed_for: what a missing package is said to be needed for.

    Returns:
        its version.

    Raises:
        MissingExtra: it isn't installed.
    """
    with _lock:
        try:
            if "ultralytics.nn.tasks" in sys.modules:
                package = import_module("ultralytics")
            else:
                package = _imported()
        except ImportError as error:
            raise MissingExtra("ultralytics", needed_for) from error
    return str(package.__version__)


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, ultralytics logs nothing and reports to nobody; afterwards its settings are back.

    The package must have been imported. May be nested, and entered from several threads.
    """
    global _inside  # noqa: PLW0603 - what it counts is the process's too
    with _lock:
        _inside += 1
        if _inside == 1:
            _silence(_undo)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _undo.close()


def _silence(undo: ExitStack) -> None:
    from ultralytics.utils import SETTINGS

    logger = logging.getLogger(_LOGGER)
    undo.callback(logger.setLevel, logger.level)
    logger.setLevel(logging.CRITICAL + 1)
    # Its own `update` would write the file.
    undo.callback(dict.update, SETTINGS, dict(SETTINGS))
    off = {key: type(SETTINGS[key])() for key in _REPORTS_ELSEWHERE if key in SETTINGS}
    dict.update(SETTINGS, off)


def _imported() -> ModuleType:
    # First, or it would take the one thread that ultralytics puts into the environment.
    torch = import_module("torch")
    with ExitStack() as undo:
        undo.callback(_restore_environment, dict(os.environ))
        undo.callback(cv2.setNumThreads, cv2.getNumThreads())
        undo.callback(_restore_numpy, np.get_printoptions())
        undo.callback(setattr, torch, "save", torch.save)
        options = torch._tensor_str.get_printoptions()
        undo.callback(torch.set_printoptions, **options)
        undo.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        folder = tempfile.mkdtemp(prefix="visiondyno-ultralytics-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ |= {
            "YOLO_OFFLINE": "true",
            "YOLO_AUTOINSTALL": "false",
            "YOLO_VERBOSE": "false",
            "YOLO_CONFIG_DIR": folder,
        }
        for part in _PARTS:
            import_module(part)
    return import_module("ultralytics")


def _restore_environment(before: dict[str, str]) -> None:
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


def _restore_numpy(options: Any) -> None:
    np.set_printoptions(**options)
