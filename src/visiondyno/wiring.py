"""The one place that chooses: which executor runs the jobs, and what the service stands on."""

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
    found["VISIONDYNO_LOG_FORMAT"] = settings.log_format
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
