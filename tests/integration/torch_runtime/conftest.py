"""Files of small programs, and a working folder with code that makes modules."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from visiondyno.runtimes.trusted_code import TRUST_CODE

OWN_CODE = """
from torch_programs import Classifier, Detector, CLASSIFIER_CARD, DETECTOR_CARD, nn, torch
import own_part_beside

def detector():
    module = Detector()
    module.model_card = DETECTOR_CARD
    return module

class Makers:
    @staticmethod
    def classifier():
        module = Classifier()
        module.model_card = CLASSIFIER_CARD.model_dump(by_alias=True)
        return module

def uncarded():
    return Classifier()

def fails():
    raise KeyError("weights")

def no_module():
    return 5

class Silent(Classifier):
    def forward(self, images):
        return None

def silent():
    module = Silent()
    module.model_card = CLASSIFIER_CARD
    return module

def badly_carded():
    module = Classifier()
    module.model_card = {"task": "classification"}
    return module

constant = 5
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Imported here: without torch, the tests are skipped, and this file is read all the same.
    from torch_programs import (
        CLASSIFIER_CARD,
        DETECTOR_CARD,
        Classifier,
        Detector,
        write_exported,
        write_scripted,
    )

    folder = tmp_path_factory.mktemp("programs")
    write_exported(folder / "any.pt2", Detector(), DETECTOR_CARD)
    write_exported(folder / "four.pt2", Detector(), DETECTOR_CARD, batch=4)
    write_exported(folder / "classifier.pt2", Classifier(), CLASSIFIER_CARD)
    write_scripted(folder / "scripted.torchscript", Detector(), DETECTOR_CARD)
    frozen = folder / "frozen.torchscript"
    write_scripted(frozen, Classifier(), CLASSIFIER_CARD, is_frozen=True)
    return folder


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A working folder with code that may be imported."""
    (tmp_path / "own_models.py").write_text(OWN_CODE)
    (tmp_path / "own_part_beside.py").write_text("")
    (tmp_path / "own_broken.py").write_text("import nothing_of_this_name")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(TRUST_CODE, "1")
    before = list(sys.path)
    yield
    sys.path[:] = before
    for name in ("own_models", "own_part_beside", "own_broken"):
        sys.modules.pop(name, None)
