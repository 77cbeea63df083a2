"""`dyno datasets` on every task; pulling is in pull/test_pull_install.py."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dataset_factory import write_depth, write_voc
from visiondyno.cli.datasets import command
from visiondyno.datasets.registry import open_dataset


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments), catch_exceptions=False)


def test_depth_is_told_in_metres(tmp_path: Path) -> None:
    write_depth(tmp_path / "rooms")
    said = run("show", str(tmp_path / "rooms")).output
    assert "depth, 4 images\n" in said
    assert "% of the pixels have depth, from 0.5" in said
    assert "class" not in said


def test_notes_are_told(tmp_path: Path) -> None:
    write_voc(tmp_path / "voc")
    (tmp_path / "voc" / "Annotations" / "c.xml").unlink()
    said = run("show", str(tmp_path / "voc")).output
    assert "Note: 1 images have no annotation file" in said


def test_digits_are_written_as_a_folder_per_class(tmp_path: Path) -> None:
    assert run("write", "digits:demo:20", str(tmp_path / "mine")).exit_code == 0
    mine = open_dataset(str(tmp_path / "mine"))
    assert mine.digest == open_dataset("digits:demo:20").digest
