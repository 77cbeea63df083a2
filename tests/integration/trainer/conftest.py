"""A trainer over real operations in this process, in a folder of the test's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from training_places import CountingClient
from visiondyno.client.trainer import Trainer


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def client(home: Path) -> Iterator[CountingClient]:
    with CountingClient("inline") as opened:
        yield opened


@pytest.fixture
def trainer(client: CountingClient) -> Trainer:
    return Trainer(client)
