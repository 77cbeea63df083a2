"""A Redis of the benchmark's own: on a free port, in a folder of its own, gone afterwards."""

import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import redis

SETTINGS = {"save": "", "appendonly": "yes", "appendfsync": "everysec"}


@contextmanager
def own_redis() -> Iterator[str]:
    """Its URL; the peers and we use the same instance, with an append-only file."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = [part for key, value in SETTINGS.items() for part in (f"--{key}", value)]
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, *options],
            stdout=subprocess.DEVNULL,
        )
        try:
            _wait_until_it_answers(port)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.kill()
            server.wait()


def _wait_until_it_answers(port: int) -> None:
    deadline_s = time.monotonic() + 10
    with redis.Redis(port=port) as client:
        while True:
            try:
                client.ping()
            except redis.ConnectionError:
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(0.02)
            else:
                return
