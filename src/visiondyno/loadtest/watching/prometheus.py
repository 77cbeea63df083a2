"""Watches a target by its page of metrics in Prometheus' format."""

import asyncio
import math
import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import httpx
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from visiondyno.errors import SpecError, Unavailable
from visiondyno.loadtest.redaction import public_url
from visiondyno.loadtest.watching.base import Clock, CounterSum, Reading, SamplingWatcher
from visiondyno.loopback import past_proxies

CPU_COUNTERS = ("process_cpu_seconds_total", "visiondyno_replica_cpu_seconds_total")
MEMORY_GAUGES = ("process_resident_memory_bytes", "visiondyno_replica_resident_bytes")
REPLICAS = "visiondyno_replicas"
COLD_STARTS = "visiondyno_cold_start_seconds"
_WANTED = (*CPU_COUNTERS, *MEMORY_GAUGES, REPLICAS, COLD_STARTS)
_ACCEPTED = {"accept": "text/plain; version=0.0.4"}
_TIMEOUT_S = 5.0
_MOST_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class MetricsPage:
    """What a page of metrics says of a target's use and replicas.

    Attributes:
        cpu_s: counter by series, seconds; empty where the page has none.
        memory_bytes: resident, of all its processes; None where the page has none.
        replicas: by state; empty where the page has none.
        cold_starts: by phase, the sum in seconds and the count of replicas' starts.
    """

    cpu_s: dict[Hashable, float]
    memory_bytes: int | None
    replicas: dict[str, int]
    cold_starts: dict[str, tuple[float, int]]


async def read_page(client: httpx.AsyncClient, url: str) -> MetricsPage:
    """Ask for a page of metrics and read it.

    Raises:
        Unavailable: nothing answered, or not with the page.
        SpecError: the answer isn't in Prometheus' format.
    """
    shown = public_address(url)
    try:
        async with client.stream("GET", url, headers=_ACCEPTED) as answer:
            status = answer.status_code
            body = bytearray()
            async for part in answer.aiter_bytes():
                body += part
                if len(body) > _MOST_BYTES:
                    raise SpecError(f"The page of metrics {shown} is over {_MOST_BYTES >> 20} MiB.")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        why = str(error) or type(error).__name__
        raise Unavailable(f"The page of metrics {shown} can't be read: {why}.") from None
    if status != httpx.codes.OK:
        raise Unavailable(
            f"The page of metrics {shown} was answered with status {status}; give the address of "
            "the target's metrics, and the key it asks for as a header."
        )
    return await asyncio.to_thread(parse_page, bytes(body), shown)


def parse_page(body: bytes, url: str) -> MetricsPage:
    """Read a page of metrics.

    Raises:
        SpecError: it isn't in Prometheus' format.
    """
    try:
        families = _parsed(body.decode())
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise SpecError(
            f"The page {url} isn't in Prometheus' text format ({str(error)[:100]}); give the "
            "address of the target's metrics."
        ) from None
    return _page(families)


def _parsed(text: str) -> list[Metric]:
    """The families that are wanted; of the others the first line alone, as a page may have many."""
    lines = text.splitlines()
    first = next((line for line in lines if line.strip() and line[0] != "#"), None)
    if first is None:
        raise ValueError("it holds no metric")
    list(text_string_to_metric_families(f"{first}\n"))
    wanted = [line for line in lines if line.removeprefix("# TYPE ").startswith(_WANTED)]
    return list(text_string_to_metric_families("\n".join([*wanted, ""])))


def _page(families: Iterable[Metric]) -> MetricsPage:
    samples = [
        sample for family in families for sample in family.samples if math.isfinite(sample.value)
    ]
    cpu: dict[Hashable, float] = {
        (sample.name, *sorted(sample.labels.items())): float(sample.value)
        for sample in samples
        if sample.name in CPU_COUNTERS
    }
    memory = [sample.value for sample in samples if sample.name in MEMORY_GAUGES]
    starts: dict[str, list[float]] = {}
    for sample in samples:
        if sample.name in {f"{COLD_STARTS}_sum", f"{COLD_STARTS}_count"}:
            both = starts.setdefault(sample.labels.get("phase", ""), [0.0, 0.0])
            both[sample.name.endswith("_count")] += sample.value
    return MetricsPage(
        cpu_s=cpu,
        memory_bytes=int(sum(memory)) if memory else None,
        replicas={
            sample.labels.get("state", ""): int(sample.value)
            for sample in samples
            if sample.name == REPLICAS
        },
        cold_starts={phase: (total_s, int(count)) for phase, (total_s, count) in starts.items()},
    )


class PrometheusWatcher(SamplingWatcher):
    """Processor time and memory as the target's own page of metrics tells them.

    Of every program with Prometheus' usual process metrics, and of `dyno serve` besides those of
    its replicas, added up, and how many are ready.
    """

    cpu_method = f"{' + '.join(CPU_COUNTERS)} of the page, as far as it has them; resets added up"

    def __init__(
        self,
        url: str,
        interval_s: float = 1.0,
        clock: Clock | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        client: Callable[[], httpx.AsyncClient] | None = None,
    ) -> None:
        """Watches the page at `url`, asked for with `headers`."""
        super().__init__(interval_s, clock)
        self._url = url
        self._shown = public_address(url)
        self._make_client = client or partial(metrics_client, url, headers)
        self._client: httpx.AsyncClient | None = None
        self._cpu = CounterSum()

    async def check(self) -> None:
        async with self._make_client() as client:
            page = await read_page(client, self._url)
        if not page.cpu_s and page.memory_bytes is None:
            raise SpecError(
                f"The page of metrics {self._shown} tells neither processor time "
                f"({CPU_COUNTERS[0]}) nor memory ({MEMORY_GAUGES[0]}); watch the target by its "
                "process (pid) or cgroup instead."
            )

    async def _open(self) -> None:
        self._cpu = CounterSum()
        self._client = self._make_client()

    async def _close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def _read(self) -> Reading:
        assert self._client is not None
        try:
            page = await read_page(self._client, self._url)
        except (Unavailable, SpecError) as error:
            return Reading(cpu_problem=error.message, memory_problem=error.message)
        return Reading(
            cpu_s=self._cpu.read(page.cpu_s) if page.cpu_s else None,
            memory_bytes=page.memory_bytes,
            replicas=page.replicas.get("ready"),
            cpu_problem=None if page.cpu_s else self._lacks(CPU_COUNTERS[0]),
            memory_problem=None if page.memory_bytes is not None else self._lacks(MEMORY_GAUGES[0]),
        )

    def _lacks(self, name: str) -> str:
        return f"the page {self._shown} has no {name}"

    def _source(self) -> str:
        return f"metrics of {self._shown}, asked for every {self._interval_s:g} s"

    def _peak(self, highest_bytes: int, readings: int) -> tuple[int, str]:
        names = " + ".join(MEMORY_GAUGES)
        return (
            highest_bytes,
            f"highest of {readings} samples of {names}, as far as the page has them",
        )


def metrics_client(url: str, headers: Mapping[str, str] | None = None) -> httpx.AsyncClient:
    """A client for a page of metrics; one of this machine is asked without the proxy.

    Raises:
        SpecError: the address is no URL.
    """
    try:
        mounts = past_proxies(url)
    except ValueError:
        raise SpecError(f"The address of metrics '{public_address(url)}' isn't a URL.") from None
    return httpx.AsyncClient(headers=dict(headers or {}), timeout=_TIMEOUT_S, mounts=mounts)


def public_address(url: str) -> str:
    """The URL without user, password and the values of secret parameters, for records, messages."""
    try:
        return public_url(url)
    except ValueError:  # no URL, as the message says
        return re.sub(r"//[^/?#]*@|\?.*", "//", url)
