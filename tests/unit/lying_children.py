"""Children that were taken over: what they answer instead of the truth."""

import os
import signal
from pathlib import Path
from typing import Any

from visiondyno.errors import ClassMismatch, MissingExtra, RateLimited
from visiondyno.measuring.untrusted import predict_untrusted


def honest(payload: dict[str, Any], emit: Any) -> dict[str, Any]:
    return predict_untrusted(payload, emit)


def crashing(_: dict[str, Any], emit: Any) -> dict[str, Any]:
    emit({"stage": "checking the model"})
    os.kill = lambda *_: None  # the sandbox wouldn't let it
    signal.raise_signal(signal.SIGSEGV)
    return {}


def silent(_: dict[str, Any], __: Any) -> dict[str, Any]:
    return {"description": {}, "predict_s": 0}


def lying(payload: dict[str, Any], emit: Any) -> dict[str, Any]:
    """Claims protections, odd stages and progress, then does the work."""
    emit({"stage": "confined", "protections": {"memory": {"held": False, "how": "mine"}}})
    emit({"stage": ["running"], "done": "many"})
    emit({"stage": "running the model", "done": 10**9})
    emit({"stage": "running the model", "done": {"a": 1}})
    return predict_untrusted(payload, emit)


def describing_nonsense(_: dict[str, Any], emit: Any) -> dict[str, Any]:
    emit({"stage": "running the model", "description": {"card": "mine"}})
    return {}


def of_another_task(payload: dict[str, Any], emit: Any) -> dict[str, Any]:
    card = {
        "task": "classification",
        "head": "classification",
        "classes": ["a"],
        "input": {"height": 32, "width": 32},
    }
    facts = dict.fromkeys(("runtime", "device", "provider", "precision"), "x")
    described = {**facts, "batch_size": None, "parameters": None, "card": card, "notes": []}
    emit({"stage": "running the model", "description": described})
    return {}


def leaving_rubbish(payload: dict[str, Any], emit: Any) -> dict[str, Any]:
    answer = predict_untrusted(payload, emit)
    Path(payload["predictions_file"]).write_bytes(b"rubbish")
    return answer


def peeking(payload: dict[str, Any], _: Any) -> dict[str, Any]:
    """Looks for labels beside the images, and says what it found."""
    for image in map(Path, payload["images"]):
        label = image.parents[1] / "depth" / f"{image.stem}.npy"
        try:
            label.read_bytes()
        except PermissionError:
            continue
        raise ClassMismatch(f"I read {label.name}!")
    raise ClassMismatch("No label can be read.")


def rate_limited(_: dict[str, Any], __: Any) -> dict[str, Any]:
    raise RateLimited("x" * 5000)


def without_a_gpu(_: dict[str, Any], __: Any) -> dict[str, Any]:
    raise MissingExtra("gpu", "Device 'cuda'")


def defective(_: dict[str, Any], __: Any) -> dict[str, Any]:
    raise RuntimeError("boom")


def endless(_: dict[str, Any], emit: Any) -> dict[str, Any]:
    emit({"stage": "loading the model"})
    while True:
        pass
