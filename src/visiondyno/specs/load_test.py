"""What a load test is: which targets, under which load, for how long, and what must hold."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

_Seconds = Annotated[float, Field(gt=0, le=7 * 86_400)]
_Rate = Annotated[float, Field(gt=0, le=1_000_000)]
_Name = Annotated[str, Field(min_length=1, max_length=100)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ConstantLoad(_Part):
    """Open loop: a request every `1/rate_per_s` seconds, whatever the target does."""

    kind: Literal["constant"] = "constant"
    rate_per_s: _Rate = 10.0
    duration_s: _Seconds = 30.0


class PoissonLoad(_Part):
    """Open loop: independent exponential gaps with the mean `1/rate_per_s`, drawn from the seed."""

    kind: Literal["poisson"] = "poisson"
    rate_per_s: _Rate = 10.0
    duration_s: _Seconds = 30.0


class RampLoad(_Part):
    """Open loop: the rate grows (or falls) in a straight line, in steady steps of arrival."""

    kind: Literal["ramp"] = "ramp"
    from_rate_per_s: Annotated[float, Field(ge=0, le=1_000_000)]
    to_rate_per_s: Annotated[float, Field(ge=0, le=1_000_000)]
    duration_s: _Seconds = 60.0

    @model_validator(mode="after")
    def _sends_something(self) -> Self:
        if self.from_rate_per_s == self.to_rate_per_s == 0:
            raise ValueError("a ramp from 0 to 0 sends nothing; give one end a rate")
        return self


class SpikeLoad(_Part):
    """Open loop: a constant rate, and for a while a higher one.

    Attributes:
        rate_per_s: before and after the spike.
        spike_rate_per_s: in the spike.
        spike_start_s, spike_duration_s: when it begins, how long it lasts; it lies inside.
        duration_s: of the whole.
    """

    kind: Literal["spike"] = "spike"
    rate_per_s: _Rate = 10.0
    spike_rate_per_s: _Rate = 50.0
    spike_start_s: Annotated[float, Field(ge=0, le=7 * 86_400)] = 10.0
    spike_duration_s: _Seconds = 5.0
    duration_s: _Seconds = 30.0

    @model_validator(mode="after")
    def _lies_inside(self) -> Self:
        if self.spike_start_s + self.spike_duration_s > self.duration_s:
            raise ValueError("the spike ends after the test; make duration_s longer")
        return self


class ClosedLoad(_Part):
    """Closed loop: so many users, each sending its next request after the answer to its last.

    Its latencies leave out the waiting that an open loop would see (coordinated omission); the
    report says so.

    Attributes:
        concurrency: users.
        think_time_s: between an answer and the next request.
        requests: of all users together; None: as many as `duration_s` holds.
    """

    kind: Literal["closed"] = "closed"
    concurrency: Annotated[int, Field(ge=1, le=100_000)] = 1
    think_time_s: Annotated[float, Field(ge=0, le=86_400)] = 0.0
    duration_s: _Seconds = 30.0
    requests: Annotated[int, Field(ge=1)] | None = None


Load = Annotated[
    ConstantLoad | PoissonLoad | RampLoad | SpikeLoad | ClosedLoad, Field(discriminator="kind")
]


class WatchedProcess(_Part):
    """A process of this machine, with its children."""

    kind: Literal["pid"] = "pid"
    pid: Annotated[int, Field(ge=1)]


class WatchedCgroup(_Part):
    """A cgroup (v2 or v1) of this machine, by the path of its folder."""

    kind: Literal["cgroup"] = "cgroup"
    path: str


class WatchedMetrics(_Part):
    """A page of metrics in Prometheus' format: the target's own, or `None` for `/metrics` of it."""

    kind: Literal["prometheus"] = "prometheus"
    url: str | None = None


class WatchedCloudRun(_Part):
    """A Cloud Run service, by Google Cloud Monitoring.

    Attributes:
        project, service, location: which.
        credentials_file: key file of a service account that may read metrics; None: that in
            `GOOGLE_APPLICATION_CREDENTIALS`.
    """

    kind: Literal["cloud-run"] = "cloud-run"
    project: str
    service: str
    location: str
    credentials_file: str | None = None


Watched = Annotated[
    WatchedProcess | WatchedCgroup | WatchedMetrics | WatchedCloudRun, Field(discriminator="kind")
]


class Pricing(_Part):
    """What the target costs; what is None costs nothing.

    Attributes:
        usd_per_hour: of the machine (or all of them together) while the test runs.
        usd_per_vcpu_s, usd_per_gib_s: of allocated time, as Cloud Run bills it.
        usd_per_million_requests: on top.
        vcpus, memory_gib: allocated to each instance, for the two prices by the second.
        source: where the prices come from, for the report.
    """

    usd_per_hour: Annotated[float, Field(ge=0)] | None = None
    usd_per_vcpu_s: Annotated[float, Field(ge=0)] | None = None
    usd_per_gib_s: Annotated[float, Field(ge=0)] | None = None
    usd_per_million_requests: Annotated[float, Field(ge=0)] | None = None
    vcpus: Annotated[float, Field(gt=0)] = 1.0
    memory_gib: Annotated[float, Field(gt=0)] = 0.5
    source: str = "given by the user"


class TargetSpec(_Part):
    """Where requests go, and what they are.

    Attributes:
        url: `http://` or `https://`, with path and query. With a bare host the path is `/predict`
            when images are sent.
        name: for tables; None: host and path.
        method: None: POST with a body, else GET.
        headers: sent with each request.
        images: files, folders of them, or scenes such as `street:val:4`, sent as bodies in turn
            (`Content-Type` by their content).
        body_file, json_body: another body; at most one of the three kinds.
        expect_status: which answers count as good; None: 200 to 299.
        expect_json_key: a good answer is a JSON object that has this key.
        watch: whose processor time and memory are measured.
        pricing: what it costs.
    """

    url: str
    name: _Name | None = None
    method: Literal["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH"] | None = None
    headers: dict[str, str] = {}
    images: tuple[str, ...] = ()
    body_file: str | None = None
    json_body: Any = None
    expect_status: tuple[int, ...] | None = None
    expect_json_key: str | None = None
    watch: Watched | None = None
    pricing: Pricing | None = None

    @model_validator(mode="after")
    def _has_one_body(self) -> Self:
        given = [bool(self.images), self.body_file is not None, self.json_body is not None]
        if sum(given) > 1:
            raise ValueError("give one of 'images', 'body_file' and 'json_body'")
        return self


class LoadTestSpec(_Part):
    """One load test, as flags or a YAML file say it.

    Attributes:
        targets: one or more, under the same load; several take turns, round by round.
        load: what is sent when.
        rounds: how often each target is put under the load; with several targets at least 3 make
            intervals on the differences.
        warmup_requests: sent one after another before each round, not counted.
        timeout_s: a request without a whole answer after so long, from when it was sent, has
            failed; its connection is closed.
        connections: most at once to a target; a request that finds none free waits, and the wait
            counts. None: as many as are needed.
        generators: processes that send; each takes its share of the schedule.
        latency_limit_ms: p99 that must hold; with `find_rate` the limit of the search.
        find_rate: search for the highest rate that keeps `latency_limit_ms`; `load` gives kind
            (constant or poisson) and duration of each try.
        pause_s: between rounds.
        seed: of whatever is drawn.
    """

    targets: Annotated[tuple[TargetSpec, ...], Field(min_length=1, max_length=20)]
    load: Load = ConstantLoad()
    rounds: Annotated[int, Field(ge=1, le=100)] = 1
    warmup_requests: Annotated[int, Field(ge=0, le=10_000)] = 3
    timeout_s: _Seconds = 30.0
    connections: Annotated[int, Field(ge=1, le=100_000)] | None = None
    generators: Annotated[int, Field(ge=1, le=256)] = 1
    latency_limit_ms: Annotated[float, Field(gt=0)] | None = None
    find_rate: bool = False
    pause_s: Annotated[float, Field(ge=0, le=86_400)] = 0.0
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.find_rate and self.latency_limit_ms is None:
            raise ValueError("a search for the highest rate needs 'latency_limit_ms'")
        if self.find_rate and self.load.kind not in {"constant", "poisson"}:
            raise ValueError("a search for the highest rate sends at constant or Poisson rates")
        return self
