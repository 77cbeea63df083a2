"""What a worker process measures of a trial, as a study gets it."""

import asyncio
from typing import Any

import pytest

from visiondyno.client.async_client import AsyncClient
from visiondyno.errors import Unavailable
from visiondyno.job import JobEvent
from visiondyno.probes.energy import EnergyProbe
from visiondyno.tuning.body import JobBody, Result
from visiondyno.tuning.objectives import parse_objectives
from visiondyno.tuning.trial import TrialRecord

pytest.importorskip("torch")
pytestmark = pytest.mark.torch

OBJECTIVES = parse_objectives(["val_accuracy", "latency_ms", "energy_joules", "parameters"])


class Silent:
    """Lets every trial go on; notes what was reported."""

    def __init__(self) -> None:
        self.reports: list[tuple[float, ...]] = []

    def started(self, job_id: str) -> None:
        pass

    def event(self, event: JobEvent) -> None:
        pass

    def report(self, step: int, values: Any) -> None:
        assert step == len(self.reports) + 1
        self.reports.append(tuple(values))


def job_of(trial: TrialRecord) -> dict[str, Any]:
    layers = [
        {"type": "flatten"},
        {"type": "linear", "in_features": 1024, "out_features": trial.params["width"]},
        {"type": "relu"},
        {"type": "linear", "in_features": trial.params["width"], "out_features": 10},
    ]
    return {
        "operation": "train",
        "model_config": {"type": "sequential", "layers": layers},
        "training_data": "digits:train:200",
        "validation_data": "digits:val:100",
        "epochs": 2,
        "seed": trial.seed,
        "threads": 1,
        "measure_seconds": 0.6 if EnergyProbe().available() else 3.0,
    }


def test_a_worker_process_measures_what_the_study_optimises() -> None:
    heard = Silent()

    async def scenario() -> list[Result]:
        async with AsyncClient("local", workers=1) as client:
            body = JobBody(OBJECTIVES, job_of, allow_estimated=True)
            trials = [TrialRecord(n, n, {"width": width}) for n, width in enumerate((8, 64))]
            results = [await body.run(trials[0], client, heard)]
            heard.reports.clear()
            results.append(await body.run(trials[1], client, heard))
            if EnergyProbe().available() is not None:
                with pytest.raises(Unavailable, match="--allow-estimated"):
                    await JobBody(OBJECTIVES, job_of).run(trials[0], client, Silent())
            return results

    narrow, wide = asyncio.run(asyncio.wait_for(scenario(), timeout=200))
    for result, width in ((narrow, 8), (wide, 64)):
        accuracy, latency_ms, joules, parameters = result.values
        assert 0 < accuracy <= 1
        assert 0 < latency_ms < 1000
        assert 0 < joules < 1000
        assert parameters == 1025 * width + 10 * (width + 1)
        energy = result.measured["measurements"]["energy_joules"]
        assert energy["estimated"] is (EnergyProbe().available() is not None)
        assert [one["epoch"] for one in result.measured["health"]] == [1, 2]
        assert all(one["gradient_norm_max"] > 0 for one in result.measured["health"])
    assert [values[1:] for values in heard.reports] == [wide.values[1:]] * 2
