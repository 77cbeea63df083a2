"""When each request of an open loop is meant to be sent, before the first one is.

The moments depend on the load and the seed alone, never on the target: a target that answers late
doesn't get its next request later.
"""

import math

import numpy as np
from numpy.typing import NDArray

from visiondyno.errors import SpecError
from visiondyno.specs.load_test import ConstantLoad, Load, PoissonLoad, RampLoad, SpikeLoad

MOST_REQUESTS = 20_000_000
"""Of one round: each has a row of some 60 bytes."""

_FUZZ = 1e-9
"""`rate * duration` of decimal fractions misses whole numbers by less than this share."""

OpenLoad = ConstantLoad | PoissonLoad | RampLoad | SpikeLoad


def arrivals_s(load: Load, seed: int = 0) -> NDArray[np.float64]:
    """(n,) float64, ascending: seconds from the start of the round, in [0, duration).

    The k-th request (from 0) of a constant load, a ramp or a spike is due when the integral of the
    rate reaches k. Of a Poisson load the number is drawn too, and may be 0.

    Args:
        load: any open load.
        seed: of a Poisson load; the others draw nothing.

    Raises:
        SpecError: more than `MOST_REQUESTS` requests.
        ValueError: a closed loop, which has no schedule.
    """
    if not isinstance(load, OpenLoad):
        # A value of the right type (`Load`) that isn't fit: not a TypeError.
        raise ValueError(  # noqa: TRY004
            "A closed loop has no schedule: its users wait for answers."
        )
    expected = _expected(load)
    if expected > MOST_REQUESTS:
        raise SpecError(
            f"The load is {expected:,.0f} requests and a round holds {MOST_REQUESTS:,}; "
            "lower the rate or shorten the duration."
        )
    if isinstance(load, PoissonLoad):
        return _poisson(load, seed)
    numbers = np.arange(max(1, math.ceil(expected * (1 - _FUZZ))), dtype=np.float64)
    if isinstance(load, RampLoad):
        return _ramp(load, numbers)
    if isinstance(load, SpikeLoad):
        return _spike(load, numbers)
    return numbers / load.rate_per_s


def _expected(load: OpenLoad) -> float:
    """The integral of the rate over the duration."""
    if isinstance(load, RampLoad):
        return (load.from_rate_per_s + load.to_rate_per_s) / 2 * load.duration_s
    if isinstance(load, SpikeLoad):
        above = load.spike_rate_per_s - load.rate_per_s
        return load.rate_per_s * load.duration_s + above * load.spike_duration_s
    return load.rate_per_s * load.duration_s


def _poisson(load: PoissonLoad, seed: int) -> NDArray[np.float64]:
    """Given their number, the arrivals of a Poisson process are independent and uniform."""
    draw = np.random.default_rng(seed)
    count = int(draw.poisson(load.rate_per_s * load.duration_s))
    return np.sort(draw.uniform(0, load.duration_s, count))


def _ramp(load: RampLoad, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Solves `from*t + slope*t²/2 = k`, in the form that loses no digits."""
    first = load.from_rate_per_s
    slope = (load.to_rate_per_s - first) / load.duration_s
    root = np.sqrt(np.maximum(first * first + 2 * slope * numbers, 0))
    due = np.zeros(len(numbers))
    np.divide(2 * numbers, first + root, out=due, where=numbers > 0)
    return np.minimum(due, np.nextafter(load.duration_s, 0))


def _spike(load: SpikeLoad, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    end_s = load.spike_start_s + load.spike_duration_s
    before = load.rate_per_s * load.spike_start_s
    until = before + load.spike_rate_per_s * load.spike_duration_s
    return np.where(
        numbers < before,
        numbers / load.rate_per_s,
        np.where(
            numbers < until,
            load.spike_start_s + (numbers - before) / load.spike_rate_per_s,
            end_s + (numbers - until) / load.rate_per_s,
        ),
    )
