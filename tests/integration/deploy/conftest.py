"""A machine with docker, and an account at RunPod."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploying import DOCKER, Machine
from runpod_rest import KEY, StandIn, runpod_rest
from visiondyno.cli import deploy_runpod


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine(tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/docker").write_text(DOCKER)
    (tmp_path / "bin/docker").chmod(0o755)
    for name in ("RUNPOD_API_KEY", "VISIONDYNO_BLOBS_URL", "VISIONDYNO_BLOBS_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_LOG", str(found.log))
    monkeypatch.setenv("VISIONDYNO_HOME", str(found.home))
    monkeypatch.chdir(found.checkout)

    def tried(**how: Any) -> list[str]:
        found.tried.append(how)
        return ["predict"]

    monkeypatch.setattr(deploy_runpod, "try_handler", tried)
    # Each deployment another second, so that no two images have one tag.
    seconds = iter(range(1_795_357_800, 1_795_400_000))
    clock = SimpleNamespace(time=lambda: float(next(seconds)))
    monkeypatch.setattr(deploy_runpod, "time", clock)
    return found


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with runpod_rest() as found:
        monkeypatch.setenv("VISIONDYNO_RUNPOD_REST_URL", found.url)
        monkeypatch.setenv("RUNPOD_API_KEY", KEY)
        yield found
