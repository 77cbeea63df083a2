"""Faults on request: what networks and RunPod do to clients now and then, when a test asks."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

_Count = Annotated[int, Field(ge=1, le=1_000_000)]
_Operation = Annotated[
    str | None,
    Field(description="The path's part after the endpoint: `run`, `status`, `job-done`; None: any"),
]


class _Fault(BaseModel):
    model_config = ConfigDict(extra="forbid")
    count: _Count = 1


class AnswerStatus(_Fault):
    """Answer requests with an HTTP status and do nothing."""

    kind: Literal["status"]
    status: Annotated[int, Field(ge=400, le=599)]
    operation: _Operation = None
    retry_after_s: Annotated[float | None, Field(ge=0)] = None


class CutAnswer(_Fault):
    """Do what is asked and break the connection off in the middle of the answer."""

    kind: Literal["reset"]
    operation: _Operation = None


class StallAnswer(_Fault):
    """Do what is asked and answer so many seconds later: real ones, whatever the clock's speed."""

    kind: Literal["stall"]
    seconds: Annotated[float, Field(gt=0, le=600)]
    operation: _Operation = None


class DelayRequest(_Fault):
    """Say at once that it was done, and do it so many real seconds later.

    So what a worker tells of its job (`job-stream`, `job-done`) is overtaken by what it tells next.
    """

    kind: Literal["delay"]
    seconds: Annotated[float, Field(gt=0, le=600)]
    operation: _Operation = None


class DropResult(_Fault):
    """Accept a worker's answer and lose it."""

    kind: Literal["drop_result"]


class DeliverTwice(_Fault):
    """Deliver a job once more, to whichever worker asks next while it runs."""

    kind: Literal["deliver_twice"]


class KillWorkers(_Fault):
    """Kill workers that run jobs, at once (SIGKILL)."""

    kind: Literal["kill_worker"]


RequestFault = AnswerStatus | CutAnswer | StallAnswer | DelayRequest
Fault = Annotated[
    RequestFault | DropResult | DeliverTwice | KillWorkers, Field(discriminator="kind")
]


class FaultBook:
    """Faults that requests are to meet, in the order in which they were asked for."""

    def __init__(self) -> None:
        self._armed: list[RequestFault] = []
        self._later: set[asyncio.Task[None]] = set()

    def arm(self, fault: RequestFault) -> None:
        """Have the next `count` requests of its operation meet it."""
        self._armed.append(fault.model_copy())

    def clear(self) -> None:
        """Forget all."""
        self._armed.clear()

    def armed(self) -> list[RequestFault]:
        """Those that are still to be met."""
        return list(self._armed)

    def meet(self, operation: str) -> RequestFault | None:
        """The fault that this request meets."""
        for fault in self._armed:
            if fault.operation in (None, operation):
                fault.count -= 1
                if fault.count == 0:
                    self._armed.remove(fault)
                return fault
        return None

    def later(self, seconds: float, work: Callable[[], Awaitable[Any]]) -> None:
        """Do this after so many real seconds."""

        async def wait() -> None:
            await asyncio.sleep(seconds)
            await work()

        task = asyncio.create_task(wait())
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    async def close(self) -> None:
        """Do nothing later."""
        for task in list(self._later):
            task.cancel()
        await asyncio.gather(*self._later, return_exceptions=True)
