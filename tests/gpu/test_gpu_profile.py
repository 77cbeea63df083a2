"""`profile` of a model that torch runs on a GPU."""

import pytest

from visiondyno.operations.context import OperationContext
from visiondyno.report.profile_result import Profile
from visiondyno.worker import run

pytestmark = [pytest.mark.gpu, pytest.mark.torch]


def test_kernels_of_a_gpu_are_timed_and_held_to_its_own_limits():
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    pytest.importorskip("pydantic_settings")
    if not torch.cuda.is_available():
        pytest.skip("torch finds no GPU")
    job = {"operation": "profile", "model": "torchvision:resnet50@none", "device": "cuda",
           "batch_size": 8, "runs": 10}  # fmt: skip
    profile = Profile.model_validate(run(job, OperationContext())["profile"])
    assert "on cuda" in profile.peaks.memory_method
    assert profile.peaks.gflop_per_s > 100
    assert 0 < profile.times_ms.operators < 1.5 * profile.times_ms.profiled
    # torchvision's table: 4.09 G multiply-adds an image.
    assert profile.multiply_add_gflop == pytest.approx(8 * 2 * 4.09, rel=0.02)
