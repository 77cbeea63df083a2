"""The local executor keeps the executor contract, with real supervised processes."""

import os
import tempfile
from dataclasses import replace
from pathlib import Path

from contracts.executor_contract import ExecutorContract
from visiondyno.executors.scaling import ScaleLimits
from visiondyno.executors.supervised import SupervisedExecutor, queue_workers

TESTS = Path(__file__).resolve().parents[1]
ENTRY = "contracts.executor_contract:run_test_operation"


def worker_environ() -> dict[str, str]:
    """Workers find the test operations."""
    return {**os.environ, "PYTHONPATH": str(TESTS)}


_FOLDERS = tempfile.TemporaryDirectory(prefix="visiondyno-local-")


ONE_WORKER = ScaleLimits(1, 1, 60.0)


def make_local(scale: ScaleLimits = ONE_WORKER) -> SupervisedExecutor:
    folder = Path(tempfile.mkdtemp(dir=_FOLDERS.name))
    workers = queue_workers(str(folder / "queue.sqlite3"), scale)
    return SupervisedExecutor(replace(workers, entry=ENTRY), environ=worker_environ())


class TestLocalExecutor(ExecutorContract):
    make_executor = staticmethod(make_local)
