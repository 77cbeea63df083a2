"""The executor over RunPod's job API keeps the executor contract, against a live server's /v2."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts.executor_contract import ExecutorContract
from live_api import LiveApi
from visiondyno.executors.runpod import RunPodExecutor


class TestRunPodExecutor(ExecutorContract):
    place_is_by_arrival = "RunPod's job API has no time of submission"

    @pytest.fixture(autouse=True)
    def an_endpoint(self, tmp_path: Path) -> Iterator[None]:
        with LiveApi(tmp_path, rate_limit_per_minute=0) as live:

            def make() -> RunPodExecutor:
                return RunPodExecutor(f"{live.url}/v2/default")

            type(self).make_executor = staticmethod(make)
            yield
