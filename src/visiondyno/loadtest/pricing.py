"""What a thousand good answers cost: a machine by the hour, or Cloud Run by what it allocates."""

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from visiondyno.loadtest.recording import Outcome, Recording
from visiondyno.measurements.measure import Measure
from visiondyno.report.load_test import Resources
from visiondyno.specs.load_test import Pricing

UNIT = "USD/1000 requests"

Billing = Literal["request", "instance"]

CLOUD_RUN_PRICE_DATE = "2026-10"
CLOUD_RUN_PRICE_SOURCE = "list price of Cloud Run services, regions of tier 1"

_BILLED_STEP_NS = 100_000_000
"""Cloud Run rounds billable time up to 100 ms."""


@dataclass(frozen=True, slots=True)
class CloudRunPrice:
    """Prices of one way of billing, USD; free tier and discounts left out.

    Attributes:
        usd_per_vcpu_s, usd_per_gib_s: of time that is billed.
        usd_per_million_requests: None: they cost nothing by themselves.
    """

    usd_per_vcpu_s: float
    usd_per_gib_s: float
    usd_per_million_requests: float | None


CLOUD_RUN_TIER_1: dict[Billing, CloudRunPrice] = {
    "request": CloudRunPrice(0.000024, 0.0000025, 0.40),
    "instance": CloudRunPrice(0.000018, 0.000002, None),
}
"""cloud.google.com/run/pricing, seen 2026-10. `request`: time in which an instance has a request;
`instance`: the whole life of an instance. Instances kept warm under `request` cost besides, at a
lower price, while they idle; that isn't in here."""


def cloud_run_pricing(billing: Billing, vcpus: float, memory_gib: float) -> Pricing:
    """Cloud Run's list prices for instances of that size."""
    price = CLOUD_RUN_TIER_1[billing]
    return Pricing(
        usd_per_vcpu_s=price.usd_per_vcpu_s,
        usd_per_gib_s=price.usd_per_gib_s,
        usd_per_million_requests=price.usd_per_million_requests,
        vcpus=vcpus,
        memory_gib=memory_gib,
        source=(
            f"{CLOUD_RUN_PRICE_SOURCE}, {billing}-based billing, {CLOUD_RUN_PRICE_DATE}; no free "
            "tier"
        ),
    )


def cost_usd_per_1000_requests(
    pricing: Pricing | None,
    recording: Recording,
    resources: Resources | None,
    round_s: float | None = None,
) -> Measure | None:
    """What the target costs during a round, for a thousand of its good answers.

    Answers that weren't good cost as much and are worth nothing, so they make the good ones dearer.

    The parts that have a price are added: `usd_per_hour` × the round's time (whatever the number of
    instances); allocated vCPUs and GiB × billed instance time; requests that went out.
    With a price on requests, billed instance time is that in which an instance has a request, as
    far as it can be seen from here (Cloud Run's request-based billing); else it is the instances'
    whole time. Both are rounded up to 100 ms, as Cloud Run does.

    Args:
        pricing: None: no price is known.
        recording: of the round.
        resources: whose samples tell how many instances there were.
        round_s: seconds that are paid for; None: to the last end.

    Returns:
        None where no price is known; a measure without a value where nothing was answered well.
    """
    if pricing is None or not _has_price(pricing):
        return None
    good = int(np.count_nonzero(recording.having(Outcome.GOOD)))
    if good == 0:
        return Measure(
            value=None, unit=UNIT, method="none", n=0, reason="no request got a good answer"
        )
    usd, how, estimated = 0.0, [], False
    round_s = recording.elapsed_s if round_s is None else round_s
    if pricing.usd_per_hour is not None:
        usd += pricing.usd_per_hour / 3600 * round_s
        how.append(f"{pricing.usd_per_hour:g} USD/h × {round_s:.1f} s")
    if pricing.usd_per_vcpu_s is not None or pricing.usd_per_gib_s is not None:
        billed = _billed_time(pricing, recording, resources, round_s)
        usd += billed.seconds * usd_per_instance_s(pricing)
        how.append(f"{_allocation(pricing)} × {billed.seconds:.1f} s ({billed.how})")
        estimated = billed.estimated
    if pricing.usd_per_million_requests is not None:
        reached = _went_out(recording)
        usd += pricing.usd_per_million_requests * np.count_nonzero(reached) / 1e6
        how.append(f"{pricing.usd_per_million_requests:g} USD a million requests")
    return Measure(
        value=float(1000 * usd / good),
        unit=UNIT,
        n=good,
        method=f"{' + '.join(how)}, for 1000 good answers; prices: {pricing.source}",
        estimated=estimated,
    )


def usd_per_instance_s(pricing: Pricing) -> float:
    """What a second of one instance costs."""
    return (pricing.usd_per_vcpu_s or 0.0) * pricing.vcpus + (
        pricing.usd_per_gib_s or 0.0
    ) * pricing.memory_gib


def busy_s(began_ns: NDArray[np.int64], ended_ns: NDArray[np.int64], instances: float = 1) -> float:
    """Billed time of instances that are billed while they have a request.

    Which instance had which request can't be seen from outside. One instance has all: the time
    that is inside at least one request, each stretch rounded up to 100 ms. Several have at most
    that time each, and together at most the sum of all requests, each rounded up: the smaller one
    is taken.

    Args:
        began_ns: (n,) when each request was sent.
        ended_ns: (n,) when it ended, not before it began.
        instances: that there were, at least 1.
    """
    if len(began_ns) == 0:
        return 0.0
    order = np.argsort(began_ns, kind="stable")
    began, ended = began_ns[order], np.maximum.accumulate(ended_ns[order])
    # A stretch begins where a request begins after all before it have ended.
    first = np.concatenate(([True], began[1:] > ended[:-1]))
    last = np.concatenate((first[1:], [True]))
    stretches_s = _rounded_up_s(ended[last] - began[first])
    requests_s = _rounded_up_s(ended_ns - began_ns)
    return float(min(instances * stretches_s, requests_s))


def mean_instances(resources: Resources | None) -> float | None:
    """How many instances there were, each sample standing until the next; None: nobody told."""
    told = [
        (sample.at_s, sample.replicas)
        for sample in (resources.samples if resources is not None else ())
        if sample.replicas is not None
    ]
    if not told:
        return None
    spans = [after[0] - before[0] for before, after in itertools.pairwise(told)]
    if sum(spans) <= 0:
        return float(np.mean([replicas for _, replicas in told]))
    counts = [replicas for _, replicas in told[:-1]]
    return float(np.average(counts, weights=spans))


@dataclass(frozen=True, slots=True)
class _Billed:
    seconds: float
    how: str
    estimated: bool


def _has_price(pricing: Pricing) -> bool:
    prices = (
        pricing.usd_per_hour,
        pricing.usd_per_vcpu_s,
        pricing.usd_per_gib_s,
        pricing.usd_per_million_requests,
    )
    return any(price is not None for price in prices)


def _billed_time(
    pricing: Pricing, recording: Recording, resources: Resources | None, round_s: float
) -> _Billed:
    told = mean_instances(resources)
    # Somebody answered: a count of none was taken at another moment.
    instances = max(1.0, told) if told else 1.0
    words = f"{instances:.3g} instances by samples" if told else "1 instance ASSUMED"
    if pricing.usd_per_million_requests is None:
        whole_ns = round(round_s * 1e9)
        seconds = instances * _rounded_up_s(np.array([whole_ns]))
        return _Billed(seconds, f"instance-based: {words} × the round", estimated=not told)
    went = _went_out(recording)
    seconds = busy_s(recording.sent_ns[went], recording.done_ns[went], instances)
    how = f"request-based: time with a request, the network's counted, {words}"
    return _Billed(seconds, how, estimated=True)


def _went_out(recording: Recording) -> NDArray[np.bool_]:
    """(n,) whether the target may have got the request."""
    return recording.sent_ns >= 0


def _allocation(pricing: Pricing) -> str:
    parts = []
    if pricing.usd_per_vcpu_s is not None:
        parts.append(f"{pricing.vcpus:g} vCPU × {pricing.usd_per_vcpu_s:g} USD/s")
    if pricing.usd_per_gib_s is not None:
        parts.append(f"{pricing.memory_gib:g} GiB × {pricing.usd_per_gib_s:g} USD/s")
    return f"({' + '.join(parts)})"


def _rounded_up_s(durations_ns: NDArray[np.int64]) -> float:
    """Sum of durations, each rounded up to what is billed."""
    steps = -(-durations_ns // _BILLED_STEP_NS)
    return math.fsum(steps.tolist()) * _BILLED_STEP_NS / 1e9
