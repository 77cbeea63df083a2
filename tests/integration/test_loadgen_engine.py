"""MLPerf's LoadGen really runs, on a model that takes no time."""

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from measuring_stand_ins import ManualClock, TimedModel, write_numbered_images
from visiondyno.errors import MissingExtra, ModelError
from visiondyno.measuring.images import EncodedImages
from visiondyno.measuring.loadgen_engine import LoadGenPlan, run_loadgen


@pytest.fixture
def images(tmp_path: Path) -> EncodedImages:
    return EncodedImages(write_numbered_images(tmp_path, 4))


def endless(images: EncodedImages) -> Iterator[int]:
    return itertools.cycle(range(len(images)))


@pytest.mark.parametrize(
    ("plan", "batch"),
    [
        (LoadGenPlan("single-stream", 0, 80, exact=True), 1),
        (LoadGenPlan("multi-stream", 0, 70, exact=True), 8),
        (LoadGenPlan("server", 0, 700, rate_per_s=5000, limit_ms=100, exact=True), 1),
    ],
    ids=lambda value: getattr(value, "scenario", ""),
)
def test_loadgen_drives_the_model(images: EncodedImages, plan: LoadGenPlan, batch: int) -> None:
    model = TimedModel(ManualClock())
    report = run_loadgen(model, images, endless(images), plan)
    assert model.batch_sizes == [batch] * plan.queries
    assert report.verdict in {"VALID", "INVALID"}
    assert report.percentiles_ms[0.5] <= report.percentiles_ms[0.9] <= report.percentiles_ms[0.99]
    assert report.version[0].isdigit()
    assert "MLPerf Results Summary" in report.summary


def test_offline_is_one_query_answered_in_batches(images: EncodedImages) -> None:
    model = TimedModel(ManualClock())
    plan = LoadGenPlan("offline", 0.1, 1, rate_per_s=1000)
    report = run_loadgen(model, images, endless(images), plan)
    assert sum(model.batch_sizes) >= 100
    assert max(model.batch_sizes) == 16
    assert report.rate_per_s is not None
    assert report.rate_per_s > 0


def test_an_error_of_the_model_comes_back_and_loadgen_ends(images: EncodedImages) -> None:
    def fail(query: int) -> float:
        if query == 10:
            raise ModelError("The model's output holds NaN.")
        return 0.0

    model = TimedModel(ManualClock(), inference_ms=fail)
    plan = LoadGenPlan("single-stream", 0, 80, exact=True)
    with pytest.raises(ModelError, match="NaN"):
        run_loadgen(model, images, endless(images), plan)


def test_without_loadgen_the_error_names_the_extra(
    images: EncodedImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(MissingExtra, match=r"visiondyno\[loadgen\]"):
        run_loadgen(
            TimedModel(ManualClock()), images, endless(images), LoadGenPlan("offline", 0, 1)
        )
