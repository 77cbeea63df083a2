"""The load generator: how well it keeps a schedule, what it costs, and what it sees of a freeze.

- schedule error: when requests arrived, by the server's log, less when they were due; at 100, 500
  and 1,000 requests a second. Beside it the generator's own lag. The way to the server and the
  server's own waking are in the error, not in the lag.
- `requests_per_core_vs_locust`: requests per second of processor time of the generator, from the
  test's begin to its end, over locust's FastHttpUser (and HttpUser); closed loops of as many users
  against a server that answers at once. Our open loop at a rate beyond what is needed beside them.
- `freeze_p95_vs_truth`, `freeze_p99_vs_truth`: a server of 20 ms a request, one after the other, at
  10 requests a second for 30 s, stopped for 3 s after 10 s; the latency that was reported over the
  one that is computed (`load_freeze.py`). Beside it locust (10 users of one request a second), wrk
  and ab (one connection, one request after the other).

All arms of a part take turns, round by round, the first one changing.
"""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from load_arms import arrivals_ns, end, locust, ours, peer_versions, server
from load_freeze import ARMS, RATE_PER_S, Plan, Seen, seen_by
from record import Figure, Ratio, record
from visiondyno.measurements.percentiles import percentile
from visiondyno.probes.quiet import QuietMonitor
from visiondyno.specs.load_test import ClosedLoad, ConstantLoad

RATES_PER_S = (100, 500, 1000)
USERS = 16
OPEN_RATE_PER_S = 10_000


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    rounds: int = 5
    schedule_s: float = 8.0
    core_s: float = 4.0
    freeze: Plan = Plan()  # noqa: RUF009 - frozen
    peer_freezes: int = 2


QUICK = Size(1, 2.0, 2.0, Plan(6.0, 2.0, 1.0), 1)


def schedule_errors(size: Size) -> dict[str, list[float]]:
    """Percentiles in µs of error and lag, a value a round."""
    found: dict[str, list[float]] = {}
    for _, rate in itertools.product(range(max(1, size.rounds - 2)), RATES_PER_S):
        with server("load_server.py") as started:
            recording = ours(started.url, ConstantLoad(rate_per_s=rate, duration_s=size.schedule_s))
            end(started)
            arrived_ns = arrivals_ns(started.log)
        assert len(arrived_ns) == len(recording)
        # On several connections two neighbours may overtake each other: the n-th against the n-th.
        each = {
            "error": (arrived_ns - recording.scheduled_ns) / 1e3,
            "lag": recording.lag_ms * 1e3,
        }
        for what, values_us in each.items():
            for q in (0.5, 0.99):
                key = f"schedule_{what}_p{q * 100:.0f}_us_at_{rate}"
                found.setdefault(key, []).append(percentile(values_us, q))
            found.setdefault(f"schedule_{what}_max_us_at_{rate}", []).append(values_us.max())
        print(f"{rate} requests/s: {_last(found, f'at_{rate}')}", flush=True)
    return found


def per_core(arm: str, size: Size) -> float:
    """Requests per second of the generator's processor time."""
    with server("load_server.py") as started:
        if arm in {"FastHttpUser", "HttpUser"}:
            found = locust(started.url, arm, USERS, 0.0, size.core_s)
            rate = float(found["requests"] / found["cpu_s"])
        elif arm == "closed":
            recording = ours(started.url, ClosedLoad(concurrency=USERS, duration_s=size.core_s))
            rate = len(recording) / recording.cpu_s
        else:
            load = ConstantLoad(rate_per_s=OPEN_RATE_PER_S, duration_s=size.core_s)
            recording = ours(started.url, load, connections=USERS)
            rate = len(recording) / recording.cpu_s
    print(f"{arm:12} {rate:10.0f} requests per core second", flush=True)
    return rate


def in_turns(arms: Sequence[str], rounds: int) -> Iterator[tuple[int, str]]:
    """(round, arm), the first arm changing from round to round."""
    for number in range(rounds):
        first = number % len(arms)
        for arm in (*arms[first:], *arms[:first]):
            yield number, arm


def core_ratios(size: Size) -> dict[str, Ratio]:
    """Ours over locust's, in interleaved rounds."""
    found: dict[str, list[float]] = {}
    for _, arm in in_turns(("closed", "FastHttpUser", "open", "HttpUser"), size.rounds):
        found.setdefault(arm, []).append(per_core(arm, size))

    def ratio(mine: str, theirs: str, target: str) -> Ratio:
        pairs = list(zip(found[mine], found[theirs], strict=True))
        meaning = f"requests per core second: our {mine} loop over locust's {theirs}"
        return Ratio(pairs, "requests/s per core", meaning, target)

    return {
        "requests_per_core_vs_locust": ratio("closed", "FastHttpUser", "> 1"),
        "requests_per_core_vs_locust_http_user": ratio("closed", "HttpUser", "> 1"),
        "open_loop_requests_per_core_vs_locust": ratio("open", "FastHttpUser", "> 1"),
    }


def freeze_ratios(size: Size) -> dict[str, Ratio]:
    """What each generator reported over what was true."""
    found: dict[str, list[Seen]] = {}
    for number, arm in in_turns(tuple(ARMS), size.rounds):
        if arm == "ours" or number < size.peer_freezes:
            seen = seen_by(arm, size.freeze)
            found.setdefault(arm, []).append(seen)
            print(
                f"{arm:7} p95 {seen.p95_ms:7.0f} ms (truth {seen.true_p95_ms:7.0f}), "
                f"p99 {seen.p99_ms:7.0f} ms (truth {seen.true_p99_ms:7.0f})",
                flush=True,
            )
    ratios = {}
    for arm, each in found.items():
        name, target = ("", "0.95 to 1.05") if arm == "ours" else (f"{arm}_", "none")
        for q in ("p95", "p99"):
            pairs = [(getattr(one, f"{q}_ms"), getattr(one, f"true_{q}_ms")) for one in each]
            meaning = f"{q} of latency by {arm} over the computed one, server stopped for a while"
            ratios[f"{name}freeze_{q}_vs_truth"] = Ratio(pairs, "ms", meaning, target)
    return ratios


def _last(found: dict[str, list[float]], ending: str) -> str:
    return ", ".join(
        f"{key.removeprefix('schedule_').removesuffix(f'_us_{ending}')} {values[-1]:.0f} µs"
        for key, values in found.items()
        if key.endswith(ending)
    )


def _settings(size: Size) -> dict[str, Any]:
    return {
        "rounds": size.rounds,
        "schedule_s": size.schedule_s,
        "per_core": {"users": USERS, "duration_s": size.core_s, "open_rate": OPEN_RATE_PER_S},
        "freeze": {
            "rate_per_s": RATE_PER_S,
            "duration_s": size.freeze.duration_s,
            "stop_at_s": size.freeze.stop_at_s,
            "stopped_s": size.freeze.stopped_s,
        },
        "ours": "run_in_processes, one generator process",
        "peers": peer_versions(),
    }


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one short round; writes no record")
    is_quick = parser.parse_args().quick
    size = QUICK if is_quick else Size()
    monitor = QuietMonitor()
    monitor.start()
    errors = schedule_errors(size)
    ratios = {**freeze_ratios(size), **core_ratios(size)}
    if is_quick:
        for key, ratio in ratios.items():
            print(f"{key}: {np.round(ratio.each, 3).tolist()}")
        monitor.stop()
        return
    figures = {
        key: Figure(values, "µs", "arrival (error) or sending (lag) after the scheduled moment")
        for key, values in errors.items()
    }
    record("load", ratios, _settings(size), monitor, figures)


if __name__ == "__main__":
    main()
