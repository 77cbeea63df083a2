"""The import of ultralytics changes nothing of the process, asks no network, writes no settings."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ultralytics")
pytestmark = pytest.mark.torch

_LOOKED_AT = """
import os, socket, sys
import cv2, numpy as np, torch
def refuse(*_, **__):
    raise AssertionError("the network was asked")
socket.getaddrinfo = socket.create_connection = refuse
def seen():
    return (dict(os.environ), np.get_printoptions(), vars(torch._tensor_str.PRINT_OPTS).copy(),
            cv2.getNumThreads(), torch.save, torch.get_num_threads())
before = seen()
from visiondyno.vision.ultralytics_library import import_ultralytics, quiet
package = import_ultralytics("This test")
assert package.__name__ == "ultralytics"
for left, right in zip(before, seen(), strict=True):
    assert left == right, (left, right)
from ultralytics.utils import LOGGER, SETTINGS, checks, events
level, synced = LOGGER.level, SETTINGS["sync"]
checks.AUTOINSTALL = events.events.enabled = True
with quiet():
    assert not SETTINGS["sync"] and not checks.AUTOINSTALL and not events.events.enabled
    LOGGER.warning("not shown")
assert (LOGGER.level, SETTINGS["sync"], checks.AUTOINSTALL) == (level, synced, True)
assert events.events.enabled
"""

_MISSING = """
import sys
sys.modules["ultralytics"] = None
from visiondyno.errors import MissingExtra
from visiondyno.vision.ultralytics_library import import_ultralytics
try:
    import_ultralytics("Training yolov8n")
except MissingExtra as error:
    print(error)
"""


def ran(code: str, home: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"HOME": str(home), "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_nothing_is_changed_asked_or_written(tmp_path: Path) -> None:
    assert ran(_LOOKED_AT, tmp_path) == ""
    assert list(tmp_path.iterdir()) == []


def test_where_it_is_missing_the_command_is_named(tmp_path: Path) -> None:
    assert "pip install 'visiondyno[ultralytics]'" in ran(_MISSING, tmp_path)
