"""What is asked of this machine goes past the environment's proxies, and so do its keys."""

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from requests.utils import should_bypass_proxies

from visiondyno.blobs.http import HttpBlobs
from visiondyno.deployments.rest_api import RunPodRest
from visiondyno.emulator.config import EndpointConfig
from visiondyno.emulator.emulator import Emulator
from visiondyno.emulator.serve import RunningEmulator
from visiondyno.errors import VisionDynoError
from visiondyno.executors.runpod import RunPodExecutor
from visiondyno.executors.server import ServerExecutor
from visiondyno.http_client import ServerClient
from visiondyno.loopback import is_loopback, past_proxies

KEY = "rpa_TESTKEY0123456789"


@contextmanager
def noting_server() -> Iterator[tuple[str, list[str]]]:
    """Answers 404 to everything; its URL, and the keys that came."""
    keys: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            keys.append(self.headers.get("Authorization", ""))
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            """Not to the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", keys
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ask_runpod(url: str) -> None:
    async def main() -> None:
        executor = RunPodExecutor(f"{url}/v2/mine", KEY)
        with pytest.raises(VisionDynoError):
            await executor.health()
        await executor.close()

    asyncio.run(main())


def ask_server(url: str) -> None:
    async def main() -> None:
        executor = ServerExecutor(url, KEY)
        with pytest.raises(VisionDynoError):
            await executor.health()
        await executor.close()

    asyncio.run(main())


def ask_blobs(url: str) -> None:
    async def main() -> None:
        blobs = HttpBlobs(f"{url}/blobs", KEY)
        assert not await blobs.has("0" * 64)
        await blobs.close()

    asyncio.run(main())


def ask_rest(url: str) -> None:
    with RunPodRest(url, KEY) as rest:
        assert rest.found("/endpoints/none") is None


def ask_as_command(url: str) -> None:
    with closing(ServerClient(url, KEY)) as client, pytest.raises(VisionDynoError):
        client.health()


@pytest.mark.parametrize(
    "ask",
    [ask_runpod, ask_server, ask_blobs, ask_rest, ask_as_command],
    ids=lambda ask: ask.__name__,
)
def test_no_proxy_is_given_a_key_that_is_for_this_machine(
    monkeypatch: pytest.MonkeyPatch, ask: Callable[[str], None]
) -> None:
    with noting_server() as (proxy, told_proxy), noting_server() as (url, told):
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        ask(url)
    assert told_proxy == []
    assert set(told) == {f"Bearer {KEY}"}


@pytest.mark.parametrize(
    ("url", "is_here"),
    [
        ("http://127.0.0.1:8010/v2/emulator", True),
        ("http://127.8.9.1", True),
        ("http://localhost:1", True),
        ("http://[::1]:8010", True),
        ("http://localhost.example", False),
        ("http://10.0.0.1", False),
        ("https://api.runpod.ai/v2/mine", False),
        ("http://", False),
    ],
)
def test_what_is_this_machine(monkeypatch: pytest.MonkeyPatch, url: str, is_here: bool) -> None:
    host = httpx.URL(url).host
    assert is_loopback(host) is is_here
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with httpx.Client(mounts=past_proxies(url)) as client:
        through = [
            one for pattern, one in client._mounts.items() if pattern.matches(httpx.URL(url))
        ]
    assert bool(through and through[0] is None) is is_here


@pytest.mark.parametrize("told", [None, "mine.example"])
def test_workers_of_the_emulator_ping_it_past_proxies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str | None
) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    if told is not None:
        monkeypatch.setenv("NO_PROXY", told)
    file, part = tmp_path / "environ", tmp_path / "part"
    write = "import json, os, sys; json.dump(dict(os.environ), open(sys.argv[1], 'w'))"
    rename = "; os.rename(sys.argv[1], sys.argv[2]); import time; time.sleep(60)"
    command = [sys.executable, "-c", write + rename, str(part), str(file)]
    config = EndpointConfig(workers_min=1, workers_max=1)
    with RunningEmulator(lambda: Emulator(config, command, log_folder=tmp_path)) as running:
        while not file.exists():
            time.sleep(0.01)
        url = running.url
    for name, value in json.loads(file.read_text()).items():
        if name in {"no_proxy", "NO_PROXY"}:
            monkeypatch.setenv(name, value)
    assert should_bypass_proxies(url, None)
    assert should_bypass_proxies("http://mine.example", None) is (told is not None)
    assert not should_bypass_proxies("http://other.example", None)
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"]
