"""`profile` of models that torch runs."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from visiondyno.measurements.operator_costs import cost_of  # noqa: E402
from visiondyno.operations import profile_runs, profile_torch_peaks  # noqa: E402
from visiondyno.operations.context import OperationContext  # noqa: E402
from visiondyno.probes import peaks  # noqa: E402
from visiondyno.report.profile_result import Profile  # noqa: E402
from visiondyno.runtimes.base import LoadOptions  # noqa: E402
from visiondyno.runtimes.pytorch.profiling import OperatorRecorder  # noqa: E402
from visiondyno.runtimes.registry import load_model  # noqa: E402
from visiondyno.worker import run  # noqa: E402

pytestmark = pytest.mark.torch


def _recorded(module, *images):
    recorder = OperatorRecorder(torch.device("cpu"))
    for image in images:
        with torch.inference_mode(), recorder.recording():
            module(image)
    return recorder


def _network():
    torch.manual_seed(0)
    shared = torch.nn.ReLU()
    return torch.nn.Sequential(
        torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding="same"), shared),
        torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3, stride=2, padding=1), shared),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(128, 5),
    ).eval()


def test_operators_are_named_by_the_modules_that_call_them():
    found = _recorded(_network(), torch.rand(1, 3, 16, 16)).operators()
    assert [one.name for one in found] == [
        "0/0/conv2d", "0/1/relu", "1/0/conv2d", "1/1/relu", "2/max_pool2d", "3/flatten", "4/linear",
    ]  # fmt: skip
    assert found[0].outputs[0].shape == (1, 8, 16, 16)
    assert found[2].outputs[0].shape == (1, 8, 8, 8)
    assert found[4].window == 4
    assert found[6].outputs[0].shape == (1, 5)
    assert all(one.seconds > 0 for one in found)


def test_runs_are_apart_and_can_be_forgotten():
    recorder = _recorded(_network(), torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16))
    assert {one.run for one in recorder.operators()} == {0, 1}
    assert recorder.operators() == []  # of many runs they would fill the memory
    with recorder.recording():
        torch.rand(2).relu()
    recorder.forget()
    assert recorder.operators() == []


def test_nothing_stays_hooked_when_a_run_fails():
    from torch.nn.modules import module as hooks

    before = len(hooks._global_forward_pre_hooks)
    with pytest.raises(RuntimeError):
        _recorded(_network(), torch.rand(1, 4, 16, 16))
    assert len(hooks._global_forward_pre_hooks) == before


def test_a_classifier_of_torchvision_is_profiled(monkeypatch):
    pytest.importorskip("torchvision")
    monkeypatch.setattr(profile_torch_peaks, "SIDE", 128)
    monkeypatch.setattr(peaks, "_TIMES_CACHE", 0)
    monkeypatch.setattr(profile_runs, "usable_cpus_here", lambda: 1)
    job = {"operation": "profile", "model": "torchvision:mobilenet_v3_small@none", "runs": 5,
           "warm_up_runs": 1, "threads": 1}  # fmt: skip
    profile = Profile.model_validate(run(job, OperationContext())["profile"])
    # torchvision's own table says 0.06 G multiply-adds.
    assert profile.multiply_add_gflop == pytest.approx(2 * 0.0565, rel=0.02)
    assert "torch" in profile.peaks.compute_method
    names = {row.name for row in profile.operators}
    assert "features/0/0/conv2d" in names
    assert profile.times_ms.operators < 1.5 * profile.times_ms.profiled


@pytest.mark.filterwarnings("ignore")
def test_yolov8n_does_what_its_authors_say(monkeypatch):
    pytest.importorskip("ultralytics")
    options = LoadOptions(intra_op_threads=1, profile=True)
    with load_model("ultralytics:yolov8n.yaml", options) as model:
        model.infer(model.preprocess([np.zeros((640, 640, 3), np.uint8)]))
        found = model.operator_times()
    costs = [cost_of(one) for one in found]
    assert sum(c.flop for c in costs if c.is_multiply_add) / 1e9 == pytest.approx(8.7, rel=0.02)
    assert {one.run for one in found} == {0}
