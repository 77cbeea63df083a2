"""The client for scripts and notebooks: `AsyncClient` without `await`."""

import weakref
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from visiondyno.blobs.base import BlobStore
from visiondyno.client.async_client import AT_ONCE, AsyncClient, Json, OnEvent, ignore
from visiondyno.client.loop_thread import LoopThread
from visiondyno.errors import VisionDynoError
from visiondyno.executors.base import Executor
from visiondyno.executors.cost import Cost
from visiondyno.executors.workers import WorkerInfo
from visiondyno.job import JobEvent, Policy
from visiondyno.places import Place, PlaceOptions

_T = TypeVar("_T")
AnyPolicy = Policy | Mapping[str, Any] | None


class Client:
    """Submits jobs and follows them; each method is `AsyncClient`'s of the same name.

    It works from any thread, from several at once, and inside a running event loop. `on_event` is
    called in the thread that called. An interrupt (Ctrl-C) cancels the job that is waited for, and
    waits until it has stopped.

    Use it as a context manager, or close it. One that was forgotten is closed when it is
    collected as garbage, or when the interpreter ends.
    """

    def __init__(
        self,
        where: str | Place | Executor = "inline",
        *,
        blobs: BlobStore | None = None,
        **options: Unpack[PlaceOptions],
    ) -> None:
        """As `AsyncClient`: nothing is started or asked before the first job."""
        self._client = AsyncClient(where, blobs=blobs, **options)
        self._thread = LoopThread("visiondyno-client", self._client.close)
        weakref.finalize(self, self._thread.stop, 0.0).atexit = False

    @classmethod
    def borrowing(cls, client: AsyncClient, loop: LoopThread) -> Self:
        """One that asks another client on the loop that this one is of, and leaves both open.

        Args:
            client: whose methods are called.
            loop: which they are called on; `close` stops it.
        """
        borrower = cls.__new__(cls)
        borrower._client, borrower._thread = client, loop
        return borrower

    @property
    def place(self) -> Place:
        """Where jobs run."""
        return self._client.place

    @property
    def id(self) -> str:
        """Names these workers in what a `ModelState` knows of who holds it."""
        return self._client.id

    def run(
        self,
        job_input: Mapping[str, Any],
        *,
        policy: AnyPolicy = None,
        on_event: OnEvent = ignore,
    ) -> Json:
        """Submit a job, follow it to its end, and return its output."""
        return self._thread.run(
            lambda give: self._client.run(job_input, policy=policy, on_event=give), on_event
        )

    def run_many(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        at_once: int = AT_ONCE,
        policy: AnyPolicy = None,
        on_event: OnEvent = ignore,
    ) -> list[Json | VisionDynoError]:
        """Run several jobs, so many at once; output or error of each, in order of the inputs."""
        given = list(inputs)
        return self._thread.run(
            lambda give: self._client.run_many(
                given, at_once=at_once, policy=policy, on_event=give
            ),
            on_event,
        )

    def submit(self, job_input: Mapping[str, Any], *, policy: AnyPolicy = None) -> str:
        """Submit a job and return its id at once."""
        return self._thread.run(lambda _: self._client.submit(job_input, policy=policy))

    def watch(self, job_id: str, after: int = 0) -> Iterator[JobEvent]:
        """The job's events after number `after`, to the terminal one."""

        def events() -> AsyncGenerator[JobEvent, None]:
            return self._client.watch(job_id, after)

        return self._thread.iterate(events)

    def result(self, job_id: str, on_event: OnEvent = ignore) -> Json:
        """Wait for a job's end and return its output. An interrupt leaves the job alone."""
        return self._thread.run(lambda give: self._client.result(job_id, give), on_event)

    def cancel(self, job_id: str) -> None:
        """Stop a job; one that has ended stays as it is."""
        self._thread.run(lambda _: self._client.cancel(job_id))

    def health(self) -> Json:
        """`executor`, `jobs` by state, `workers` ready and busy, and `oldest_waiting_s`."""
        return self._thread.run(lambda _: self._client.health())

    def workers(self) -> list[WorkerInfo]:
        """The workers, by name; none where the executor doesn't know them."""
        return self._thread.run(lambda _: self._client.workers())

    def cost_of(self, job_id: str) -> Cost | None:
        """What a job cost; None where nothing is paid by the second."""
        return self._thread.run(lambda _: _now(self._client.cost_of, job_id))

    def total_cost(self) -> Cost | None:
        """What all jobs of this client cost up to now; None where nothing is paid by the second."""
        return self._thread.run(lambda _: _now(self._client.total_cost))

    def affordable_s(self) -> float | None:
        """How long the next job may run within the limit of cost; None where there is no limit."""
        return self._thread.run(lambda _: _now(self._client.affordable_s))

    def put_blob(self, data: bytes) -> str:
        """Store bytes where the workers find them; their name, `sha256:…`."""
        return self._thread.run(lambda _: self._client.put_blob(data))

    def put_file(self, path: Path, on_bytes: Callable[[int], None] = lambda _: None) -> str:
        """Store a file's bytes, as `put_blob`; `on_bytes` is told how many were read."""
        return self._thread.run(lambda give: self._client.put_file(path, give), on_bytes)

    def has_blob(self, reference: str) -> bool:
        """Whether it is stored; who is told yes may refer to it."""
        return self._thread.run(lambda _: self._client.has_blob(reference))

    def get_blob(self, reference: str) -> bytes:
        """The bytes that a name `sha256:…` stands for, verified."""
        return self._thread.run(lambda _: self._client.get_blob(reference))

    def get_file(self, reference: str, path: Path, what: str) -> None:
        """As `get_blob`, into a file that needn't fit into memory; `what` names it in messages."""
        self._thread.run(lambda _: self._client.get_file(reference, path, what))

    def close(self) -> None:
        """Cancel what is waited for, and free what is held; calling it again does nothing."""
        self._thread.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


async def _now(function: Callable[..., _T], *arguments: Any) -> _T:
    """What a function gives on the loop, where alone the client may be asked."""
    return function(*arguments)
