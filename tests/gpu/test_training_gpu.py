"""Training on real GPUs: in each precision, and over several of them."""

from typing import Any

import pytest

from visiondyno.specs.training import Hyperparameters, SequentialConfig

torch = pytest.importorskip("torch")
# A machine that was lent with torch may lack zstandard: the other tests are to run there.
data = pytest.importorskip("visiondyno.training.data")
fit = pytest.importorskip("visiondyno.training.fit")
modules = pytest.importorskip("visiondyno.training.modules")
session = pytest.importorskip("visiondyno.training.session")
pytestmark = [pytest.mark.gpu, pytest.mark.torch]

CONFIG = SequentialConfig.model_validate(
    {
        "type": "sequential",
        "layers": [
            {"type": "linear", "in_features": 4, "out_features": 16},
            {"type": "relu"},
            {"type": "linear", "in_features": 16, "out_features": 2},
        ],
    }
)


def trained(device: str, **hyper: object) -> Any:
    values = torch.randn(256, 4, generator=torch.Generator().manual_seed(0))
    samples = data.TensorSamples(values, (values[:, 0] > 0).long())
    parts = Hyperparameters.model_validate({"learning_rate": 0.05, "batch_size": 64} | hyper)
    training = session.TrainingSession(modules.build_module(CONFIG), parts, torch.device(device))
    fit.fit(training, samples, samples, 5)
    return training


@pytest.mark.parametrize("precision", ["none", "fp16", "bf16"])
def test_a_gpu_learns_what_the_processor_learns(precision: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    here = trained("cpu").history[-1]["val_metrics"]
    there = trained("cuda:0", mixed_precision=precision, data_parallel=False)
    assert there.history[-1]["val_metrics"]["loss"] == pytest.approx(here["loss"], abs=0.05)
    assert there.module[0].weight.device.type == "cuda"


def test_several_gpus_learn_what_one_learns() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    one = trained("cuda:0", data_parallel=False).module.state_dict()
    several = trained("cuda:0", data_parallel=True).module.state_dict()
    assert one.keys() == several.keys()
    assert all(torch.allclose(one[name], several[name], atol=1e-4) for name in one)
