"""`spec.yaml` of a report is the test that was run, to the last null of a body."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from load_test_factory import a_result
from visiondyno.cli.loadtest_options import spec_of
from visiondyno.report.load_test_html import spec_yaml
from visiondyno.specs.load_test import (
    ClosedLoad,
    LoadTestSpec,
    PoissonLoad,
    Pricing,
    RampLoad,
    SpikeLoad,
    TargetSpec,
    WatchedMetrics,
)

words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False,
    allow_infinity=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def read_back(spec: LoadTestSpec, folder: Path) -> LoadTestSpec:
    file = folder / "spec.yaml"
    result = a_result().model_copy(update={"spec": spec.model_dump(mode="json")})
    file.write_text(spec_yaml(result), encoding="utf-8")
    return spec_of((), file, {})


@pytest.mark.parametrize(
    "load",
    [PoissonLoad(rate_per_s=0.1), RampLoad(from_rate_per_s=0, to_rate_per_s=3), SpikeLoad(),
     ClosedLoad(concurrency=2, requests=9)],
    ids=lambda load: load.kind,
)  # fmt: skip
def test_every_load_is_repeated_alike(load, tmp_path):
    target = TargetSpec(
        url="http://host/a?b=1", headers={"X-On": "yes", "X-Number": "1e3"}, images=("a b.jpg",),
        expect_status=(200, 404), watch=WatchedMetrics(), pricing=Pricing(usd_per_hour=0.1),
    )  # fmt: skip
    spec = LoadTestSpec(targets=(target, target), load=load, rounds=3, latency_limit_ms=9.5, seed=5)
    assert read_back(spec, tmp_path) == spec


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(json_values.filter(lambda value: value is not None))
def test_every_json_body_is_sent_again_alike(tmp_path, body):
    spec = LoadTestSpec(targets=(TargetSpec(url="http://host/", json_body=body),))
    assert read_back(spec, tmp_path) == spec
