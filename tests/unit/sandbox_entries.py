"""What test_sandbox.py runs in child processes."""

import os
import signal
import subprocess
import sys
import time
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
