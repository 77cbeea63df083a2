"""`dyno loadtest --strategies`: both strategies on real servers, told truly."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from visiondyno.errors import OperationFailed
from visiondyno.loadtest.strategies import StrategyPlan
from visiondyno.loadtest.strategy_test import run_strategy_test
from visiondyno.report.load_test import LoadTestResult
from visiondyno.report.load_test_html import load_test_html

QUICK = StrategyPlan(
    "fake:detection",
    replicas=1,
    idle_timeout_s=1.0,
    rate_per_s=20.0,
    steady_s=1.5,
    burst_rate_per_s=20.0,
    burst_s=0.5,
    cold_starts=1,
    idle_s=1.5,
    usd_per_replica_hour=0.36,
)


@pytest.mark.slow
def test_both_strategies_go_through_the_same_pattern() -> None:
    said: list[str] = []
    result = asyncio.run(run_strategy_test(QUICK, lambda told: said.append(told.stage)))
    warm, scaled = result.strategies
    assert (warm.strategy, warm.replicas) == ("always-warm", "1")
    assert (scaled.strategy, scaled.replicas) == ("scale-to-zero", "0-1")
    assert {one.replicas for one in warm.samples} == {1}
    assert {0, 1} <= {one.replicas for one in scaled.samples}
    for row in result.strategies:
        assert row.measures["error_fraction"].value == 0.0
        assert row.measures["burst_error_fraction"].value == 0.0
        assert row.measures["warm_latency_p50_ms"].n == 30
    # Whoever comes first after idling waits for the start of a replica, and is told of its parts.
    first = scaled.cold_starts[-1]
    assert first.kind == "idle"
    assert first.told_by == "Server-Timing"
    assert first.process_start_ms is not None
    assert first.total_ms > first.process_start_ms
    assert warm.cold_starts[-1].told_by is None
    assert warm.cold_starts[-1].total_ms < first.total_ms
    idle = [row.measures["idle_memory_bytes"].value for row in (warm, scaled)]
    assert idle[0] is not None
    assert idle[1] is not None
    assert idle[1] < idle[0]
    paid = [row.measures["cost_usd_per_1000_requests"].value for row in (warm, scaled)]
    assert paid[0] is not None
    assert paid[1] is not None
    assert any("first visitor" in text for text in said)
    again = LoadTestResult.model_validate_json(result.model_dump_json())
    assert "scale-to-zero" in load_test_html(again)


def test_a_model_that_cannot_be_served_is_told_by_its_own_words(tmp_path: Path) -> None:
    plan = StrategyPlan(str(tmp_path / "none.onnx"), cold_starts=1)
    with pytest.raises(OperationFailed, match=r"none\.onnx"):
        asyncio.run(run_strategy_test(plan, logs=tmp_path))
    assert "none.onnx" in (tmp_path / "always-warm.log").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_command_prints_the_table_and_writes_the_record(tmp_path: Path) -> None:
    done = dyno_strategies(
        *("fake:detection", "--replicas", "1", "--idle-timeout", "1s", "--duration", "1s"),
        *("--repeat", "1", "--out", str(tmp_path / "report")),
    )
    assert done.returncode == 0, done.stderr
    assert "always-warm" in done.stdout
    assert "scale-to-zero" in done.stdout
    record = json.loads((tmp_path / "report" / "loadtest.json").read_text())
    assert [row["strategy"] for row in record["strategies"]] == ["always-warm", "scale-to-zero"]


@pytest.mark.parametrize(
    ("others", "word"),
    [
        (("http://127.0.0.1:1",), "servers of its own"),
        (("--fail-if", "p99>1s"), "--fail-if"),
        (("--cold-start",), "--cold-start"),
        (("--rounds", "3"), "--rounds"),
        (("--idle-timeout", "0"), "--idle-timeout must be above 0"),
    ],
    ids=["a URL", "a condition", "cold starts", "rounds", "no time"],
)
def test_what_strategies_would_not_heed_is_refused(others: tuple[str, ...], word: str) -> None:
    done = dyno_strategies("fake:detection", *others)
    assert done.returncode == 2
    assert word in done.stderr


def test_strategies_of_a_model_that_is_not_there_start_nothing(tmp_path: Path) -> None:
    out = tmp_path / "report"
    done = dyno_strategies(str(tmp_path / "none.onnx"), "--out", str(out))
    assert done.returncode != 0
    assert "none.onnx" in done.stderr
    assert not out.exists()


def dyno_strategies(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "visiondyno", "loadtest", "--strategies", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
