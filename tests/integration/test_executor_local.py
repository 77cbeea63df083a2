"""The local executor keeps the executor contract, with real supervised processes."""

import tempfile
from pathlib import Path

from contracts.executor_contract import ExecutorContract
from visiondyno.executors.supervised import SupervisedExecutor
from worker_entries import one_worker_on

_FOLDERS = tempfile.TemporaryDirectory(prefix="visiondyno-local-")


def make_local() -> SupervisedExecutor:
    folder = Path(tempfile.mkdtemp(dir=_FOLDERS.name))
    return one_worker_on(str(folder / "queue.sqlite3"))


class TestLocalExecutor(ExecutorContract):
    make_executor = staticmethod(make_local)
