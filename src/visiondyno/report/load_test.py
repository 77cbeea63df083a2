"""The record of a load test: what was sent, what came back, what it cost; every form is made of it.

Percentiles are of requests with a good answer and of those that ran into the time limit, whose
latency is at least the limit; a percentile that falls among the latter has no value but a reason.
Requests that failed otherwise (a wrong status, no connection) are counted, and have no latency.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from visiondyno.measurements.measure import Interval, Measure


class _Value(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Second(_Value):
    """One second of a round, by when requests were scheduled.

    Attributes:
        at_s: from the round's start.
        scheduled, good, bad_status, timeouts, connection_errors: requests that were scheduled in
            this second, and how they ended later on.
        answered: whole answers that came in this second, whenever they had been scheduled.
        p50_ms, p99_ms: latency of the good ones; None where there were none.
    """

    at_s: int
    scheduled: int
    answered: int
    good: int
    bad_status: int
    timeouts: int
    connection_errors: int
    p50_ms: float | None
    p99_ms: float | None


class SingleRequests(_Value):
    """Each request of a short round by itself, in order of schedule; all lists are as long.

    Attributes:
        at_s: scheduled moment, from the round's start.
        latency_ms: to the whole answer or the failure; None where it was never sent.
        outcome: `loadtest.recording.Outcome` as a number.
    """

    at_s: tuple[float, ...]
    latency_ms: tuple[float | None, ...]
    outcome: tuple[int, ...]


class ResourceSample(_Value):
    """The target's processor and memory at one moment.

    Attributes:
        at_s: from the round's start.
        cpu_cores: cores in use since the sample before; None where it couldn't be read.
        memory_bytes: resident, of all its processes; None where it couldn't be read.
        replicas: instances ready; None where nobody tells.
    """

    at_s: float
    cpu_cores: float | None
    memory_bytes: int | None
    replicas: int | None = None


class Resources(_Value):
    """What watching a target found.

    Attributes:
        source: what was read, in words.
        samples: over the round.
        cpu_cores_mean: Measure, unit `cores`.
        peak_memory_bytes: Measure, unit `bytes`.
    """

    source: str
    samples: tuple[ResourceSample, ...]
    cpu_cores_mean: Measure
    peak_memory_bytes: Measure


class GeneratorFacts(_Value):
    """How well the generator kept its schedule.

    Attributes:
        processes: that sent.
        lag_p50_ms, lag_p99_ms, lag_max_ms: sending after the scheduled moment; None: nothing was
            sent, or a closed loop has no schedule.
        cpu_cores: used by the generator.
        was_bottleneck: whether the figures say more of the generator than of the target.
        why: the sentence for that; also says what would help.
    """

    processes: int
    lag_p50_ms: float | None
    lag_p99_ms: float | None
    lag_max_ms: float | None
    cpu_cores: float | None
    was_bottleneck: bool
    why: str | None


class RoundResult(_Value):
    """One target under the load once.

    Attributes:
        number: from 1.
        started_at: UTC, ISO 8601.
        elapsed_s: from the first scheduled moment to the last end.
        requests: scheduled.
        outcomes: requests by `loadtest.recording.Outcome` name in lower case; those that came.
        status_codes: answers by HTTP status.
        status_classes: 2xx, 3xx, 4xx, 5xx, timeouts, connection_errors, not_sent.
        errors: messages of failures with how often each came, the most frequent first.
        measures: `latency_p50_ms`, `latency_p90_ms`, `latency_p95_ms`, `latency_p99_ms`,
            `latency_p999_ms`, `latency_max_ms`, `latency_mean_ms`, `service_p50_ms`,
            `service_p99_ms` (from sending instead of from the schedule), `first_byte_p50_ms`,
            `throughput_requests_per_s` (good answers), `offered_requests_per_s`,
            `error_fraction`, `new_connections`.
        stages: mean of each stage the target told of, unit ms.
        hdr: latencies of good answers, in HdrHistogram's V2 compressed encoding (base64), unit µs.
        seconds: the course over time.
        singles: each request by itself; None where there were too many to keep.
        resources: None where nothing was watched.
        generator: see there.
        cost_usd_per_1000_requests: None where no price is known.
    """

    number: int
    started_at: str
    elapsed_s: float
    requests: int
    outcomes: dict[str, int]
    status_codes: dict[str, int]
    status_classes: dict[str, int]
    errors: dict[str, int]
    measures: dict[str, Measure]
    stages: dict[str, Measure]
    hdr: str
    seconds: tuple[Second, ...]
    singles: SingleRequests | None
    resources: Resources | None
    generator: GeneratorFacts
    cost_usd_per_1000_requests: Measure | None


class ColdStart(_Value):
    """From zero to the first good answer, once.

    Attributes:
        kind: `process`: a command was started; `idle`: a service that had scaled to zero was asked.
        total_ms: from the start (or the first request) to the first whole good answer.
        process_start_ms: until the model's process runs our code with its packages imported.
        model_load_ms: until the model is loaded.
        first_inference_ms: the first (warm-up) inference.
        rest_ms: what these three leave of the total: listening, routing, the request itself.
        warm_ms: the same request right after, for comparison.
        told_by: who told the three parts (`Server-Timing`, metrics); None where nobody did, and
            then they are None.
    """

    kind: Literal["process", "idle"]
    total_ms: float
    process_start_ms: float | None
    model_load_ms: float | None
    first_inference_ms: float | None
    rest_ms: float | None
    warm_ms: float | None
    told_by: str | None


class RateTry(_Value):
    """One try of the search for the highest rate."""

    rate_per_s: float
    p99_ms: float | None
    error_fraction: float
    held: bool
    why_not: str | None


class RateSearch(_Value):
    """The highest rate that keeps p99 under the limit, with no failed request beyond the allowed.

    Attributes:
        limit_ms: of p99 (its early-stopping bound, as in MLPerf's server scenario).
        best_rate_per_s: None where even the lowest rate tried broke it.
        tries: in order.
    """

    limit_ms: float
    best_rate_per_s: float | None
    tries: tuple[RateTry, ...]


class TargetResult(_Value):
    """One target.

    Attributes:
        name: for tables; each only once in a test.
        url: as asked, without user information.
        rounds: in order.
        measures: those of the rounds together (`measurements.repeats` with several).
        resources_measures: `cpu_cores_mean` and `peak_memory_bytes` of the rounds together.
        cost_usd_per_1000_requests: of the rounds together.
        cold_starts: those measured.
        search: where one was asked for.
        notes: what a reader must know.
    """

    name: str
    url: str
    rounds: tuple[RoundResult, ...]
    measures: dict[str, Measure]
    resources_measures: dict[str, Measure] = {}
    cost_usd_per_1000_requests: Measure | None = None
    cold_starts: tuple[ColdStart, ...] = ()
    search: RateSearch | None = None
    notes: tuple[str, ...] = ()


class TargetDifference(_Value):
    """One measure of a target less that of the first target.

    Attributes:
        measure: its name.
        target: whose, against the first target's.
        difference: in `unit`.
        interval: 95 %.
        verdict: whether the interval leaves out 0, in words: `higher`, `lower`, `level`, `unknown`.
    """

    measure: str
    target: str
    difference: float | None
    unit: str
    interval: Interval | None
    verdict: Literal["higher", "lower", "level", "unknown"]


class StrategyRow(_Value):
    """One scaling strategy in the table of `--strategies`.

    Attributes:
        strategy: `always-warm` or `scale-to-zero`.
        replicas: as given to the server, e.g. `2` or `0-2`.
        cold_start: of its first request after idling; None: it never is at zero.
        measures: `startup_ms` (process to ready), `cold_first_answer_ms`, `warm_latency_p50_ms`,
            `warm_latency_p99_ms`, `burst_latency_p99_ms`, `idle_memory_bytes`,
            `peak_memory_bytes`, `idle_cpu_cores`, `busy_cpu_cores`, `error_fraction`,
            `cost_usd_per_1000_requests` where a price is given.
        samples: processor and memory over the whole pattern.
    """

    strategy: Literal["always-warm", "scale-to-zero"]
    replicas: str
    cold_starts: tuple[ColdStart, ...]
    measures: dict[str, Measure]
    samples: tuple[ResourceSample, ...]


class LoadTestResult(_Value):
    """A whole load test; `schema` names the version of this form.

    Attributes:
        spec: as it was run (`specs.load_test.LoadTestSpec` as JSON; secrets in headers replaced).
        environment: of the generator's machine (`environment.Environment` as JSON).
        targets: in the order given.
        differences: of each later target to the first.
        strategies: of `--strategies`.
        quiet, quiet_reasons: whether the generator's machine was.
        was_stopped: the user stopped it; what was measured until then is here.
        notes: what a reader must know.
    """

    schema_name: Literal["visiondyno.loadtest/1"] = "visiondyno.loadtest/1"
    version: str
    created_at: str
    spec: dict[str, Any]
    environment: dict[str, Any]
    targets: tuple[TargetResult, ...]
    differences: tuple[TargetDifference, ...] = ()
    strategies: tuple[StrategyRow, ...] = ()
    quiet: bool
    quiet_reasons: tuple[str, ...] = ()
    was_stopped: bool = False
    notes: tuple[str, ...] = ()
