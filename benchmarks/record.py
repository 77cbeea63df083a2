"""What every benchmark shares: paired runs, a table, and the record under `results/`."""

import datetime
import json
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visiondyno.probes.machine import capture_environment
from visiondyno.probes.quiet import QuietMonitor

RESULTS = Path(__file__).parent / "results"
PAIRS = 7


@dataclass(frozen=True, slots=True)
class Ratio:
    """Ours over the peer's, once for each interleaved pair.

    Attributes:
        pairs: (ours, peer's) of each pair, in one unit.
        unit: of both.
        meaning: what is divided by what.
        target: the bound the project sets itself, in words.
    """

    pairs: Sequence[tuple[float, float]]
    unit: str
    meaning: str
    target: str

    @property
    def each(self) -> list[float]:
        """Ours over the peer's, pair by pair."""
        return [ours / peer for ours, peer in self.pairs]

    @property
    def median(self) -> float:
        """The figure that is reported."""
        return statistics.median(self.each)


def interleave(
    ours: Callable[[], float], peer: Callable[[], float], pairs: int = PAIRS
) -> list[tuple[float, float]]:
    """Run both arms `pairs` times, the first arm changing from pair to pair."""
    found: list[tuple[float, float]] = []
    for number in range(pairs):
        if number % 2:
            other = peer()
            found.append((ours(), other))
        else:
            mine = ours()
            found.append((mine, peer()))
    return found


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure that is no ratio, once for each round; reported is the median."""

    rounds: Sequence[float]
    unit: str
    meaning: str
    target: str = "none"

    @property
    def median(self) -> float:
        """The figure that is reported."""
        return statistics.median(self.rounds)


def record(
    name: str,
    ratios: Mapping[str, Ratio],
    settings: Mapping[str, Any],
    monitor: QuietMonitor,
    figures: Mapping[str, Figure] | None = None,
    facts: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Print the table and write `results/NAME.json`; `facts` by case, beside what was measured."""
    figures = figures or {}
    width = max(map(len, [*ratios, *figures]))
    print(f"{'figure':{width}}  median   lowest   highest  pairs  target")
    for key, ratio in ratios.items():
        each = ratio.each
        spread = f"{min(each):7.4f}  {max(each):7.4f}"
        print(f"{key:{width}}  {ratio.median:6.4f}  {spread}  {len(each):5}  {ratio.target}")
    for key, figure in figures.items():
        spread = f"{min(figure.rounds):7.2f}  {max(figure.rounds):7.2f}"
        rounds = len(figure.rounds)
        print(f"{key:{width}}  {figure.median:6.2f}  {spread}  {rounds:5}  {figure.target}")
    content = {
        "ratios": {key: round(ratio.median, 4) for key, ratio in ratios.items()},
        "details": {
            key: {
                "meaning": ratio.meaning,
                "unit": ratio.unit,
                "target": ratio.target,
                "pairs_ours_peer": [[round(a, 4), round(b, 4)] for a, b in ratio.pairs],
            }
            for key, ratio in ratios.items()
        },
    }
    if figures:
        content["figures"] = {
            key: {
                "median": round(figure.median, 3),
                "unit": figure.unit,
                "meaning": figure.meaning,
                "target": figure.target,
                "rounds": [round(value, 3) for value in figure.rounds],
            }
            for key, figure in figures.items()
        }
    if facts:
        content["facts"] = {case: dict(found) for case, found in facts.items()}
    _write(name, content, settings, monitor)


def record_facts(
    name: str,
    facts: Mapping[str, Mapping[str, Any]],
    settings: Mapping[str, Any],
    monitor: QuietMonitor,
) -> None:
    """Print what was found, by case, and write `results/NAME.json`."""
    for case, found in facts.items():
        print(f"{case}: " + ", ".join(f"{key}={value}" for key, value in found.items()))
    _write(name, {"facts": {case: dict(found) for case, found in facts.items()}}, settings, monitor)


def _write(
    name: str,
    content: Mapping[str, Any],
    settings: Mapping[str, Any],
    monitor: QuietMonitor,
) -> None:
    quietness = monitor.stop()
    environment = capture_environment()
    print("machine:", "quiet" if quietness.quiet else "; ".join(quietness.reasons))
    whole = {
        "benchmark": name,
        "commit": _commit(),
        "measured_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **content,
        "settings": dict(settings),
        "quiet": quietness.quiet,
        "quiet_reasons": list(quietness.reasons),
        "machine": {
            "cpu": environment.cpu_model,
            "cpus": environment.cpu_count,
            "memory_bytes": environment.memory_bytes,
            "gpus": [gpu.name for gpu in environment.gpus],
            "kernel": environment.kernel,
            "virtual_machine": environment.virtual_machine,
            "python": environment.python,
        },
        "versions": environment.packages,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(whole, indent=1) + "\n")
    print("written:", path)


def _commit() -> str:
    """HEAD, and whether anything but earlier results differs from it; of a bare copy, that."""
    try:
        changed = _git("status", "--porcelain", "--", ":(top)", ":(top,exclude)benchmarks/results")
        return _git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown: no git repository"


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], capture_output=True, text=True, check=True, cwd=RESULTS.parent
    )
    return done.stdout.strip()
