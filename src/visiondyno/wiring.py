"""The one place that chooses: which executor runs the jobs, and what the service stands on."""

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
    where: str,
    settings: "Settings",
    api_key: str | None = None,  # noqa: ARG001
    *,
    workers: int | None = None,
) -> Executor:
    """The executor that a client names. Needs a running event loop.

    Args:
        where: `inline` (this process), `local` (worker processes of this machine, over the queue in
            `home`) or `redis` (the fleet on the settings' Redis).
        settings: queue, workers and limits.
        api_key: for a URL.
        workers: processes of our own, exactly so many; None: `local` has what the settings say,
            `redis` none, for its workers are started with `dyno worker`.

    Raises:
        SpecError: there is no such place, or the settings lack its address.
    """
    if workers is not None and not 1 <= workers <= _MOST_WORKERS:
        raise SpecError(f"'workers' is {workers}; give a number from 1 to {_MOST_WORKERS}.")
    if where == "inline":
        return make_executor()
    if where not in _QUEUES:
        raise _nowhere(where)
    wanted: dict[str, object] = {}
    if workers is not None:
        wanted = {"workers_min": workers, "workers_max": workers}
    if where == "local":
        wanted.update(redis_url=None, redis_host=None)
    elif settings.queue_url is None:
        raise SpecError(
            "'redis' needs the address of Redis; set VISIONDYNO_REDIS_URL, for example to "
            "redis://127.0.0.1:6379/0."
        )
    own_workers = True if workers is not None else None
    return make_queue_executor(settings.model_copy(update=wanted), own_workers=own_workers)


def make_blobs_at(
    where: str,
    settings: "Settings",
    api_key: str | None = None,  # noqa: ARG001
) -> "BlobStore":
    """The blobs that a client shares with the workers of `make_executor_at(where, …)`.

    Args:
        where: as there.
        settings: their `blobs_url`, or else the folder in `home`, serves `inline`, `local` and
            `redis`.
        api_key: for a URL.

    Raises:
        SpecError: there is no such place, or the store's address or folder is wrong.
        MissingExtra: a bucket's client isn't installed.
    """
    if where == "inline" or where in _QUEUES:
        return make_blobs(settings)
    raise _nowhere(where)


def _nowhere(where: str) -> SpecError:
    return SpecError(
        f"'{where:.200}' isn't a place to run jobs; give inline, local, redis or the URL of a "
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
