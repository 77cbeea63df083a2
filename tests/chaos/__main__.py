"""`make chaos`: the whole of it, on `local` and on `redis`; the last line is the figures."""

import asyncio
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from chaos.run import Figures, Plan, run_plan

SHORT_JOBS = Plan(jobs=2000, job_s=0.04, kill_every_s=1.0)
LONG_JOBS = Plan(jobs=50, job_s=8.0, kill_every_s=15.0, kill_server_at_s=20.0)
REDIS_AT_S = (35.0, 55.0, 75.0)


def main() -> int:
    """0 if every promise was kept in every run."""
    done: list[Figures] = []
    with tempfile.TemporaryDirectory(prefix="visiondyno-chaos-") as home:
        for name, plan, on_redis in (
            ("local-short", SHORT_JOBS, False),
            ("local-long", LONG_JOBS, False),
            ("redis-short", SHORT_JOBS, True),
            ("redis-long", Plan(**{**asdict(LONG_JOBS), "redis_attacks_at_s": REDIS_AT_S}), True),
        ):
            print(f"{name}: {plan.jobs} jobs of {plan.job_s} s …", flush=True)
            figures = asyncio.run(run_plan(plan, Path(home) / name, on_redis=on_redis))
            print(f"{name}: {figures.line()}", flush=True)
            done.append(figures)
    clean = all(figures.is_clean for figures in done)
    print(json.dumps({"clean": clean, **_sums(done)}))
    return 0 if clean else 1


def _sums(done: list[Figures]) -> dict[str, float]:
    counted = ("jobs", "completed", "lost", "recorded_twice", "wrong_checksums", "executions")
    counted += ("workers_killed", "jobs_interrupted", "orphans", "leases_left")
    sums: dict[str, float] = {name: sum(getattr(one, name) for one in done) for name in counted}
    sums["slowest_rerun_s"] = max(one.slowest_rerun_s or 0.0 for one in done)
    return sums


if __name__ == "__main__":
    sys.exit(main())
