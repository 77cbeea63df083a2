"""Importing ultralytics changes nothing of the process and touches nobody's settings."""

import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from visiondyno.errors import MissingExtra
from visiondyno.quiet_ultralytics import import_ultralytics, quiet

pytestmark = pytest.mark.torch

PROGRAM = """
import json, os, socket, sys, warnings
import cv2, numpy, torch
def state():
    options = numpy.get_printoptions()
    return [dict(os.environ), cv2.getNumThreads(), repr(options), repr(torch.tensor([1 / 3])),
            torch.get_num_threads(), warnings.filters[:], str(torch.save)]
cv2.setNumThreads(3)
def refuse(*arguments, **options):
    raise AssertionError("a connection was opened")
socket.getaddrinfo = socket.socket.connect = refuse
before = state()
from visiondyno.quiet_ultralytics import import_ultralytics, quiet
version = import_ultralytics("This test")
assert state() == before, (before, state())
from ultralytics.utils import AUTOINSTALL, SETTINGS_FILE
print(json.dumps([version, str(SETTINGS_FILE), AUTOINSTALL]))
"""


def test_an_import_changes_nothing_and_writes_into_a_folder_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("ultralytics")
    environment = os.environ | {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    environment.pop("YOLO_CONFIG_DIR", None)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == ""
    version, settings_file, installs = json.loads(done.stdout)
    assert version.startswith("8.")
    assert installs is False
    assert not Path(settings_file).exists(), "it goes with its process"
    assert not [path for path in tmp_path.rglob("*") if "ltralytics" in path.name]


def test_inside_it_is_silent_and_reports_to_nobody() -> None:
    pytest.importorskip("ultralytics")
    import_ultralytics("This test")
    from ultralytics.utils import SETTINGS

    logger = logging.getLogger("ultralytics")
    before = (dict(SETTINGS), logger.level)
    entered, left = threading.Event(), threading.Event()

    def work() -> None:
        with quiet():
            entered.set()
            left.wait(60)

    other = threading.Thread(target=work)
    with quiet():
        other.start()
        assert entered.wait(60)
        assert not logger.isEnabledFor(logging.CRITICAL)
        assert not any(SETTINGS[key] for key in ("sync", "wandb", "mlflow", "comet"))
    # The other thread is still inside.
    assert not logger.isEnabledFor(logging.CRITICAL)
    left.set()
    other.join()
    assert (dict(SETTINGS), logger.level) == before


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "ultralytics"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    with pytest.raises(MissingExtra, match=r"ultralytics:yolov8n .*visiondyno\[ultralytics\]"):
        import_ultralytics("The model ultralytics:yolov8n")
