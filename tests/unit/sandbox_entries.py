"""What test_sandbox.py runs in child processes."""

import ctypes
import errno
import importlib
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from visiondyno.errors import ModelError


def add(payload: dict[str, Any], emit: Any) -> dict[str, Any]:
    emit({"stage": "adding"})
    print("noise on standard output")
    return {"sum": payload["a"] + payload["b"], "pid": os.getpid()}


def measure_start(payload: dict[str, Any], _: Any) -> dict[str, Any]:
    return {"since_start_ns": time.monotonic_ns() - payload["started_ns"]}


def refuse(_: dict[str, Any], __: Any) -> dict[str, Any]:
    raise ModelError("net.onnx is empty; export it again.")


def defect(_: dict[str, Any], __: Any) -> dict[str, Any]:
    raise RuntimeError("boom")


def die(payload: dict[str, Any], _: Any) -> dict[str, Any]:
    print("out of luck", file=sys.stderr, flush=True)
    os.kill(os.getpid(), getattr(signal, payload["signal"]))
    return {}


def leave(_: dict[str, Any], __: Any) -> dict[str, Any]:
    os._exit(7)


def hang(_: dict[str, Any], emit: Any) -> dict[str, Any]:
    helper = subprocess.Popen(["sleep", "600"])
    emit({"stage": "hanging", "pid": os.getpid(), "helper_pid": helper.pid})
    while True:
        time.sleep(60)


def not_json(_: dict[str, Any], __: Any) -> dict[str, Any]:
    return {"value": float("nan")}


def large(payload: dict[str, Any], emit: Any) -> dict[str, Any]:
    for number in range(100):
        emit({"number": number})
    return {"blob": "x" * payload["size"]}


def attempt(payload: dict[str, Any], _: Any) -> dict[str, Any]:
    """What each forbidden thing came to: `done`, or the error's name."""
    return {name: _tried(name, payload) for name in payload["tries"]}


def _tried(name: str, payload: dict[str, Any]) -> str:
    try:
        _TRIES[name](payload)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "EGAI")
    except (MemoryError, RuntimeError) as error:
        return type(error).__name__
    return "done"


def _threads(_: dict[str, Any]) -> None:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()


def _write(path: str, data: bytes = b"x") -> None:
    with Path(path).open("wb") as file:
        file.write(data)


_TRIES: dict[str, Any] = {
    "memory": lambda payload: bytearray(payload["bytes"]),
    "shared_memory": lambda payload: mmap.mmap(-1, payload["bytes"]),
    "connect": lambda payload: socket.create_connection(("127.0.0.1", payload["port"]), 2).close(),
    "datagram": lambda _: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close(),
    "unix_socket": lambda _: socket.socket(socket.AF_UNIX).close(),
    "fork": lambda _: os.fork() or os._exit(0),
    "spawn": lambda _: subprocess.run([sys.executable, "-c", ""], check=True),
    "thread": _threads,
    "signal": lambda payload: os.kill(payload["parent"], 0),
    "read": lambda payload: Path(payload["secret"]).read_bytes(),
    "list": lambda payload: list(Path(payload["secret"]).parent.iterdir()),
    "parents_environment": lambda payload: Path(f"/proc/{payload['parent']}/environ").read_bytes(),
    "write": lambda payload: _write(payload["secret"]),
    "create": lambda payload: _write(payload["secret"] + ".new"),
    "chmod": lambda payload: Path(payload["secret"]).chmod(0o777),
    "read_allowed": lambda payload: Path(payload["allowed"]).read_bytes(),
    "write_allowed": lambda payload: _write(payload["out"]),
    "write_too_much": lambda payload: _write(payload["out"], bytes(payload["bytes"])),
    "import": lambda _: importlib.import_module("onnxruntime"),
    "abort_guard": lambda _: signal.pthread_kill(threading.get_ident(), 0),
}


def environment(_: dict[str, Any], __: Any) -> dict[str, Any]:
    return {"environment": dict(os.environ), "cwd": str(Path.cwd()), "path": sys.path}


def spin(_: dict[str, Any], emit: Any) -> dict[str, Any]:
    emit({"stage": "spinning", "pid": os.getpid()})
    while True:
        pass


def say_anything(payload: dict[str, Any], _: Any) -> dict[str, Any]:
    os.write(int(sys.argv[1]), payload["text"].encode() * payload.get("times", 1))
    return {}


def abort(_: dict[str, Any], __: Any) -> dict[str, Any]:
    os.abort()


def confine_here(payload: dict[str, Any], _: Any) -> dict[str, Any]:
    """Confined by the entry, in this very process, which coverage sees."""
    from visiondyno.sandbox.confine import confine
    from visiondyno.sandbox.limits import Limits

    held = confine(Limits.model_validate(payload["limits"]))
    return {
        "protections": {name: one.model_dump() for name, one in held.items()},
        "tried": attempt(payload, None),
    }


def become_nobody_and_confine(payload: dict[str, Any], emit: Any) -> dict[str, Any]:
    """As `confine_here`, as a user without privileges, in a process of a single thread."""
    import visiondyno.sandbox.confine  # noqa: F401 - nobody may not be able to read it later

    read_fd, write_fd = os.pipe()
    if os.fork() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        # One that just became nobody may not write its own /proc files; one started so may.
        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
        os.write(write_fd, json.dumps(confine_here(payload, emit)).encode())
        os._exit(0)
    os.close(write_fd)
    with os.fdopen(read_fd) as answer:
        found: dict[str, Any] = json.load(answer)
    os.wait()
    return found
