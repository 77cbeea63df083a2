"""The executor seam: where jobs run."""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Collection, Sequence
from dataclasses import dataclass
from typing import Self

from visiondyno.errors import NotFound, SpecError
from visiondyno.executors.cost import Cost
from visiondyno.executors.workers import WorkerCommand, WorkerInfo
from visiondyno.job import JobEvent, JobRequest


class JobLost(NotFound):
    """The executor no longer knows a job: its transport was emptied. Submit the job again."""

    code = "job_lost"


@dataclass(frozen=True, slots=True)
class ExecutorHealth:
    """How an executor is: jobs by state, workers ready and busy, age of the oldest waiting job."""

    jobs: dict[str, int]
    workers_ready: int
    workers_busy: int
    oldest_waiting_s: float | None = None


class Executor(ABC):
    """Where jobs run.

    Contract (tests/contracts/executor_contract.py):

    - `submit` validates nothing of the operation: a wrong input is a FAILED job, so that every
      executor answers alike. It returns as soon as the job is accepted. With a `job_id` that is
      known already it does nothing: submitting again after a doubt is safe.
    - Jobs start in the order of submission, those of low priority last. With `queued_at` (seconds
      since the epoch) a job has the place of one that was submitted then: it was put back.
    - `watch` yields a job's events from the first one after number `after` on, however late it is
      called and however many watch, in order of their numbers (1, 2, 3 …), and ends after the
      terminal event, whose `answer` holds the output or the error. An unknown id raises `JobLost`,
      and so does a job that its transport forgets while it is watched.
      One that waits for more than there will ever be (the transport came back with an older state)
      ends without it.
    - `cancel` of a queued or running job makes it CANCELLED and stops the operation; of a job in a
      terminal state it does nothing. An unknown id raises `JobLost`.
    - A job that runs past its policy's `executionTimeout` becomes TIMED_OUT; one that waits past
      its `ttl` becomes TIMED_OUT without having run.
    - Nothing leaves a terminal state, and no event follows the terminal one.
    - `close` frees what is held; a closed executor refuses `submit` with `SpecError`. An executor
      that is not `durable` cancels what still runs; a durable one leaves it to whoever opens the
      same transport next.
    - `TransportDown` from any method: nothing is known of what was asked; ask again later.

    Safe for use from one event loop.
    """

    name: str
    durable: bool = False
    submits_once: bool = True
    """Whether `submit` under the same id makes one job even after a `TransportDown`."""

    async def start(self) -> None:
        """Begin before the first job: workers, connections. The other methods do it when needed."""
        return

    @abstractmethod
    async def submit(
        self, request: JobRequest, job_id: str | None = None, queued_at: float | None = None
    ) -> str:
        """Accept a job and return its id; see the class for `queued_at`."""

    @abstractmethod
    def watch(self, job_id: str, after: int = 0) -> AsyncGenerator[JobEvent, None]:
        """The job's events after number `after`, to the terminal one."""

    @abstractmethod
    async def cancel(self, job_id: str) -> None:
        """Stop the job."""

    @abstractmethod
    async def known(self, job_ids: Collection[str]) -> set[str]:
        """Those of the ids that the executor knows."""

    @abstractmethod
    async def health(self) -> ExecutorHealth:
        """How the executor is."""

    async def workers(self) -> Sequence[WorkerInfo]:
        """The workers, by name; none where the executor doesn't know them."""
        return ()

    def cost_of(self, job_id: str) -> Cost | None:  # noqa: ARG002 - of those that cost
        """What a job cost, or for an open one could cost; None where nothing is paid by the second.

        Raises:
            SpecError: it costs, and by which price isn't known.
            NotFound: it wasn't submitted here.
        """
        return None

    def total_cost(self) -> Cost | None:
        """What all jobs that were submitted here cost up to now; None and errors as `cost_of`."""
        return None

    def affordable_s(self) -> float | None:
        """How long the next job may run within the limit of cost; None where there is no limit."""
        return None

    async def command_worker(self, name: str, command: WorkerCommand) -> None:
        """Tell one worker to drain, resume or restart.

        Raises:
            NotFound: no such worker.
            SpecError: this executor's workers take no commands.
        """
        raise SpecError(
            f"Worker '{name}' takes no '{command}' command: the '{self.name}' executor has none."
        )

    @abstractmethod
    async def close(self) -> None:
        """Free what is held. Calling it again does nothing."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
