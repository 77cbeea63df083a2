"""What a pool accepts: within which limits, how it waits, and what becomes of it."""

import asyncio
from dataclasses import dataclass

from visiondyno.executors.scaling import ScaleLimits
from visiondyno.serving.replicas import Readiness
from visiondyno.serving.wire import Answer, Item


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """How the pool behaves.

    Attributes:
        scale: the least and most replicas, and when an idle one ends.
        max_batch: most items in one batch; None: what the model takes, once that is known.
        batch_delay_s: how long the oldest item may wait for others to share its batch.
        queue: most items that wait.
        time_limit_s: an item without an answer after so long is given up.
    """

    scale: ScaleLimits
    max_batch: int | None = 1
    batch_delay_s: float = 0.0
    queue: int = 100
    time_limit_s: float = 30.0


# Not frozen, as what `wire` has: one is made for each request.
@dataclass(slots=True)
class Predicted:
    """An answer with what the front knows of its way.

    Attributes:
        answer: the replica's.
        queue_ms: from its acceptance until it was handed to the replica that answered.
        total_ms: from its acceptance to its answer.
        start: of the replica it had to wait for, if none was ready when it was accepted.
    """

    answer: Answer
    queue_ms: float
    total_ms: float
    start: Readiness | None


@dataclass(slots=True, eq=False)
class Waiting:
    """An item on its way. `done` holds its end, whoever comes first: answer, limit, hang-up."""

    item: Item
    done: "asyncio.Future[Predicted]"
    accepted_s: float
    found_none: bool
    given_s: float = 0.0
    tries: int = 0
    start: Readiness | None = None


@dataclass(frozen=True, slots=True)
class Begun:
    """What `Pool.begin` began.

    Attributes:
        each: item's end, in order; cancel it to give the item up.
        limit: gives all of them up.
    """

    each: "list[asyncio.Future[Predicted]]"
    limit: asyncio.TimerHandle
