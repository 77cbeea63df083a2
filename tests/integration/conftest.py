"""One API for all tests of a file; a file whose server differs has fixtures of its own."""

from collections.abc import Iterator

import httpx
import pytest

from live_api import LiveApi


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    with LiveApi(tmp_path_factory.mktemp("home"), rate_limit_per_minute=0) as live:
        yield live


@pytest.fixture(scope="module")
def client(api: LiveApi) -> Iterator[httpx.Client]:
    with api.client() as client:
        yield client
