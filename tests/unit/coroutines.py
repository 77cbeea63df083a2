"""Runs what a test wrote as a coroutine."""

import asyncio
from collections.abc import Coroutine
from typing import Any


def run(scenario: Coroutine[Any, Any, Any]) -> Any:
    """What it gives, within a minute."""
    return asyncio.run(asyncio.wait_for(scenario, timeout=60))
