"""The short form of `make chaos`: workers, server and Redis are killed, and nothing is lost."""

import asyncio
from pathlib import Path

import pytest

from chaos.run import Plan, run_plan

pytestmark = pytest.mark.slow

PLAN = Plan(jobs=120, job_s=0.2, kill_every_s=2.0, kill_server_at_s=4.0, limit_s=200.0)


@pytest.mark.timeout(280)
def test_nothing_is_lost_on_the_local_queue(tmp_path: Path) -> None:
    figures = asyncio.run(run_plan(PLAN, tmp_path / "run", on_redis=False))
    assert figures.is_clean, figures.line()
    assert figures.workers_killed > 0


@pytest.mark.timeout(280)
def test_nothing_is_lost_on_redis_even_flushed(tmp_path: Path) -> None:
    plan = Plan(
        jobs=120,
        job_s=0.2,
        kill_every_s=2.0,
        kill_server_at_s=3.0,
        redis_attacks_at_s=(1.0, 6.0, 9.0),
        limit_s=200.0,
    )
    figures = asyncio.run(run_plan(plan, tmp_path / "run", on_redis=True))
    assert figures.is_clean, figures.line()
    assert figures.executions > 0
