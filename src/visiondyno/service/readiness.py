"""Whether the service can take and run jobs now."""

import asyncio
import contextlib
import shutil
from dataclasses import dataclass

from visiondyno.errors import Unavailable, VisionDynoError
from visiondyno.executors.base import Executor
from visiondyno.service.recorder import Recorder
from visiondyno.settings import Settings
from visiondyno.store.base import Store

OK = "ok"
LEAST_FREE_BYTES = 200_000_000

_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Readiness:
    """`checks` has `store`, `queue`, `workers` and `disk`: "ok", or what is wrong and what to do.

    Attributes:
        ready: whether all are "ok".
        checks: by name.
    """

    ready: bool
    checks: dict[str, str]


async def refuse_wrong_setup(executor: Executor) -> None:
    """Return unless the queue is set up wrong; one that is away or silent may come back.

    Raises:
        SpecError: what to correct.
    """
    with contextlib.suppress(Unavailable, TimeoutError):
        async with asyncio.timeout(_TIMEOUT_S):
            await executor.health()


async def look(
    settings: Settings, store: Store, executor: Executor, recorder: Recorder
) -> Readiness:
    """Ask everything that a job needs; each answers within seconds."""
    store_text, (queue_text, workers_text) = await asyncio.gather(
        _store(store, recorder), _queue_and_workers(settings, executor)
    )
    checks = {
        "store": store_text,
        "queue": queue_text,
        "workers": workers_text,
        "disk": _disk(settings),
    }
    return Readiness(all(text == OK for text in checks.values()), checks)


async def _store(store: Store, recorder: Recorder) -> str:
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            await recorder.read(store.check)
    except TimeoutError:
        return f"The database gave no answer within {_TIMEOUT_S:.0f} s; look at its load."
    except VisionDynoError as error:
        return error.message
    return OK


async def _queue_and_workers(settings: Settings, executor: Executor) -> tuple[str, str]:
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            health = await executor.health()
            known = len(await executor.workers())
    except TimeoutError:
        late = f"The queue gave no answer within {_TIMEOUT_S:.0f} s; look at its load."
        return late, "Unknown: the queue can't be asked."
    except VisionDynoError as error:
        return error.message, "Unknown: the queue can't be asked."
    if known or health.workers_ready + health.workers_busy or settings.workers_min == 0:
        return OK, OK
    if settings.queue_url is None:
        return OK, "No worker is there yet; this server starts its own, or its log says why not."
    return OK, "No worker is there; start one for this server's Redis with: dyno worker --redis URL"


def _disk(settings: Settings) -> str:
    folder = settings.folder
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free >= LEAST_FREE_BYTES:
        return OK
    return (
        f"The disk of {settings.folder} has {free // 1_000_000} MB free, and at least "
        f"{LEAST_FREE_BYTES // 1_000_000} MB are needed; make room."
    )
