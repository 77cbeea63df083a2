"""Fixtures that every test may use."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from services import RedisInstance, binary, new_database, postgres_server, redis_server

# The machines are noisy: how long an example takes says nothing about the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

ROOT = Path(__file__).resolve().parents[1]

# Rendered scenes and cached passes of the tests stay in the checkout, shared by all test processes.
os.environ["XDG_CACHE_HOME"] = str(ROOT / ".cache")

# Two test processes on two cores: threads of torch that wait for each other by spinning take
# minutes for what one does in seconds. Must stand before anything imports torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Where the tests run in the background of a shell without job control, SIGINT is ignored, under
# nohup SIGHUP, and every process that they start would ignore it too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

SHARED_TESTDATA = Path(__file__).resolve().parents[2] / "shared" / "testdata"


@pytest.fixture(scope="session")
def shared_testdata() -> Path:
    """Real models and images beside the checkout: absent is a skip here and a failure on CI."""
    if not SHARED_TESTDATA.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"{SHARED_TESTDATA} is absent on CI")
        pytest.skip("no ../shared/testdata beside this checkout")
    return SHARED_TESTDATA


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a command's `--offline` switches off in this process is on again for the next test."""
    for name in ("VISIONDYNO_OFFLINE", "HF_HUB_OFFLINE"):
        # Set first: only then is what the test leaves there taken back.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    yield
    # Read once, when the library is imported, be it by a test that was offline.
    if hub := sys.modules.get("huggingface_hub.constants"):
        hub.HF_HUB_OFFLINE = False  # type: ignore[attr-defined] # a module


@pytest.fixture(scope="session")
def redis_instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisInstance]:
    """One Redis for the whole run: flush it, or use keys of your own; never stop it."""
    with redis_server(tmp_path_factory.mktemp("redis")) as instance:
        yield instance


@pytest.fixture
def redis_url(redis_instance: RedisInstance) -> str:
    """URL of an empty Redis."""
    redis_instance.flush()
    return redis_instance.url


@pytest.fixture(scope="session")
def postgres_server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of one PostgreSQL server for the whole run."""
    with postgres_server(tmp_path_factory.mktemp("postgres")) as url:
        yield url


@pytest.fixture
def postgres_url(postgres_server_url: str) -> Iterator[str]:
    """URL of an empty database of its own."""
    with new_database(postgres_server_url) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium of Playwright's synchronous face, for the tests of one file.

    Not for the whole run: while it is open, its event loop counts as running in this thread.
    """
    sync_api = pytest.importorskip("playwright.sync_api")
    arguments = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--no-first-run",
    ]
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=binary("chromium"), args=arguments)
        yield started
        started.close()
