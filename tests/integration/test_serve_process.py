"""`dyno serve` as a process: how it starts, and how it ends."""

import contextlib
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Self

import cv2
import httpx
import numpy as np
import psutil
import pytest

from visiondyno.serving.huge_pages import with_huge_pages

PNG = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()


class ServeProcess:
    """`dyno serve` with these arguments; a context manager that leaves no process behind.

    Attributes:
        url: its address, once `ready` came back.
    """

    def __init__(self, *arguments: str, **environ: str) -> None:
        self._arguments = arguments
        self._environ = environ
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.said: list[str] = []
        self.url = ""

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "visiondyno", "serve", *self._arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **self._environ},
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children():
                child.kill()  # one that is stopped does not end with it, and holds its output open
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)

    def until(self, text: str) -> str:
        """The next line that holds it."""
        while True:
            self.said.append(self._lines.get(timeout=60))
            if text in self.said[-1]:
                return self.said[-1]

    def ready(self) -> Self:
        """Once it serves."""
        found = re.search(r"at (http://\S+)", self.until("Serving "))
        assert found is not None
        self.url = found[1]
        self.until("Ctrl-C stops it")
        return self

    def told(self, number: int) -> None:
        self.process.send_signal(number)

    def ended(self) -> tuple[int, str]:
        """Its exit code, and all it said."""
        code = self.process.wait(timeout=60)
        self._reader.join()
        while not self._lines.empty():
            self.said.append(self._lines.get())
        return code, "".join(self.said)

    def replicas(self) -> list[psutil.Process]:
        """Those that run by now; before, they are copies of the front."""
        found = []
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if "visiondyno.serving.replica" in child.cmdline():
                    found.append(child)
        return found

    def refuses_connections(self) -> None:
        """Returns once it takes no more of them."""
        port = httpx.URL(self.url).port or 0
        with contextlib.suppress(ConnectionRefusedError):
            while True:
                socket.create_connection(("127.0.0.1", port)).close()
                time.sleep(0.01)


class HalfSent:
    """A request whose body is half sent."""

    def __init__(self, url: str) -> None:
        self._raw = socket.create_connection(("127.0.0.1", httpx.URL(url).port or 0))
        head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(PNG)}\r\n"
        self._raw.sendall(head.encode() + b"Expect: 100-continue\r\n\r\n")
        assert b"100 Continue" in self._raw.recv(1000)  # the application reads the body
        self._raw.sendall(PNG[:20])

    def finish(self) -> None:
        self._raw.sendall(PNG[20:])

    def answer(self) -> bytes:
        """All that comes, until the server closes."""
        with self._raw:
            self._raw.settimeout(60)
            return b"".join(iter(lambda: self._raw.recv(65536), b""))


@pytest.fixture
def server() -> Iterator[ServeProcess]:
    with ServeProcess("fake:detection", "--port", "0") as process:
        yield process.ready()


def test_it_says_how_to_try_it_and_ends_well(server: ServeProcess) -> None:
    assert "Loading fake:detection…" in server.said[0]
    said = "".join(server.said)
    assert f"curl --data-binary @IMAGE.jpg {server.url}/predict" in said
    assert "Detection by fake 1 on cpu, fp32; replicas: 1" in said
    assert httpx.post(f"{server.url}/predict", content=PNG).status_code == 200
    server.told(signal.SIGINT)
    code, said = server.ended()
    assert code == 0
    assert said.endswith("Stopped; every request that was accepted was answered.\n")


def test_its_models_memory_is_in_huge_pages_where_they_are_for_the_asking(
    server: ServeProcess,
) -> None:
    (replica,) = psutil.Process(server.process.pid).children()
    asked = with_huge_pages(os.environ).get("GLIBC_TUNABLES")
    assert replica.environ().get("GLIBC_TUNABLES") == asked


def test_a_request_that_has_begun_is_answered(server: ServeProcess) -> None:
    begun = HalfSent(server.url)
    server.told(signal.SIGTERM)
    assert "requests to finish: 1, in at most 30 s" in server.until("Stopping")
    server.refuses_connections()
    begun.finish()
    head, _, body = begun.answer().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in head.lower()
    assert len(json.loads(body)["predictions"]) == 1
    assert server.ended()[0] == 0


def test_a_second_signal_waits_for_nobody(server: ServeProcess) -> None:
    begun = HalfSent(server.url)
    server.told(signal.SIGINT)
    server.until("Ctrl-C again stops at once")
    server.told(signal.SIGINT)
    code, said = server.ended()
    assert code == 1
    assert said.endswith("Stopped; requests that were cut off: 1.\n")
    begun.answer()


def test_what_cannot_be_finished_in_time_is_told_so() -> None:
    arguments = ("fake:detection", "--port", "0", "--drain-s", "0.5")
    with ServeProcess(*arguments) as server:
        server.ready()
        (replica,) = psutil.Process(server.process.pid).children()
        replica.suspend()  # a model that takes for ever
        answers: list[httpx.Response] = []
        asking = threading.Thread(
            target=lambda: answers.append(
                httpx.post(f"{server.url}/predict", content=PNG, timeout=60)
            )
        )
        asking.start()
        while "in_flight 1.0" not in httpx.get(f"{server.url}/metrics").text:
            time.sleep(0.01)
        server.told(signal.SIGTERM)
        code, said = server.ended()
        asking.join()
        assert code == 1
        assert "requests that were cut off: 1." in said
        assert answers[0].status_code == 503
        assert "stopped before this was answered" in answers[0].json()["detail"]
        assert not replica.is_running()


def test_a_signal_while_the_model_loads_ends_it() -> None:
    with ServeProcess("visiondyno:street-n", "--port", "0") as server:
        server.until("Loading")
        while not psutil.Process(server.process.pid).children():
            time.sleep(0.01)
        server.told(signal.SIGTERM)
        code, said = server.ended()
    assert (code, "Traceback" in said) == (0, False)


def test_runpods_load_balancer_is_told_of_the_first_start_and_of_what_follows() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    seen: list[int] = []

    def ping() -> int:
        with contextlib.suppress(httpx.ConnectError):
            answer = httpx.get(f"{url}/ping")
            assert (answer.content == b"") == answer.is_success
            seen.append(answer.status_code)
        return seen[-1] if seen else 0

    def is_told() -> bool:
        """False: the test came too late to see one of the two."""
        seen.clear()
        with ServeProcess("fake:detection", "--port", str(port)) as server:
            replica = None
            while replica is None:  # until then the front waits for the process that it spawns
                replica = next(iter(server.replicas()), None)
            replica.suspend()
            while not seen:
                ping()
            if seen == [200]:
                return False
            replica.resume()
            while ping() != 200:
                time.sleep(0.01)
            assert set(seen[:-1]) == {204}
            server.ready()
            replica.kill()
            while ping() == 200:  # until its end is seen
                if server.replicas() not in ([], [replica]):
                    return False
            assert seen[-1] == 503
            while ping() != 200:
                time.sleep(0.01)
            server.told(signal.SIGTERM)
            assert server.ended()[0] == 0
        return True

    assert any(is_told() for _ in range(5))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_as_the_first_replica_is_spawned_ends_it(number: signal.Signals) -> None:
    """The moment in which the front imports what HTTP needs: nothing listens to a signal."""
    with ServeProcess("fake:detection", "--port", "0") as server:
        server.until("Loading")
        process = psutil.Process(server.process.pid)
        while not process.children():
            pass
        (replica,) = process.children()
        server.told(number)
        code, said = server.ended()
        assert (code, "Traceback" in said, replica.is_running()) == (0, False, False)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["no-such.onnx"], "There is no model file no-such.onnx"),
        ([], "No model is given"),
        (["fake:detection", "--classes", "horse"], "There is no class 'horse'; there are car"),
        (["fake:detection", "--conf", "2"], "VISIONDYNO_SERVE_CONF"),
        (["fake:detection", "--port", "9", "--grpc-port", "9"], "give two ports"),
        (["fake:detection", "--keys-file", "no-such"], "The file of keys no-such can't be read"),
        (["fake:detection", "--replicas", "3-1"], "the smaller number first"),
    ],
    ids=range(7),
)
def test_what_cannot_be_served_is_one_sentence(arguments: list[str], says: str) -> None:
    port = [] if "--port" in arguments else ["--port", "0"]
    with ServeProcess(*arguments, *port) as server:
        code, said = server.ended()
    assert code == 2
    assert says in said
    assert "Traceback" not in said
    assert "exit code" not in said


def test_a_client_writes_nothing_into_the_log(server: ServeProcess) -> None:
    form = {"Content-Type": "multipart/form-data; boundary=X"}
    for body in (b"--Y\r\n", b"no form at all", b"--X\r\n" + b"a" * 100_000):
        answer = httpx.post(f"{server.url}/predict", content=body, headers=form)
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed")
    server.told(signal.SIGTERM)
    _, said = server.ended()
    assert "Ctrl-C stops it.\nStopped; every request" in said


def test_it_says_where_grpc_listens() -> None:
    pytest.importorskip("grpc")
    with ServeProcess("visiondyno:street-n", "--port", "0", "--grpc-port", "0") as server:
        server.ready()
        assert re.search(r"over gRPC at 127\.0\.0\.1:\d+", "".join(server.said))
        for _ in range(3):
            answer = httpx.post(f"{server.url}/predict", content=b"\0\0\0\x18ftypisom")
            assert answer.status_code == 422  # a process was spawned for it
        server.told(signal.SIGTERM)
        code, said = server.ended()
        assert code == 0
        assert "fork" not in said


def test_a_container_sets_it_by_its_environment(tmp_path: Any) -> None:
    log = tmp_path / "access.log"
    environ = {
        "VISIONDYNO_SERVE_MODEL": "fake:classification",
        "VISIONDYNO_SERVE_REPLICAS": "0-2",
        "VISIONDYNO_SERVE_CORS_ORIGINS": "https://a.example,https://b.example",
        "VISIONDYNO_SERVE_ACCESS_LOG": str(log),
        "VISIONDYNO_SERVE_HOST": "0.0.0.0",
        "PORT": "0",
    }
    with ServeProcess(**environ) as server:
        server.ready()
        assert "replicas: 0 to 2" in "".join(server.said)
        assert "Whoever reaches this address may use it" in "".join(server.said)
        headers = {"Host": "models.example", "Origin": "https://b.example"}
        answer = httpx.post(f"{server.url}/predict", content=PNG, headers=headers)
        assert answer.headers["access-control-allow-origin"] == "https://b.example"
        assert len(answer.json()["predictions"][0]["scores"]) == 4
        server.told(signal.SIGTERM)
        assert server.ended()[0] == 0
    assert "/predict" in log.read_text()
