"""The comparison of scaling strategies as the record of a load test."""

import asyncio
import dataclasses
import datetime
from pathlib import Path

from visiondyno import __version__
from visiondyno.loadtest.run import OnProgress, RunProgress
from visiondyno.loadtest.strategies import StrategyPlan, run_strategies
from visiondyno.probes.machine import capture_environment
from visiondyno.probes.quiet import check_quiet
from visiondyno.report.load_test import LoadTestResult

_QUIET_S = 0.5


async def run_strategy_test(
    plan: StrategyPlan, on_progress: OnProgress = lambda _: None, logs: Path | None = None
) -> LoadTestResult:
    """Compare the strategies on this machine; a record without targets.

    Args:
        plan: what both go through.
        on_progress: told of each step.
        logs: folder that keeps what the servers write, `STRATEGY.log`; None: nothing is kept.

    Raises:
        SpecError, OperationFailed, TimeLimitExceeded: as `run_strategies`.
    """
    created_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    quietness = await asyncio.to_thread(check_quiet, _QUIET_S)
    environment = await asyncio.to_thread(capture_environment)
    rows = await run_strategies(plan, lambda text: on_progress(RunProgress(text)), logs)
    return LoadTestResult(
        version=__version__,
        created_at=created_at,
        spec=dataclasses.asdict(plan),
        environment=environment.model_dump(mode="json"),
        targets=(),
        strategies=rows,
        quiet=quietness.quiet,
        quiet_reasons=quietness.reasons,
    )
