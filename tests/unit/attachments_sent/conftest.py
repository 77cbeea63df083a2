"""A folder to work in, and a client whose workers are elsewhere."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from attached_jobs import ClientElsewhere


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def client(tmp_path: Path) -> Iterator[ClientElsewhere]:
    with ClientElsewhere(tmp_path / "blobs") as client:
        yield client
