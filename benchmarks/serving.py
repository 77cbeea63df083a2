"""Six servers of one detector beside the loop that has no server.

Each does the same work for a request, by the same function (`serving_peers/serving_work.py`):
decode a JPEG, pre-process, infer with one intra-op thread, post-process, JSON. Each has two
replicas, workers or threads, and one client, wrk, in its turn: with one connection, then with
eight. So only what is around the model differs.

This machine's speed drifts, so every ratio is made within a round: the raw loop (one process for
one connection, two for eight) runs right before and right after each server, and the server's rate
is over the mean of the two. The order of servers rotates from round to round.

- `ratio_to_raw_at_1`, `ratio_to_raw_at_8`: `dyno serve` over the raw loop.
- `ratio_to_PEER_at_8`: `dyno serve` over the peer, each over its own raw loops.
- `raw_in_huge_pages_at_8`: the raw loop with its memory in huge pages, as replicas of `dyno serve`
  have theirs, over the raw loop: the part of the ratios that this makes.
- figures: percentiles, processor time per request at eight connections (client excluded), memory
  (PSS of all processes), seconds from the start to the first answer.

The raw loop keeps both cores busy with the model alone, so the client's own time is in every ratio.
"""

import argparse
import math
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import scipy.stats

from record import Figure, Ratio, record
from serving_arms import BIN, COMMANDS, Given, Raw, Server, started
from visiondyno.measurements.percentiles import percentile
from visiondyno.probes.quiet import QuietMonitor
from visiondyno.serving.huge_pages import with_huge_pages

PEERS = Path(__file__).parent / "serving_peers"
OURS = "dyno_serve"
CONNECTIONS = (1, 8)
ROUNDS, QUICK_ROUNDS = 5, 2
SECONDS = {1: 3.0, 8: 5.0}
RAW_SECONDS = {1: 1.5, 8: 2.5}
QUICK_SECONDS = {1: 2.0, 8: 3.0}
WARM_UP_S = 1.0
LIMIT_S = 900.0
PACKAGES = ("mosec", "litserve", "bentoml", "fastapi", "uvicorn", "flask", "gunicorn")


@dataclass
class Found:
    """What one server's rounds gave; lists have a value for each round, by connections."""

    rates: dict[int, list[float]] = field(default_factory=lambda: {1: [], 8: []})
    raw_rates: dict[int, list[float]] = field(default_factory=lambda: {1: [], 8: []})
    p50_ms: dict[int, list[float]] = field(default_factory=lambda: {1: [], 8: []})
    p99_ms: dict[int, list[float]] = field(default_factory=lambda: {1: [], 8: []})
    cpu_ms: list[float] = field(default_factory=list)
    pss_mb: list[float] = field(default_factory=list)
    first_answer_s: list[float] = field(default_factory=list)

    def of_raw(self, connections: int) -> list[float]:
        """Its rate over the raw loop's, round by round."""
        pairs = zip(self.rates[connections], self.raw_rates[connections], strict=True)
        return [rate / raw for rate, raw in pairs]


@dataclass
class Durations:
    """Seconds of each measurement, by connections."""

    server: dict[int, float]
    raw: dict[int, float]


def measure(server: Server, found: Found, durations: Durations) -> None:
    """One turn of one server."""
    found.first_answer_s.append(server.first_answer_s)
    server.post(max(CONNECTIONS), WARM_UP_S)
    for connections in CONNECTIONS:
        cpu_s = server.cpu_s()
        posted = server.post(connections, durations.server[connections])
        cpu_s = server.cpu_s() - cpu_s
        found.rates[connections].append(posted.rate)
        found.p50_ms[connections].append(posted.p50_ms)
        found.p99_ms[connections].append(posted.p99_ms)
    found.cpu_ms.append(cpu_s * 1e3 / posted.requests)
    found.pss_mb.append(server.pss_mb())


def run_raw(raw: Raw, durations: Durations) -> tuple[dict[int, float], list[float]]:
    """Images a second by connections, and each image's time in one process, ms."""
    alone, each_ms = raw.run(1, durations.raw[1])
    both, _ = raw.run(2, durations.raw[8])
    return {1: alone, 8: both}, each_ms


def run_rounds(
    given: Given, names: Sequence[str], rounds: int, durations: Durations
) -> tuple[dict[str, Found], list[float], list[tuple[float, float]]]:
    """Every server in its turn, round by round; each raw image's time, ms; with huge pages."""
    found = {name: Found() for name in names}
    raw, huge = Raw(given, given.environ), Raw(given, with_huge_pages(given.environ))
    for loop in (raw, huge):
        loop.run(2, WARM_UP_S)
    raw_ms: list[float] = []
    in_huge_pages: list[tuple[float, float]] = []
    begin = time.monotonic()
    for number in range(rounds):
        if number >= 2 and (time.monotonic() - begin) * (number + 1) / number > LIMIT_S:
            print(f"stopped after {number} rounds: a next one would take it over {LIMIT_S:.0f} s")
            break
        turn = number % len(names)
        before, each_ms = run_raw(raw, durations)
        for name in [*names[turn:], *names[:turn]]:
            with started(name, given) as server:
                if server.answer != raw.answer:
                    raise SystemExit(f"{name} answers {server.answer}, and not {raw.answer}")
                measure(server, found[name], durations)
            after, each_ms = run_raw(raw, durations)
            raw_ms += each_ms
            for connections in CONNECTIONS:
                mean = statistics.mean((before[connections], after[connections]))
                found[name].raw_rates[connections].append(mean)
            _tell(number, name, found[name])
            before = after
        rate, _ = huge.run(2, durations.raw[8])
        in_huge_pages.append((rate, after[8]))
    raw.close()
    huge.close()
    return found, raw_ms, in_huge_pages


def _tell(number: int, name: str, found: Found) -> None:
    rates = ", ".join(
        f"{found.rates[one][-1]:.1f}/s at {one} ({found.of_raw(one)[-1]:.3f} of raw)"
        for one in CONNECTIONS
    )
    print(f"round {number + 1} {name:14} {rates}, {found.cpu_ms[-1]:.1f} ms CPU", flush=True)


def ratios_of(found: dict[str, Found]) -> dict[str, Ratio]:
    """`dyno serve` over the raw loop, and over each peer."""
    ours = found[OURS]
    ratios = {}
    for connections, target in ((1, "none"), (8, ">= 0.97")):
        pairs = zip(ours.rates[connections], ours.raw_rates[connections], strict=True)
        meaning = f"requests a second at {connections} over images a second of the raw loop"
        ratios[f"ratio_to_raw_at_{connections}"] = Ratio(list(pairs), "requests/s", meaning, target)
    for name, peer in found.items():
        if name == OURS:
            continue
        target = ">= 0.98" if name == "mosec" else "> 1"
        for connections in CONNECTIONS:
            pairs = zip(ours.of_raw(connections), peer.of_raw(connections), strict=True)
            ratios[f"ratio_to_{name}_at_{connections}"] = Ratio(
                list(pairs),
                "of raw",
                f"share of the raw loop's rate at {connections}: ours over that of {name}",
                target if connections == 8 else "none",
            )
    return ratios


def figures_of(found: dict[str, Found]) -> dict[str, Figure]:
    """What is no ratio, of every server."""
    figures = {}
    for name, one in found.items():
        for connections in CONNECTIONS:
            if name != OURS:
                figures[f"{name}_of_raw_at_{connections}"] = Figure(
                    one.of_raw(connections), "of raw", "rate over the raw loop's"
                )
            for part, values in (("p50", one.p50_ms), ("p99", one.p99_ms)):
                figures[f"{name}_{part}_ms_at_{connections}"] = Figure(
                    values[connections], "ms", f"{part} of latency as wrk sees it"
                )
        figures[f"{name}_cpu_ms"] = Figure(
            one.cpu_ms, "ms", "processor time of all its processes per request, at 8"
        )
        figures[f"{name}_pss_mb"] = Figure(one.pss_mb, "MB", "PSS of all its processes")
        figures[f"{name}_first_answer_s"] = Figure(
            one.first_answer_s, "s", "from its start to its first 200"
        )
    return figures


def interval(each: Sequence[float]) -> dict[str, Any]:
    """The ratio's 95 % interval over the rounds: Student's t of its logarithm."""
    if len(each) < 2:
        return {"mean": each[0], "rounds": 1}
    logs = [math.log(one) for one in each]
    mean = statistics.mean(logs)
    half = (
        float(scipy.stats.t.ppf(0.975, len(logs) - 1))
        * statistics.stdev(logs)
        / math.sqrt(len(logs))
    )
    ends = (mean - half, mean, mean + half)
    names = ("lowest", "mean", "highest")
    told = {name: round(math.exp(end), 4) for name, end in zip(names, ends, strict=True)}
    return {**told, "rounds": len(logs), "method": "95 %, Student's t of the logarithm over rounds"}


def make_inputs(folder: Path) -> dict[str, Any]:
    """Write model and image as the peers' environment makes them; what they are."""
    script = (
        "import sys; from pathlib import Path; import detector as d;"
        "m, j = map(Path, sys.argv[1:]);"
        "print(d.write_detector(m), d.write_scene(j), d.digest(m), d.digest(j))"
    )
    done = subprocess.run(
        [str(BIN / "python"), "-c", script, str(folder / "detector.onnx"), str(folder / "a.jpg")],
        cwd=PEERS, capture_output=True, text=True, check=True,
    )  # fmt: skip
    gflop, size, model, jpeg = done.stdout.split()
    return {
        "model": f"320×320 detector, random weights, {float(gflop):.1f} GFLOP, sha256 {model}",
        "image": f"1280×720 JPEG, {int(size)} bytes, sha256 {jpeg}",
    }


def versions() -> dict[str, str]:
    """Of the peers' packages."""
    script = (
        "import sys; from importlib.metadata import version;"
        "print(*(version(one) for one in sys.argv[1:]))"
    )
    done = subprocess.run(
        [str(BIN / "python"), "-c", script, *PACKAGES], capture_output=True, text=True, check=True
    )
    return dict(zip(PACKAGES, done.stdout.split(), strict=True))


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description="Six servers of one detector beside a raw loop.")
    parser.add_argument("--rounds", type=int, help=f"default {ROUNDS}, about two minutes each")
    parser.add_argument("--quick", action="store_true", help="two short rounds, nothing recorded")
    parser.add_argument("--only", nargs="*", metavar="PEER", help="these peers beside ours")
    asked = parser.parse_args()
    rounds = asked.rounds or (QUICK_ROUNDS if asked.quick else ROUNDS)
    seconds = QUICK_SECONDS if asked.quick else SECONDS
    durations = Durations(seconds, RAW_SECONDS)
    names = [one for one in COMMANDS if asked.only is None or one in (OURS, *asked.only)]
    monitor = QuietMonitor()
    monitor.start()
    with tempfile.TemporaryDirectory(prefix="visiondyno-serving-") as folder:
        given = Given(Path(folder) / "detector.onnx", Path(folder) / "a.jpg", Path(folder))
        inputs = make_inputs(Path(folder))
        found, raw_ms, in_huge_pages = run_rounds(given, names, rounds, durations)
    ratios, figures = ratios_of(found), figures_of(found)
    ratios["raw_in_huge_pages_at_8"] = Ratio(
        in_huge_pages, "images/s", "raw loop with its memory in huge pages over raw loop", "none"
    )
    figures["raw_ms"] = Figure(
        [percentile(raw_ms, 0.5)], "ms", "one image in one process of the raw loop, median"
    )
    facts = {name: interval(ratio.each) for name, ratio in ratios.items()}
    if asked.quick or asked.only is not None:
        for name, one in facts.items():
            print(f"{name}: {one}")
        for name, figure in figures.items():
            print(f"{name}: {figure.median:.3g} {figure.unit}")
        monitor.stop()
        return
    settings = {
        **inputs,
        "rounds": rounds,
        "seconds_by_connections": seconds,
        "raw_seconds_by_connections": RAW_SECONDS,
        "warm_up_s": WARM_UP_S,
        "client": "wrk, one thread, keep-alive, one JPEG posted again and again",
        "replicas": "two of each (processes, or threads of one process); fastapi_def: the pool of"
        " threads that Starlette has",
        "intra_op_threads": 1,
        "memory": "replicas of dyno serve in huge pages, as they are by themselves; the raw loop's"
        " and the peers' as their programs find it",
        "peers": versions(),
    }
    record("serving", ratios, settings, monitor, figures, facts)


if __name__ == "__main__":
    main()
