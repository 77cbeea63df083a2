"""Real worker processes that run the executor contract's operations."""

import os
from dataclasses import replace
from pathlib import Path

from visiondyno.executors.scaling import ScaleLimits
from visiondyno.executors.supervised import SupervisedExecutor, queue_workers

TESTS = Path(__file__).resolve().parent
ENVIRON = {**os.environ, "PYTHONPATH": str(TESTS)}
CONTRACT = "contracts.executor_contract:run_test_operation"


def one_worker_on(queue: str) -> SupervisedExecutor:
    """An executor with one worker for the contract's operations."""
    workers = queue_workers(queue, ScaleLimits(1, 1, 60.0))
    return SupervisedExecutor(replace(workers, entry=CONTRACT), environ=ENVIRON)
