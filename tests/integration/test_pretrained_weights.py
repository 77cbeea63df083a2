"""The published weights that trainings begin with: those of each library, by its own names."""

import hashlib
import io
from pathlib import Path
from typing import Any

import pytest

from visiondyno.errors import ModelError, Unavailable
from visiondyno.operations.context import OperationContext
from visiondyno.operations.initial_weights import initial_weights
from visiondyno.operations.worker_files import WorkerFiles
from visiondyno.runtimes.weights import weights_folder
from visiondyno.specs.vision_training import TrainVisionInput
from visiondyno.training.vision.choosing import choose_trainer

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

SMALL = "test_efficientnet.r160_in1k"
COMMIT = "0" * 40


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("VISIONDYNO_OFFLINE", "1")
    return tmp_path


def begun_with(model: str) -> tuple[dict[str, Any] | None, str | None]:
    spec = TrainVisionInput.model_validate(
        {"model": model, "data": "street", "level": "image", "pretrained": True}
    )
    chosen = choose_trainer(model, "image")
    return initial_weights(spec, chosen, WorkerFiles.of_this_worker(), OperationContext())


def test_torchvisions_are_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    models = pytest.importorskip("torchvision.models")
    with pytest.raises(Unavailable, match="dyno models pull torchvision:mobilenet_v3_small"):
        begun_with("torchvision:mobilenet_v3_small")
    stream = io.BytesIO()
    state = models.mobilenet_v3_small().state_dict()
    torch.save(state, stream)
    digits = hashlib.sha256(stream.getvalue()).hexdigest()[:8]
    file = weights_folder() / f"mobilenet_v3_small-{digits}.pth"
    weights = models.MobileNet_V3_Small_Weights.DEFAULT
    monkeypatch.setattr(weights.value, "url", f"http://127.0.0.1:9/{file.name}")
    file.parent.mkdir(parents=True)
    file.write_bytes(stream.getvalue())
    found, digest = begun_with("torchvision:mobilenet_v3_small")
    assert found is not None
    assert digest is not None
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
    file.write_bytes(stream.getvalue()[:-1])
    with pytest.raises((ModelError, Unavailable)):
        begun_with("torchvision:mobilenet_v3_small")


def test_timms_come_from_the_hubs_cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    constants = pytest.importorskip("huggingface_hub.constants")
    safetensors = pytest.importorskip("safetensors.torch")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    state = timm.create_model(SMALL).state_dict()
    place = home / "hub" / f"models--timm--{SMALL}"
    (place / "snapshots" / COMMIT).mkdir(parents=True)
    (place / "snapshots" / COMMIT / "model.safetensors").write_bytes(safetensors.save(state))
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(COMMIT)
    found, digest = begun_with(f"timm:{SMALL}")
    assert found is not None
    assert digest is not None
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
