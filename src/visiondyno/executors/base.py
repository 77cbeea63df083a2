"""The executor seam: where jobs run."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from visiondyno.job import JobEvent, JobRequest


@dataclass(frozen=True, slots=True)
class ExecutorHealth:
    """How an executor is: jobs by state, and workers ready and busy."""

    jobs: dict[str, int]
    workers_ready: int
    workers_busy: int


class Executor(ABC):
    """Where jobs run.

    Contract (tests/contracts/executor_contract.py):

    - `submit` validates nothing of the operation: a wrong input is a FAILED job, so that every
      executor answers alike. It returns as soon as the job is accepted.
    - `watch` yields a job's events from the first one on, however late it is called and however
      many watch, in order of their numbers (1, 2, 3 …), and ends after the terminal event, whose
      `answer` holds the output or the error. An unknown id raises `SpecError`.
    - `cancel` of a queued or running job makes it CANCELLED and stops the operation; of a job in a
      terminal state it does nothing. An unknown id raises `SpecError`.
    - A job that runs past its policy's `executionTimeout` becomes TIMED_OUT; one that waits past
      its `ttl` becomes TIMED_OUT without having run.
    - Nothing leaves a terminal state, and no event follows the terminal one.
    - `close` cancels what still runs; a closed executor refuses `submit` with `SpecError`.

    Safe for use from one event loop.
    """

    name: str

    @abstractmethod
    async def submit(self, request: JobRequest) -> str:
        """Accept a job and return its id."""

    @abstractmethod
    def watch(self, job_id: str) -> AsyncIterator[JobEvent]:
        """The job's events, from the first to the terminal one."""

    @abstractmethod
    async def cancel(self, job_id: str) -> None:
        """Stop the job."""

    @abstractmethod
    async def health(self) -> ExecutorHealth:
        """How the executor is."""

    @abstractmethod
    async def close(self) -> None:
        """Stop everything and free what is held. Calling it again does nothing."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
