"""Where a client's jobs run, and at what price: from a name to executor and blobs."""

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypedDict
from urllib.parse import urlsplit

from visiondyno.errors import SpecError
from visiondyno.executors.base import Executor
from visiondyno.loopback import is_loopback
from visiondyno.wiring import make_blobs, make_executor, make_queue_executor

if TYPE_CHECKING:
    # A client of one place never loads what another one needs.
    from visiondyno.blobs.base import BlobStore
    from visiondyno.executors.http_api import Guards
    from visiondyno.executors.runpod_cost import CostMeter
    from visiondyno.settings import Settings

_QUEUES = ("local", "redis")
_FALLBACKS = ("local", "inline")
_MOST_WORKERS = 256
RUNPOD = "https://api.runpod.ai/"
"""Where RunPod's endpoints are, and no other service's secret goes."""
_ENDPOINT_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


class PlaceOptions(TypedDict, total=False):
    """What a place takes beside its name; see `Place`."""

    api_key: str | None
    workers: int | None
    endpoint: str | None
    gpu: str | None
    max_cost_usd: float | None
    fallback: str | None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a client's jobs run.

    Attributes:
        where: `inline` (this process), `local` (worker processes of this machine, over the queue in
            `home`), `redis` (the fleet on the settings' Redis), `runpod` (a serverless endpoint),
            the URL of a server (`dyno up`), or that of a RunPod endpoint, whose path ends with
            `/v2/NAME`.
        api_key: for a URL or `runpod`; None: the settings' `runpod_api_key` at RunPod itself and
            at an endpoint of this machine that `runpod` names, none elsewhere.
        workers: processes of our own for `local` and `redis`, exactly so many; None: `local` has
            what the settings say, `redis` none, for its workers are started with `dyno worker`.
        endpoint: of `runpod`: its id or its URL; None: the settings' `runpod_endpoint_id`.
        gpu: what an endpoint's workers have, by its name in the price table, or USD an hour;
            None: what `dyno deploy runpod` recorded of the endpoint, or not known.
        max_cost_usd: no job is submitted to an endpoint that could pass it, and what runs is
            stopped once it may have been passed.
        fallback: `local` or `inline`: where jobs run that an endpoint certainly didn't get.
    """

    where: str = "inline"
    api_key: str | None = None
    workers: int | None = None
    endpoint: str | None = None
    gpu: str | None = None
    max_cost_usd: float | None = None
    fallback: str | None = None

    @property
    def is_remote(self) -> bool:
        """Whether its workers see this machine's files only by chance."""
        return self.where not in {"inline", "local"}

    @property
    def has_time_limits(self) -> bool:
        """Whether a job is stopped there after ten minutes unless it says otherwise."""
        return self.where == "runpod" or _is_url(self.where)

    def endpoint_url(self, settings: "Settings") -> str | None:
        """The URL of the RunPod endpoint that is meant; None for another kind of place.

        Raises:
            SpecError: `runpod` without an endpoint, or with what can't be one.
        """
        from visiondyno.executors.runpod import is_endpoint_url

        if self.where != "runpod":
            return self.where if _is_url(self.where) and is_endpoint_url(self.where) else None
        named = self.endpoint or settings.runpod_endpoint_id
        if not named:
            raise SpecError(
                "'runpod' needs an endpoint; name its id or URL with --endpoint, or set "
                "RUNPOD_ENDPOINT_ID and RUNPOD_API_KEY in the environment or in .env."
            )
        if _is_url(named) and is_endpoint_url(named):
            return named
        if _ENDPOINT_ID.fullmatch(named):
            return f"{RUNPOD}v2/{named}"
        raise SpecError(
            f"'{without_password(named):.200}' is no RunPod endpoint; give its id, or a URL such "
            "as https://api.runpod.ai/v2/ENDPOINT_ID."
        )


def place_of(where: str | Place | Executor, options: PlaceOptions) -> Place:
    """The place that a client was told: by name and options, whole, or by its executor.

    Raises:
        SpecError: options beside what is more than a name.
    """
    if isinstance(where, str):
        return Place(where, **options)
    if options:
        raise SpecError(
            f"'{min(options)}' goes with the name of a place; say it where the place or the "
            "executor is made."
        )
    return where if isinstance(where, Place) else Place()


@dataclass(frozen=True, slots=True)
class SharedEndpoint:
    """What several executors of one RunPod endpoint have in common; for one event loop.

    Attributes:
        guards: its quotas and its breaker.
        meter: what all of them cost together; None where no price is known.
    """

    guards: "Guards"
    meter: "CostMeter | None"


def make_executor_at(
    place: Place, settings: "Settings", shared: SharedEndpoint | None = None
) -> Executor:
    """The executor that a client names. Needs a running event loop.

    Args:
        place: where.
        settings: queue, workers, limits, the name of a server's endpoint, RunPod's key.
        shared: of an endpoint that several executors ask; None: it is this one's own.

    Raises:
        SpecError: there is no such place, the settings lack its address, an option belongs to
            another kind of place, or the key can't be one.
    """
    url = place.endpoint_url(settings)
    if url is not None:
        return _endpoint_executor(place, url, settings, shared)
    check_place(place, settings)
    if _is_url(place.where):
        from visiondyno.executors.server import ServerExecutor

        return ServerExecutor(place.where, place.api_key, settings.endpoint)
    if place.where == "inline":
        return make_executor()
    workers = place.workers
    wanted: dict[str, object] = {}
    if workers is not None:
        wanted = {"workers_min": workers, "workers_max": workers}
    if place.where == "local":
        wanted.update(redis_url=None, redis_host=None)
    own_workers = True if workers is not None else None
    return make_queue_executor(settings.model_copy(update=wanted), own_workers=own_workers)


def check_place(place: Place, settings: "Settings") -> None:
    """Refuse a place other than an endpoint that can't be one, without asking it anything.

    Raises:
        SpecError: there is no such place, the settings lack its address, or an option belongs to
            another kind of place.
    """
    _refuse_endpoints_options(place)
    if _is_url(place.where) or place.where == "inline":
        return
    if place.where not in _QUEUES:
        raise _nowhere(place.where)
    if place.workers is not None and not 1 <= place.workers <= _MOST_WORKERS:
        raise SpecError(f"'workers' is {place.workers}; give a number from 1 to {_MOST_WORKERS}.")
    if place.where == "redis" and settings.queue_url is None:
        raise SpecError(
            "'redis' needs the address of Redis; set VISIONDYNO_REDIS_URL, for example to "
            "redis://127.0.0.1:6379/0."
        )


def make_blobs_at(place: Place, settings: "Settings") -> "BlobStore":
    """The blobs that a client shares with the workers of `make_executor_at(place, …)`.

    Those of a server are the server's. For all others they are at the settings' `blobs_url`, or
    else in a folder in `home`, which a RunPod endpoint's workers don't see unless they run on this
    machine: there every use is refused with the next step.

    Raises:
        SpecError: there is no such place, or the store's address, folder or key is wrong.
        MissingExtra: a bucket's client isn't installed.
    """
    url = place.endpoint_url(settings)
    if url is not None:
        if settings.blobs_url is not None or _is_here(url):
            return make_blobs(settings)
        from visiondyno.blobs.unset import UnsetBlobs

        return UnsetBlobs(
            "This client shares no files with the workers of the RunPod endpoint; set "
            "VISIONDYNO_BLOBS_URL, here and there, to a bucket or to a server's /blobs that both "
            "reach."
        )
    if not _is_url(place.where):
        if place.where != "inline" and place.where not in _QUEUES:
            raise _nowhere(place.where)
        return make_blobs(settings)
    from visiondyno.blobs.http import HttpBlobs
    from visiondyno.executors.server_wire import checked_key, checked_url

    return HttpBlobs(f"{checked_url(place.where)}/blobs", checked_key(place.api_key))


def make_meter(place: Place, url: str, settings: "Settings") -> "CostMeter | None":
    """Accounts for what jobs on the endpoint at `url` cost; None where no price is known.

    Raises:
        SpecError: a limit is given without a price, or one of them can't be one.
    """
    from visiondyno.deployments.record import find_deployment
    from visiondyno.executors.runpod_cost import CostMeter
    from visiondyno.probes.cost import find_price

    deployed = find_deployment(settings.folder, url)
    gpu = place.gpu or (deployed.gpu if deployed is not None else None)
    if gpu is None:
        if place.max_cost_usd is not None:
            raise SpecError(
                "What the endpoint costs isn't known, so no limit can be kept; name the GPU of "
                "its workers with --gpu, such as A4000, or give USD an hour."
            )
        return None
    if deployed is None:
        return CostMeter(find_price(gpu), max_cost_usd=place.max_cost_usd)
    return CostMeter(
        find_price(gpu),
        max_cost_usd=place.max_cost_usd,
        idle_timeout_s=deployed.idle_timeout_s,
        execution_timeout_s=deployed.execution_timeout_s,
    )


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    return re.sub(r"://[^/]*@", "://…@", url)


def _endpoint_executor(
    place: Place, url: str, settings: "Settings", shared: SharedEndpoint | None
) -> Executor:
    from visiondyno.executors.fallback import FallbackExecutor
    from visiondyno.executors.runpod import RunPodExecutor

    if place.fallback is not None and place.fallback not in _FALLBACKS:
        raise SpecError(f"'{place.fallback:.40}' is no fallback; give local or inline.")
    key = place.api_key or _runpods_own_key(place, url, settings)
    if shared is None:
        endpoint = RunPodExecutor(url, key, meter=make_meter(place, url, settings))
    else:
        endpoint = RunPodExecutor(url, key, meter=shared.meter, guards=shared.guards)
    if place.fallback is None:
        return endpoint
    here = replace(Place(), where=place.fallback, workers=place.workers)
    return FallbackExecutor(endpoint, lambda: make_executor_at(here, settings))


def _runpods_own_key(place: Place, url: str, settings: "Settings") -> str | None:
    """RunPod's secret, for its own host, and for the emulator where `runpod` was asked for."""
    secret = settings.runpod_api_key
    is_theirs = url.startswith(RUNPOD) or (place.where == "runpod" and _is_here(url))
    return secret.get_secret_value() if is_theirs and secret is not None else None


def _refuse_endpoints_options(place: Place) -> None:
    given = {
        "--endpoint": place.endpoint,
        "--gpu": place.gpu,
        "--max-cost": place.max_cost_usd,
        "--fallback": place.fallback,
    }
    wrong = [option for option, value in given.items() if value is not None]
    if wrong:
        raise SpecError(
            f"{wrong[0]} is for jobs on a RunPod endpoint, and these run on "
            f"'{without_password(place.where):.200}'; leave it out, or give --on runpod."
        )


def _is_here(url: str) -> bool:
    return is_loopback(urlsplit(url).hostname or "")


def _is_url(where: str) -> bool:
    return where.startswith(("http://", "https://"))


def _nowhere(where: str) -> SpecError:
    return SpecError(
        f"'{without_password(where):.200}' isn't a place to run jobs; give inline, local, redis, "
        "runpod, or the URL of a server or of a RunPod endpoint."
    )
