"""What the way to a RunPod worker and back costs: ours, beside the `runpod` package alone.

Each arm has an emulated endpoint (`dyno emulate runpod`) with one worker under the package's loop.
Ours is the worker of the image, which mends that loop, and `Client`; the peer is a plain handler
and `runpod.Endpoint`. The emulator, which is ours too, stands in for RunPod's service: no network
and no cloud is in these figures, for neither arm.

- idle gap: six jobs of 2 s, submitted at once: the share of the time from the first one's begin to
  the last one's end in which none ran.
- round trip: jobs that do nothing, one after another, from asking to the answer. The peer's by its
  quickest way, `/runsync`; what it takes by `/run` and looks is a figure of its own.
- rate: such jobs, submitted at once, until the last answer is there.

The arms take turns, the first one changing from round to round; the other's worker is idle then.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from record import Figure, Ratio, record
from remote_arms import Arm, Json, OurArm, SdkArm, endpoint
from visiondyno.measurements.percentiles import percentile
from visiondyno.probes.quiet import QuietMonitor

ROUNDS = 5
NAPS, NAP_S = 6, 2.0
IN_TURN = 20
BY_LOOKS = 3
AT_ONCE = {"ours": 40, "sdk": 10}


@dataclass
class Found:
    """What one arm's rounds gave."""

    naps: list[tuple[float, float]] = field(default_factory=list)
    """Seconds in which no job ran, and seconds from the first job's begin to the last one's end."""
    p50_ms: list[float] = field(default_factory=list)
    p95_ms: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)


def idle_of(answers: Sequence[Json]) -> tuple[float, float]:
    """Seconds in which none of the jobs ran, and seconds from the first begin to the last end."""
    spans = sorted((answer["from_s"], answer["to_s"]) for answer in answers)
    idle_s, busy_until_s = 0.0, spans[0][0]
    for from_s, to_s in spans:
        idle_s += max(0.0, from_s - busy_until_s)
        busy_until_s = max(busy_until_s, to_s)
    return idle_s, busy_until_s - spans[0][0]


def in_turn(ask: Callable[[int], Json], count: int) -> list[float]:
    """Milliseconds of each of so many round trips."""
    spent_ms = []
    for number in range(count):
        begin_ns = time.perf_counter_ns()
        answer = ask(number)
        spent_ms.append((time.perf_counter_ns() - begin_ns) / 1e6)
        assert answer["number"] == number
    return spent_ms


def rate_of(arm: Arm, count: int) -> float:
    """Jobs a second."""
    begin_s = time.perf_counter()
    answers = arm.many(count, 0.0)
    spent_s = time.perf_counter() - begin_s
    assert [answer["number"] for answer in answers] == list(range(count))
    return count / spent_s


def measure(name: str, arm: Arm, found: Found) -> None:
    """One round of one arm."""
    found.naps.append(idle_of(arm.many(NAPS, NAP_S)))
    spent_ms = in_turn(arm.one, IN_TURN)
    found.p50_ms.append(percentile(spent_ms, 0.50))
    found.p95_ms.append(percentile(spent_ms, 0.95))
    found.rates.append(rate_of(arm, AT_ONCE[name]))
    idle_s, span_s = found.naps[-1]
    print(
        f"{name:5} idle {idle_s / span_s:7.4f}, p50 {found.p50_ms[-1]:7.1f} ms, "
        f"p95 {found.p95_ms[-1]:7.1f} ms, {found.rates[-1]:6.1f} jobs/s",
        flush=True,
    )


def run_rounds(rounds: int) -> tuple[dict[str, Found], list[float]]:
    """Both arms, round by round; and the peer's round trips by `/run` and looks, in ms."""
    found = {"ours": Found(), "sdk": Found()}
    by_looks: list[float] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        endpoint("ours", Path(folder) / "ours") as our_url,
        endpoint("sdk", Path(folder) / "sdk") as sdk_url,
        closing(OurArm(our_url)) as ours,
        closing(SdkArm(sdk_url)) as sdk,
    ):
        arms: dict[str, Arm] = {"ours": ours, "sdk": sdk}
        for arm in arms.values():
            arm.many(3, 0.0)  # the worker is there, and warm
        for number in range(rounds):
            for name in itertools.islice(itertools.cycle(arms), number % 2, number % 2 + 2):
                measure(name, arms[name], found[name])
            by_looks.append(percentile(in_turn(sdk.one_by_looks, BY_LOOKS), 0.50))
    return found, by_looks


def ratios_of(found: dict[str, Found]) -> dict[str, Ratio]:
    """The idle gap of each, and ours over the peer's, round by round."""
    ours, sdk = found["ours"], found["sdk"]
    gap = "seconds without a job over seconds from the first begin to the last end"
    return {
        "idle_gap_fraction": Ratio(ours.naps, "s", f"{gap}: ours", "<= 0.02"),
        "sdk_idle_gap_fraction": Ratio(sdk.naps, "s", f"{gap}: the package's loop", "none"),
        "round_trip_p50_vs_sdk": Ratio(
            list(zip(ours.p50_ms, sdk.p50_ms, strict=True)),
            "ms",
            "median round trip of ours over the package's by /runsync",
            "< 1",
        ),
        "round_trip_p95_vs_sdk": Ratio(
            list(zip(ours.p95_ms, sdk.p95_ms, strict=True)),
            "ms",
            "95th percentile of round trips of ours over the package's by /runsync",
            "< 1",
        ),
        "rate_vs_sdk": Ratio(
            list(zip(ours.rates, sdk.rates, strict=True)),
            "jobs/s",
            "jobs a second back to back of ours over the package's",
            "> 1",
        ),
    }


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description="The way to a RunPod worker and back.")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="pairs, about a minute each")
    rounds = parser.parse_args().rounds
    monitor = QuietMonitor()
    monitor.start()
    found, by_looks = run_rounds(rounds)
    figures = {}
    for name, one in found.items():
        figures[f"{name}_round_trip_p50_ms"] = Figure(one.p50_ms, "ms", "round trip, median")
        figures[f"{name}_round_trip_p95_ms"] = Figure(one.p95_ms, "ms", "round trip, 95th %")
        figures[f"{name}_rate"] = Figure(one.rates, "jobs/s", "no-op jobs back to back")
    figures["sdk_by_looks_p50_ms"] = Figure(
        by_looks, "ms", "round trip of the package by /run and /status, median"
    )
    settings = {
        "rounds": rounds,
        "naps": NAPS,
        "nap_s": NAP_S,
        "jobs_in_turn": IN_TURN,
        "jobs_in_turn_by_looks": BY_LOOKS,
        "jobs_at_once": AT_ONCE,
        "workers": 1,
        "service": "an emulator on this machine (dyno emulate runpod), not RunPod's cloud: no"
        " network, none of its latency",
        "ours": "Client and visiondyno.runpod_handler: one place, the next job fetched ahead, the"
        " package's loop mended (sdk_loop)",
        "peer": f"runpod {version('runpod')}: Endpoint.run_sync (one after another) and"
        " Endpoint.run with output (at once), a plain synchronous handler, its default loop",
    }
    record("remote", ratios_of(found), settings, monitor, figures)


if __name__ == "__main__":
    main()
