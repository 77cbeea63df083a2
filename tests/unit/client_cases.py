"""Inputs and the executor for the tests of the clients."""

from typing import Any

from contracts.executor_contract import run_test_operation
from visiondyno.executors.inline import InlineExecutor

ENDLESS = {"operation": "until stopped"}


def echo(say: str = "hi", steps: int = 0) -> dict[str, Any]:
    """An input that is said back, after so many steps of progress."""
    return {"operation": "echo", "say": say, "steps": steps}


def inline() -> InlineExecutor:
    """An executor of the tests' operations in this process."""
    return InlineExecutor(run_test_operation)
