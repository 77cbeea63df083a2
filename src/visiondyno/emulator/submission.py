"""The body of `run` and `runsync`, checked as RunPod does."""

import json
import uuid
from typing import Any

import pydantic_core

from visiondyno.emulator.config import LONGEST_POLICY_MS, EndpointConfig, Kind
from visiondyno.emulator.records import Job, Json
from visiondyno.errors import SpecError


def read_json(body: bytes) -> Any:
    """The JSON value in `body`.

    Raises:
        SpecError: it isn't JSON in UTF-8, or has numbers that JSON hasn't.
    """
    try:
        value = pydantic_core.from_json(body, allow_inf_nan=False)
        json.dumps(value, allow_nan=False)  # 1e999 passes as infinity
    except ValueError as error:
        raise SpecError(f"The body isn't JSON that can be read: {error}.") from error
    return value


def new_job(body: Any, kind: Kind, config: EndpointConfig, now_s: float) -> Job:
    """The job that `body` asks for.

    Raises:
        SpecError: `input` is missing, or policy or webhook are no such.
    """
    if not isinstance(body, dict) or body.get("input") is None:
        raise SpecError('The body must be an object with "input"; add it.')
    policy = body.get("policy") or {}
    if not isinstance(policy, dict):
        raise SpecError('"policy" must be an object.')
    timeout_ms = _duration_ms(
        policy, "executionTimeout", config.shortest_execution_timeout_ms, LONGEST_POLICY_MS
    )
    ttl_ms = _duration_ms(policy, "ttl", config.shortest_ttl_ms, LONGEST_POLICY_MS)
    low_priority = policy.get("lowPriority", False)
    if not isinstance(low_priority, bool):
        raise SpecError('"policy.lowPriority" must be true or false.')
    ttl_s = config.ttl_s if ttl_ms is None else ttl_ms / 1000
    return Job(
        id=_new_id(kind),
        kind=kind,
        given=_given(body),
        webhook=_webhook(body),
        low_priority=low_priority,
        submitted_s=now_s,
        expires_s=now_s + ttl_s,
        execution_timeout_s=config.execution_timeout_s if timeout_ms is None else timeout_ms / 1000,
    )


def _given(body: Json) -> Json:
    return {key: body[key] for key in ("input", "webhook", "s3Config") if body.get(key) is not None}


def _webhook(body: Json) -> str | None:
    webhook = body.get("webhook")
    if webhook is None or webhook == "":
        return None
    if not isinstance(webhook, str) or not webhook.startswith(("http://", "https://")):
        raise SpecError('"webhook" must be a URL that begins with http:// or https://.')
    return webhook


def _duration_ms(policy: Json, name: str, least: int, most: int) -> float | None:
    given = policy.get(name)
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float) or not least <= given <= most:
        raise SpecError(f'"policy.{name}" must be {least} to {most} milliseconds.')
    return float(given)


def _new_id(kind: Kind) -> str:
    prefix = "sync-" if kind is Kind.RUNSYNC else ""
    return f"{prefix}{uuid.uuid4()}-e1"
