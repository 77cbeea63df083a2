"""The one place that chooses: which executor runs the jobs."""

from visiondyno import worker
from visiondyno.executors.base import Executor
from visiondyno.executors.inline import InlineExecutor


def make_executor() -> Executor:
    """The executor for this process: `inline`, the only one so far. Needs a running event loop."""
    return InlineExecutor(worker.run)
