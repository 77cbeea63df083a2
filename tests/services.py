"""Redis and PostgreSQL for tests: each starts its own, on a free port, in a folder of its own."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

_NUMBERS = count(1)
START_S = 60.0
"""How long a server may take to answer; only a broken one takes so long."""


def binary(name: str) -> str:
    """Path of a server's program; absent is a skip here and a failure on CI."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    path = os.pathsep.join([os.environ.get("PATH", ""), *map(str, folders), "/usr/sbin"])
    found = shutil.which(name, path=path)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is absent on CI")
        pytest.skip(f"{name} isn't installed")
    return found


def free_port() -> int:
    """A TCP port that nothing listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(answers: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> bool:
    """Wait until a server answers; False if its process ended first."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if answers():
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.02)
    pytest.fail(f"The server doesn't answer:\n{log.read_text(errors='replace')}")


@dataclass
class RedisInstance:
    """A redis-server that keeps its data (appendonly) over `restart` and `kill` + `start`."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, on the port it had."""
        program = binary("redis-server")
        log = self.folder / "redis.log"
        arguments = (
            f"--port {self.port} --bind 127.0.0.1 --dir {self.folder} --appendonly yes"
            f" --appendfsync everysec --logfile {log}"
        ).split()
        log.touch()
        self.process = subprocess.Popen([program, *arguments, "--save", ""])
        if not until(self._answers, self.process, log):
            pytest.fail(f"redis-server ended at once:\n{log.read_text(errors='replace')}")

    def stop(self) -> None:
        """End it in good order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL it; `start` brings it back with what its append-only file holds."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop it in good order and start it with its data."""
        self.stop()
        self.start()

    def flush(self) -> None:
        """Empty it."""
        import redis

        with redis.Redis(port=self.port) as client:
            client.flushall()

    def _answers(self) -> bool:
        import redis

        try:
            with redis.Redis(port=self.port, socket_timeout=5) as client:
                return bool(client.ping())
        except redis.RedisError:  # refused, or still loading its file
            return False

    def _end(self, how: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(START_S)
            self.process = None


@contextmanager
def redis_server(folder: Path) -> Iterator[RedisInstance]:
    """A redis-server of one's own, ended with the block."""
    folder.mkdir(parents=True, exist_ok=True)
    instance = RedisInstance(folder)
    try:
        instance.start()
        yield instance
    finally:
        instance.kill()


@contextmanager
def postgres_server(folder: Path) -> Iterator[str]:
    """A PostgreSQL server of one's own, ended with the block; yields its database's URL.

    `folder` gets its log. Its data lies elsewhere: PostgreSQL refuses to run as root, and other
    users can't enter pytest's folders.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "postgres.log"
    port = free_port()
    with TemporaryDirectory(prefix="postgres-test-", ignore_cleanup_errors=True) as home:
        as_whom = _unprivileged(Path(home))
        locale = ["--encoding=UTF8", "--locale=C", "--auth=trust", "--no-sync"]
        with log.open("ab") as out:
            initdb = [binary("initdb"), "-D", f"{home}/data", "-U", "dyno", *locale]
            subprocess.run([*as_whom, *initdb], check=True, stdout=out, cwd=home, timeout=300)
            where = f"-c port={port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
            # Unsafe against power loss only: a test's data isn't kept.
            unsafe = "-c fsync=off -c full_page_writes=off -c shared_buffers=16MB"
            postgres = [binary("postgres"), "-D", f"{home}/data", *f"{where} {unsafe}".split()]
            process = subprocess.Popen([*as_whom, *postgres], stdout=out, stderr=out, cwd=home)
        url = f"postgresql://dyno@127.0.0.1:{port}/postgres"
        try:
            if not until(lambda: _takes_connections(url), process, log):
                pytest.fail(f"postgres ended at once:\n{log.read_text(errors='replace')}")
            yield url
        finally:
            process.send_signal(signal.SIGINT)  # fast shutdown: ends what is connected
            process.wait(START_S)


@contextmanager
def new_database(server_url: str) -> Iterator[str]:
    """An empty database on a PostgreSQL server, dropped with the block; yields its URL."""
    import psycopg

    name = f"test_{next(_NUMBERS)}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    try:
        yield f"{server_url.rpartition('/')[0]}/{name}"
    finally:
        with psycopg.connect(server_url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def _unprivileged(folder: Path) -> list[str]:
    """The words before a command that run it as a user that PostgreSQL accepts."""
    if os.geteuid() != 0:
        return []
    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        user = pwd.getpwnam("nobody")
    os.chown(folder, user.pw_uid, user.pw_gid)
    identity = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    return [binary("setpriv"), *identity, "--"]


def _takes_connections(url: str) -> bool:
    import psycopg

    try:
        psycopg.connect(url, connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True
