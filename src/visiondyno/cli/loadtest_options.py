"""From the flags of `dyno loadtest` to its spec."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visiondyno.errors import SpecError
from visiondyno.report.yaml_spec import read_fields, read_text
from visiondyno.specs.load_test import LoadTestSpec
from visiondyno.specs.operations import parse

if TYPE_CHECKING:
    from visiondyno.loadtest.strategies import StrategyPlan

_SECONDS = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_NUMBER = r"\d+(?:\.\d+)?"
_TIME = rf"({_NUMBER})\s*(ms|s|min|m|h)?"
_RAMP = re.compile(rf"({_NUMBER})-({_NUMBER})")
_SPIKE = re.compile(rf"({_NUMBER})@{_TIME}\+{_TIME}")
_CLOUD_RUN = re.compile(rf"(request|instance):({_NUMBER}):({_NUMBER})")
_NEEDS = "a load test needs at least 'targets', each with a 'url'"
_LOAD_FLAGS = ("rate", "duration", "poisson", "ramp", "spike", "closed", "think_time", "requests")
_TEST_FLAGS = {
    "timeout": "timeout_s",
    "connections": "connections",
    "generators": "generators",
    "rounds": "rounds",
    "warmup": "warmup_requests",
    "seed": "seed",
    "limit_p99_ms": "latency_limit_ms",
    "find_rate": "find_rate",
    "pause": "pause_s",
}
_STRATEGY_FLAGS = {
    "rate": "rate_per_s",
    "duration": "steady_s",
    "image": "images",
    "price_per_hour": "usd_per_replica_hour",
}

Given = dict[str, Any]
"""Flags that were given, by name."""


def spec_of(urls: Sequence[str], config: Path | None, given: Given) -> LoadTestSpec:
    """What flags and a YAML file say together; flags override.

    Args:
        urls: of the command line; they replace the targets of the file.
        config: a YAML file with the fields of `LoadTestSpec`.
        given: flags; those that weren't given are missing.

    Raises:
        SpecError: a flag or field is wrong, or no target is named.
    """
    fields: dict[str, Any] = {}
    if config is not None:
        fields = read_fields(read_text(config), str(config), _NEEDS)
    what = "The load test" if config is None else str(config)
    if urls:
        fields["targets"] = [{"url": url} for url in urls]
    if not fields.get("targets"):
        raise SpecError("Which target? Give its URL, such as http://127.0.0.1:8080/predict.")
    if not isinstance(fields["targets"], list):
        raise SpecError(f"{what}: 'targets' is a list, each with a 'url'.")
    fields["targets"] = _targets(fields["targets"], given)
    if any(name in given for name in _LOAD_FLAGS):
        fields["load"] = _load(fields.get("load"), given)
    fields |= {field: given[name] for name, field in _TEST_FLAGS.items() if name in given}
    if "find_rate" in given and fields.get("latency_limit_ms") is None:
        raise SpecError(
            "--find-rate needs the limit that p99 must keep; give it with --limit-p99-ms, such as "
            "--limit-p99-ms 100."
        )
    spec: LoadTestSpec = parse(LoadTestSpec, fields, what)
    return spec


def strategy_plan(model: str, given: Given) -> "StrategyPlan":
    """What `--strategies MODEL` compares.

    Args:
        model: model reference.
        given: flags; those that weren't given are missing.

    Raises:
        SpecError: a flag has no meaning here, or a value is wrong.
        ModelError: there is no such model.
    """
    from visiondyno.loadtest.strategies import StrategyPlan
    from visiondyno.runtimes.references import resolve_reference

    others = sorted(set(given) - {*_STRATEGY_FLAGS, "replicas", "idle_timeout_s", "cold_starts"})
    if others:
        raise SpecError(
            f"--{others[0].replace('_', '-')} has no effect on --strategies; leave it out."
        )
    for name in ("rate", "duration", "idle_timeout_s"):
        if name in given and not given[name] > 0:
            flag = name.removesuffix("_s").replace("_", "-")
            raise SpecError(f"--{flag} must be above 0, got {given[name]:g}.")
    resolve_reference(model)
    fields = {_STRATEGY_FLAGS.get(name, name): value for name, value in given.items()}
    if "usd_per_replica_hour" in fields:
        (fields["usd_per_replica_hour"],) = given["price_per_hour"][:1]
    if "steady_s" in fields:
        # A short test is to be short in all its parts.
        fields |= {part: min(5.0, fields["steady_s"]) for part in ("idle_s", "burst_s")}
    return StrategyPlan(model=model, **fields)


def seconds_of(text: str, flag: str) -> float:
    """`90s`, `30m`, `250ms` or a number of seconds.

    Raises:
        SpecError: it is no time.
    """
    match = re.fullmatch(_TIME, text.strip())
    if match is None:
        raise SpecError(f"{flag} '{text}' is no time; give seconds, or one such as 90s or 5m.")
    return float(match[1]) * _SECONDS[match[2] or ""]


# ---- the load


def _load(stored: Any, given: Given) -> dict[str, Any]:
    """The load of flags, on top of that of a file."""
    kinds = [name for name in ("poisson", "ramp", "spike", "closed") if name in given]
    if len(kinds) > 1:
        raise SpecError(f"--{kinds[0]} and --{kinds[1]} are two loads; give one of them.")
    load: dict[str, Any] = dict(stored) if isinstance(stored, dict) else {}
    stays = load.get("kind", "constant")
    if kinds and kinds[0] != stays:
        kept = ("rate_per_s", "duration_s") if kinds[0] in {"poisson", "spike"} else ("duration_s",)
        load = {name: load[name] for name in kept if name in load}
    load["kind"] = kind = kinds[0] if kinds else stays
    if "duration" in given:
        load["duration_s"] = given["duration"]
    if "rate" in given:
        _fits("--rate", kind, "constant", "poisson", "spike")
        load["rate_per_s"] = given["rate"]
    if "ramp" in given:
        load |= _ramp(given["ramp"])
    if "spike" in given:
        load |= _spike(given["spike"])
    if "closed" in given:
        load["concurrency"] = given["closed"]
    for name, field in (("think_time", "think_time_s"), ("requests", "requests")):
        if name in given:
            _fits(f"--{name.replace('_', '-')}", kind, "closed")
            load[field] = given[name]
    return load


def _fits(flag: str, kind: str, *kinds: str) -> None:
    if kind not in kinds:
        known = " or ".join(f"--{one}" for one in kinds if one != "constant")
        raise SpecError(f"{flag} doesn't fit a {kind} load; it goes with {known}.")


def _ramp(text: str) -> dict[str, float]:
    match = _RAMP.fullmatch(text.strip())
    if match is None:
        raise SpecError(f"--ramp '{text}' isn't FROM-TO in requests/s, such as 1-50.")
    return {"from_rate_per_s": float(match[1]), "to_rate_per_s": float(match[2])}


def _spike(text: str) -> dict[str, float]:
    match = _SPIKE.fullmatch(text.strip())
    if match is None:
        raise SpecError(
            f"--spike '{text}' isn't RATE@START+LENGTH, such as 50@10s+5s: 50 requests/s from 10 s "
            "on, for 5 s."
        )
    return {
        "spike_rate_per_s": float(match[1]),
        "spike_start_s": float(match[2]) * _SECONDS[match[3] or ""],
        "spike_duration_s": float(match[4]) * _SECONDS[match[5] or ""],
    }


# ---- targets


def _targets(stored: Sequence[Any], given: Given) -> list[Any]:
    shared = _shared(given)
    count = len(stored)
    each = {
        "name": _for_each("--name", given.get("name", ()), count),
        "watch": _for_each("--watch", [_watch(text) for text in given.get("watch", ())], count),
        "pricing": _for_each("prices", _prices(given), count),
    }
    targets = []
    for place, target in enumerate(stored):
        if not isinstance(target, dict):
            raise SpecError("Each of 'targets' has 'key: value' lines, such as 'url: http://…'.")
        own = {key: values[place] for key, values in each.items() if values}
        merged = {**target, **shared, **own}
        if "headers" in shared:
            merged["headers"] = {**target.get("headers", {}), **shared["headers"]}
        if any(name in shared for name in _BODIES):  # one kind of body replaces another
            merged = {
                key: value for key, value in merged.items() if key not in _BODIES or key in shared
            }
        targets.append(merged)
    return targets


_BODIES = ("images", "body_file", "json_body")


def _shared(given: Given) -> dict[str, Any]:
    """What flags say of every target."""
    fields: dict[str, Any] = {}
    if "image" in given:
        fields["images"] = list(given["image"])
    if "body" in given:
        fields["body_file"] = given["body"]
    if "json" in given:
        fields["json_body"] = _json(given["json"])
    if "method" in given:
        fields["method"] = given["method"].upper()
    if "header" in given:
        fields["headers"] = dict(_header(text) for text in given["header"])
    return fields


def _for_each(what: str, values: Sequence[Any], targets: int) -> list[Any]:
    """One value for each target; a single one is for all."""
    if len(values) == 1 and what != "--name":
        return list(values) * targets
    if values and len(values) != targets:
        raise SpecError(
            f"There are {len(values)} of {what} for {targets} targets; give one for each, in the "
            "order of the URLs."
        )
    return list(values)


def _json(text: str) -> Any:
    where = "--json"
    if text.startswith("@"):
        where = text[1:]
        text = read_text(Path(where))
    try:
        return json.loads(text)
    except ValueError as error:
        raise SpecError(f"{where}: isn't JSON ({error}).") from error


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        # What was given may be a secret, so it isn't shown.
        raise SpecError("--header isn't of the form 'Name: value'.")
    return name.strip(), value.strip()


def _watch(text: str) -> dict[str, Any]:
    kind, _, rest = text.partition(":")
    if kind == "pid" and rest.isdecimal():
        return {"kind": "pid", "pid": int(rest)}
    if kind == "cgroup" and rest:
        return {"kind": "cgroup", "path": rest}
    if kind == "prometheus":
        return {"kind": "prometheus", "url": rest or None}
    parts = rest.split("/")
    if kind == "cloud-run" and len(parts) == 3 and all(parts):
        project, location, service = parts
        return {"kind": kind, "project": project, "location": location, "service": service}
    raise SpecError(
        f"--watch '{text}' isn't one of pid:NUMBER, cgroup:PATH, prometheus, prometheus:URL and "
        "cloud-run:PROJECT/LOCATION/SERVICE."
    )


def _prices(given: Given) -> list[dict[str, Any]]:
    hourly, cloud = given.get("price_per_hour", ()), given.get("cloud_run_price", ())
    if hourly and cloud:
        raise SpecError("--price-per-hour and --cloud-run-price are two prices; give one of them.")
    return [{"usd_per_hour": usd} for usd in hourly] + [_cloud_run_price(text) for text in cloud]


def _cloud_run_price(text: str) -> dict[str, Any]:
    match = _CLOUD_RUN.fullmatch(text.strip())
    if match is None:
        raise SpecError(
            f"--cloud-run-price '{text}' isn't BILLING:VCPUS:GIB with the billing 'request' or "
            "'instance', such as request:2:4."
        )
    from visiondyno.loadtest.pricing import Billing, cloud_run_pricing

    billing: Billing = "request" if match[1] == "request" else "instance"
    pricing = cloud_run_pricing(billing, float(match[2]), float(match[3]))
    return pricing.model_dump(exclude_none=True)
