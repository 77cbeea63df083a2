"""The executor over a server keeps the executor contract, against a live one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts.executor_contract import ExecutorContract
from live_api import LiveApi
from visiondyno.executors.server import ServerExecutor


class TestServerExecutor(ExecutorContract):
    place_is_by_arrival = "its API has no time of submission: a server puts back its jobs itself"

    @pytest.fixture(autouse=True)
    def a_server(self, tmp_path: Path) -> Iterator[None]:
        with LiveApi(tmp_path, rate_limit_per_minute=0) as live:

            def make() -> ServerExecutor:
                return ServerExecutor(live.url)

            type(self).make_executor = staticmethod(make)
            yield
