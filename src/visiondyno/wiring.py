"""The one place that chooses: which executor runs the jobs, and what the service stands on."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from visiondyno import worker
from visiondyno.errors import SpecError
from visiondyno.executors.base import Executor
from visiondyno.executors.inline import InlineExecutor

if TYPE_CHECKING:
    # Databases, queues and the service load libraries that a command without a server never needs.
    from visiondyno.blobs.base import BlobStore
    from visiondyno.executors.queue import JobQueue
    from visiondyno.service import Service
    from visiondyno.settings import Settings
    from visiondyno.store.base import Store

_QUEUES = ("local", "redis")
_MOST_WORKERS = 256
_RUNPOD = "https://api.runpod.ai/"


def make_executor() -> Executor:
    """The executor for this process, `inline`. Needs a running event loop."""
    return InlineExecutor(worker.run)


def queue_address(settings: "Settings") -> str:
    """The queue's address for `open_queue`: Redis' URL, or a file in `home`."""
    return settings.queue_url or str(settings.folder / "queue.sqlite")


def make_store(settings: "Settings") -> "Store":
    """The store; an empty SQLite file gets its tables here.

    Raises:
        SpecError: the address is wrong, `home` can't be made, or the schema is another version's.
        TransportDown: the database can't be reached.
    """
    from visiondyno.store.database import database_url
    from visiondyno.store.sql import open_store

    _make_home(settings.folder)
    return open_store(database_url(settings))


def make_blobs(settings: "Settings") -> "BlobStore":
    """Where models and results too large for a request lie; a folder in `home` by default.

    Raises:
        SpecError: the address is wrong, or its folder can't be written.
        MissingExtra: a bucket's client isn't installed.
    """
    from visiondyno.blobs.open import open_blobs

    _make_home(settings.folder)
    folder = settings.folder / "blobs"
    key = settings.blobs_api_key
    return open_blobs(
        settings.blobs_url,
        folder,
        api_key=None if key is None else key.get_secret_value(),
        quota_bytes=settings.blobs_quota_bytes,
    )


def make_queue(settings: "Settings") -> "JobQueue":
    """The queue between server and workers, for the thread that calls this.

    Raises:
        TransportDown: it can't be reached.
        MissingExtra: Redis' client isn't installed.
    """
    from visiondyno.executors.open_queue import open_queue

    _make_home(settings.folder)
    return open_queue(queue_address(settings), settings.result_expiry_s)


def open_queues_of(settings: "Settings") -> "Iterator[JobQueue]":
    """The queues that jobs of this home may be in: its own, if it has one, and the settings' Redis.

    Raises:
        TransportDown: one can't be reached.
        MissingExtra: Redis' client isn't installed.
    """
    from visiondyno.executors.open_queue import open_queue

    own = settings.folder / "queue.sqlite"
    if own.exists():
        yield open_queue(str(own), settings.result_expiry_s)
    if settings.queue_url is not None:
        yield open_queue(settings.queue_url, settings.result_expiry_s)


def make_queue_executor(
    settings: "Settings", *, own_workers: bool | None = None, entry: str = "visiondyno.worker:run"
) -> Executor:
    """`local` or `redis`, as the settings say.

    Args:
        settings: queue, workers and limits.
        entry: `package.module:function` that the workers run jobs with.
        own_workers: whether worker processes of this server's serve the queue too; None: those of
            the local queue do, those of Redis are started with `dyno worker`.
    """
    from dataclasses import replace

    from visiondyno.executors.queued import QueueExecutor
    from visiondyno.executors.scaling import ScaleLimits
    from visiondyno.executors.supervised import SupervisedExecutor, queue_workers

    is_local = settings.queue_url is None
    if own_workers is None:
        own_workers = is_local
    if not own_workers:
        return QueueExecutor(
            "local" if is_local else "redis",
            lambda: make_queue(settings),
            max_attempts=settings.max_attempts,
        )
    _make_home(settings.folder)
    most = max(settings.workers_min, settings.workers_max)
    scale = ScaleLimits(settings.workers_min, most, settings.idle_timeout_s)
    workers = replace(
        queue_workers(queue_address(settings), scale),
        entry=entry,
        lease_s=settings.lease_s,
        retention_s=settings.result_expiry_s,
        gpu_memory_fraction=settings.gpu_memory_fraction,
    )
    return SupervisedExecutor(
        workers, max_attempts=settings.max_attempts, environ=worker_environ(settings)
    )


def make_executor_at(
    where: str, settings: "Settings", api_key: str | None = None, *, workers: int | None = None
) -> Executor:
    """The executor that a client names. Needs a running event loop.

    Args:
        where: `inline` (this process), `local` (worker processes of this machine, over the queue in
            `home`), `redis` (the fleet on the settings' Redis), the URL of a server (`dyno up`), or
            that of a RunPod endpoint, whose path ends with `/v2/NAME`.
        settings: queue, workers, limits, the name of a server's endpoint, RunPod's key.
        api_key: for a URL; None: the settings' `runpod_api_key` at RunPod itself, none elsewhere.
        workers: processes of our own for `local` and `redis`, exactly so many; None: `local` has
            what the settings say, `redis` none, for its workers are started with `dyno worker`.

    Raises:
        SpecError: there is no such place, the settings lack its address, or the key can't be one.
    """
    if _is_url(where):
        from visiondyno.executors.runpod import RunPodExecutor, is_endpoint_url
        from visiondyno.executors.server import ServerExecutor

        if is_endpoint_url(where):
            return RunPodExecutor(where, api_key or _runpods_own_key(where, settings))
        return ServerExecutor(where, api_key, settings.endpoint)
    if where == "inline":
        return make_executor()
    if where not in _QUEUES:
        raise _nowhere(where)
    if workers is not None and not 1 <= workers <= _MOST_WORKERS:
        raise SpecError(f"'workers' is {workers}; give a number from 1 to {_MOST_WORKERS}.")
    if where == "redis" and settings.queue_url is None:
        raise SpecError(
            "'redis' needs the address of Redis; set VISIONDYNO_REDIS_URL, for example to "
            "redis://127.0.0.1:6379/0."
        )
    wanted: dict[str, object] = {}
    if workers is not None:
        wanted = {"workers_min": workers, "workers_max": workers}
    if where == "local":
        wanted.update(redis_url=None, redis_host=None)
    own_workers = True if workers is not None else None
    return make_queue_executor(settings.model_copy(update=wanted), own_workers=own_workers)


def make_blobs_at(where: str, settings: "Settings", api_key: str | None = None) -> "BlobStore":
    """The blobs that a client shares with the workers of `make_executor_at(where, …)`.

    Those of a server are the server's. For all others they are at the settings' `blobs_url`, or
    else in a folder in `home`, which a RunPod endpoint's workers don't see: there every use is
    refused with the next step.

    Args:
        where: as there.
        settings: their `blobs_url` and `home`.
        api_key: for a server's URL.

    Raises:
        SpecError: there is no such place, or the store's address, folder or key is wrong.
        MissingExtra: a bucket's client isn't installed.
    """
    if not _is_url(where):
        if where != "inline" and where not in _QUEUES:
            raise _nowhere(where)
        return make_blobs(settings)
    from visiondyno.blobs.http import HttpBlobs
    from visiondyno.blobs.unset import UnsetBlobs
    from visiondyno.executors.runpod import is_endpoint_url
    from visiondyno.executors.server_wire import checked_key, checked_url

    if not is_endpoint_url(where):
        key = checked_key(api_key)
        return HttpBlobs(f"{checked_url(where)}/blobs", key)
    if settings.blobs_url is not None:
        return make_blobs(settings)
    return UnsetBlobs(
        "This client shares no files with the workers of the RunPod endpoint; set "
        "VISIONDYNO_BLOBS_URL, here and there, to a bucket or to a server's /blobs that both reach."
    )


def _runpods_own_key(where: str, settings: "Settings") -> str | None:
    """Only for RunPod's own host: another that has its paths is told no secret of RunPod's."""
    secret = settings.runpod_api_key
    is_theirs = where.startswith(_RUNPOD)
    return secret.get_secret_value() if is_theirs and secret is not None else None


def _is_url(where: str) -> bool:
    return where.startswith(("http://", "https://"))


def _nowhere(where: str) -> SpecError:
    shown = re.sub(r"://[^/]*@", "://…@", where)  # without a password
    return SpecError(
        f"'{shown:.200}' isn't a place to run jobs; give inline, local, redis or the URL of a "
        "server or of a RunPod endpoint."
    )


def worker_environ(settings: "Settings") -> dict[str, str]:
    """The environment of this server's workers: they keep and find files where it does.

    What the server was told by flags must reach them too.
    """
    import os

    found = {**os.environ, "VISIONDYNO_HOME": str(settings.folder)}
    if settings.blobs_url is not None:
        found["VISIONDYNO_BLOBS_URL"] = settings.blobs_url
    if settings.blobs_api_key is not None:
        found["VISIONDYNO_BLOBS_API_KEY"] = settings.blobs_api_key.get_secret_value()
    found["VISIONDYNO_CACHE_BYTES"] = str(settings.cache_bytes)
    return found


def make_service(settings: "Settings", executor: Executor | None = None) -> "Service":
    """The service over what the settings name; start and close it. Needs a running event loop.

    Args:
        settings: of the server.
        executor: where jobs run; `make_queue_executor(settings)` if None.

    Raises:
        VisionDynoError: as `make_store` and `make_blobs`.
    """
    from visiondyno.service import Service

    store = make_store(settings)
    try:
        blobs = make_blobs(settings)
        return Service(settings, store, executor or make_queue_executor(settings), blobs)
    except BaseException:
        store.close()
        raise


def _make_home(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(
            f"The folder {folder} can't be made ({error.strerror}); name another one with "
            "VISIONDYNO_HOME."
        ) from error
