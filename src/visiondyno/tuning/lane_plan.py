"""From the places that a study names to its lanes."""

import math
from collections.abc import Sequence
from dataclasses import replace

from visiondyno.client.async_client import AsyncClient
from visiondyno.errors import SpecError
from visiondyno.executors.cost import Cost
from visiondyno.executors.runpod_cost import CostMeter
from visiondyno.places import Place, check_place, make_meter, without_password
from visiondyno.settings import Settings
from visiondyno.tuning.lanes import Lane
from visiondyno.tuning.session import EndpointSession, ServerSession, Session, SharedClient

_MOST_AT_ONCE = 1024


def places_of(place: Place) -> tuple[Place, ...]:
    """One place for each endpoint: several may be named in one, with commas between them.

    Raises:
        SpecError: one is named twice.
    """
    if place.where != "runpod" or place.endpoint is None:
        return (place,)
    names = [name.strip() for name in place.endpoint.split(",") if name.strip()]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SpecError(f"The endpoint '{without_password(twice)}' is named twice; name it once.")
    return tuple(replace(place, endpoint=name) for name in names) or (place,)


class LanePlan:
    """The lanes of a study, and what they cost together. For one event loop.

    All endpoints share one account of the cost, by the dearest of their prices, so that a limit
    holds for the study as a whole; where the price of one isn't known, each has its own.

    Args:
        place: where trials run: one kind of place, one or several endpoints.
        workers: trials at once.
        settings: addresses and keys.
        ahead: whether trials lie ready in a queue, so that no worker waits for one.

    Raises:
        SpecError: the number of workers can't be, or the place is none.
    """

    def __init__(
        self, place: Place, workers: int, settings: Settings, *, ahead: bool = True
    ) -> None:
        if not 1 <= workers <= _MOST_AT_ONCE:
            raise SpecError(f"'workers' is {workers}; give a number from 1 to {_MOST_AT_ONCE}.")
        self._workers = workers
        self._settings = settings
        self._ahead = ahead
        fallback, place = place.fallback, replace(place, fallback=None)
        self.places = places_of(place)
        urls = [one.endpoint_url(settings) for one in self.places]
        if fallback is not None and None in urls:
            raise SpecError(
                "--fallback is for trials on RunPod endpoints; leave it out, or give --on runpod."
            )
        for one, url in zip(self.places, urls, strict=True):
            if url is None:
                check_place(one, settings)
        self._meters = self._accounts(urls)
        self._fallback = (
            None if fallback is None else Place(fallback, workers=_of(fallback, workers))
        )

    @property
    def at_once(self) -> int:
        """Trials that are given to lanes at once: in a queue one for every eight lies ready."""
        return max(self._capacity(place) for place in self.places)

    @property
    def only_place(self) -> Place | None:
        """The one place that all trials need; None where another one can take them."""
        return self.places[0] if len(self.places) == 1 and self._fallback is None else None

    def lanes(self) -> list[Lane]:
        """The lanes, the reserve last."""
        found = [
            Lane(self._name(place), self._session(place, index), self._capacity(place))
            for index, place in enumerate(self.places)
        ]
        if self._fallback is not None:
            session = self._session(self._fallback, None)
            name = _fallback_name(self._fallback)
            found.append(Lane(name, session, self._capacity(self._fallback), is_reserve=True))
        return found

    def place_of(self, lane: str | None) -> Place:
        """The place of the lane of that name; the first one where there is none."""
        known = {self._name(place): place for place in self.places}
        if self._fallback is not None:
            known[_fallback_name(self._fallback)] = self._fallback
        return known.get(lane or "", self.places[0])

    def cost(self) -> Cost | None:
        """What all endpoints cost up to now; None where nothing is paid, or it isn't known."""
        meters = {id(meter): meter for meter in self._meters if meter is not None}
        if len(meters) != 1 or None in self._meters:
            return None
        (meter,) = meters.values()
        return meter.total()

    def _accounts(self, urls: Sequence[str | None]) -> list[CostMeter | None]:
        meters = [
            None if url is None else make_meter(place, url, self._settings)
            for place, url in zip(self.places, urls, strict=True)
        ]
        known = [meter for meter in meters if meter is not None]
        if not known or len(known) < len(meters):
            return meters
        dearest = max(known, key=lambda meter: meter.price.usd_per_hour)
        return [dearest] * len(meters)

    def _session(self, place: Place, index: int | None) -> Session:
        url = place.endpoint_url(self._settings)
        if url is not None:
            meter = None if index is None else self._meters[index]
            return EndpointSession(place, url, self._settings, meter)
        if place.where.startswith(("http://", "https://")):
            return ServerSession(place)
        if place.where == "local":
            place = replace(place, workers=self._workers)
        return SharedClient(AsyncClient(place), is_here=not place.is_remote)

    def _capacity(self, place: Place) -> int:
        capacity = lane_capacity(place, self._workers)
        return capacity if self._ahead else min(capacity, self._workers)

    def _name(self, place: Place) -> str:
        url = place.endpoint_url(self._settings)
        return without_password(url or place.where)


def _fallback_name(place: Place) -> str:
    return f"{place.where} (fallback)"


def lane_capacity(place: Place, workers: int) -> int:
    """How many trials a lane may have: those that run, and in a queue some that lie ready."""
    if place.where == "inline":
        return 1
    if place.where in ("local", "redis") and workers > 1:
        return workers + math.ceil(workers / 8)
    return workers


def _of(where: str, workers: int) -> int | None:
    return workers if where == "local" else None
