"""Was the generator the limit? Then the figures say more of it than of the target."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from visiondyno.loadtest.recording import Recording
from visiondyno.loadtest.starvation import STARVED
from visiondyno.measurements.percentiles import percentile
from visiondyno.report.load_test import GeneratorFacts

BUSY = 0.9
"""Share of its cores from which on the generator is the limit: a queue in front of one server that
is busy for 0.9 of the time is nine requests long (M/M/1, ρ/(1 − ρ)), so sending lags behind."""

LAG_SHARE = 0.1
"""Lag p99 over this share of the latency's p50 changes the figures visibly: latency counts from the
schedule, so each ms of lag is in it."""

NOTICEABLE_LAG_MS = 1.0
"""Under this, lag is that of any program on a shared machine, and no target is judged by it."""

_WAITED_MS = 0.1
_FILES = ("too many open files", "file descriptor", "emfile")
_PORTS = ("cannot assign requested address", "eaddrnotavail")


def generator_facts(
    recording: Recording, *, is_open: bool, processes: int, connections: int | None
) -> GeneratorFacts:
    """How well the schedule was kept, and whether the generator was the bottleneck.

    Args:
        recording: of one round.
        is_open: the load has a schedule.
        processes: that sent, one thread each.
        connections: the limit that was set.
    """
    lag_ms = recording.lag_ms[~np.isnan(recording.lag_ms)] if is_open else np.empty(0)
    cores = recording.cpu_s / recording.elapsed_s if recording.elapsed_s > 0 else None
    reasons = list(_reasons(recording, lag_ms, cores, processes, connections))
    return GeneratorFacts(
        processes=processes,
        lag_p50_ms=percentile(lag_ms, 0.5) if len(lag_ms) else None,
        lag_p99_ms=percentile(lag_ms, 0.99) if len(lag_ms) else None,
        lag_max_ms=float(lag_ms.max()) if len(lag_ms) else None,
        cpu_cores=cores,
        was_bottleneck=bool(reasons),
        why=" ".join(reasons) or None,
    )


def most_in_flight(recording: Recording) -> int:
    """The most requests that were on their way at once."""
    begun_ns = recording.sent_ns if recording.begun_ns is None else recording.begun_ns
    begun = begun_ns >= 0
    if not begun.any():
        return 0
    begins, ends = begun_ns[begun], recording.done_ns[begun]
    moments = np.concatenate([begins, ends])
    steps = np.concatenate([np.ones(len(begins), np.int64), -np.ones(len(ends), np.int64)])
    # At one and the same moment an end comes first: its connection is free for what begins.
    order = np.lexsort((steps, moments))
    return int(np.cumsum(steps[order]).max())


def _reasons(
    recording: Recording,
    lag_ms: NDArray[np.float64],
    cores: float | None,
    processes: int,
    connections: int | None,
) -> Iterable[str]:
    for parts, sentence in (
        (_FILES, "The generator ran out of file descriptors; raise the limit with 'ulimit -n'."),
        (
            _PORTS,
            "The generator ran out of local ports; use fewer connections or several machines.",
        ),
    ):
        if any(part in message.lower() for message in recording.errors for part in parts):
            yield sentence
    if connections is not None and _waited(recording, lag_ms, connections):
        yield (
            f"All {connections} connections were in use and requests waited for a free one; raise "
            "--connections, or leave it out."
        )
    elif cores is not None and cores >= BUSY * processes:
        yield (
            f"The generator kept {cores:.2f} of its {processes} cores busy; spread it over more "
            f"processes with --generators {2 * processes}."
        )
    elif STARVED in recording.notes:
        yield (
            "The generator waited for a processor for over a tenth of the time, so answers were "
            "seen later than they came: its machine was too busy. Send from another machine."
        )
    elif _lags(recording, lag_ms):
        yield (
            f"Requests left late (p99 {percentile(lag_ms, 0.99):.3g} ms after the schedule): the "
            "generator's machine was too busy. Send from another machine, or with --generators "
            f"{2 * processes}."
        )


def _waited(recording: Recording, lag_ms: NDArray[np.float64], connections: int) -> bool:
    late = bool(len(lag_ms)) and percentile(lag_ms, 0.99) > _WAITED_MS
    return late and most_in_flight(recording) >= connections


def _lags(recording: Recording, lag_ms: NDArray[np.float64]) -> bool:
    answered = recording.first_byte_ns >= 0
    if not len(lag_ms) or not answered.any():
        return False
    typical_ms = percentile(recording.latency_ms[answered], 0.5)
    lag_p99_ms = percentile(lag_ms, 0.99)
    return lag_p99_ms > NOTICEABLE_LAG_MS and lag_p99_ms > LAG_SHARE * typical_ms
