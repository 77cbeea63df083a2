"""What an ended job's answer tells of money and energy."""

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from visiondyno.errors import SpecError
from visiondyno.job import JobAnswer
from visiondyno.measurements.measure import Measure
from visiondyno.probes.cost import find_price

COUNTER, ESTIMATE = "counter", "estimate"


def cost_usd(answer: JobAnswer) -> float | None:
    """USD of the job's last attempt: its time on a worker × the price that its spec names.

    A lower bound: start-up, idle time and the provider's rounding aren't in it. None where the
    answer names no price (`benchmark` does where it was asked with one) or no time.
    """
    price = _dig(answer.output, "comparison", "spec", "price")
    if not isinstance(price, str) or answer.execution_time_ms is None:
        return None
    try:
        usd_per_hour = find_price(price).usd_per_hour
    except SpecError:  # another version's name of it
        return None
    return answer.execution_time_ms / 1000 * usd_per_hour / 3600


def energy_joules(answer: JobAnswer) -> dict[str, float]:
    """Joules that the job's own measuring windows took, by source.

    `counter`: read from hardware; `estimate`: assumed power × time. What ran outside the windows
    isn't in it. Empty where the job measured none.
    """
    found: dict[str, float] = {}
    for measure in _energies(answer.output):
        if measure.value is None or measure.n is None:
            continue
        source = ESTIMATE if measure.estimated else COUNTER
        found[source] = found.get(source, 0.0) + measure.value * measure.n
    return found


def _energies(output: dict[str, Any] | None) -> Iterator[Measure]:
    """Joules an image with the number of images, of each model and each measured training."""
    models = _dig(output, "comparison", "models")
    told = [
        _dig(model, "measures", "energy_joules_per_image")
        for model in (models if isinstance(models, list) else [])
    ]
    told.append(_dig(output, "measurements", "energy_joules"))
    for one in told:
        try:
            measure = Measure.model_validate(one)
        except ValidationError:  # not told, or by an operation that calls something else so
            continue
        if measure.value is None or measure.value >= 0:
            yield measure


def _dig(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
