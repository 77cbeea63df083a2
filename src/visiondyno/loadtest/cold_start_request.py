"""One request on a connection of its own, until its whole answer: how a cold start is asked."""

import asyncio
import json
import time
from dataclasses import dataclass, field

from visiondyno.loadtest.connection import Connection, server_timing_ms
from visiondyno.loadtest.dialling import Dialler, NoConnection
from visiondyno.loadtest.targets import PreparedTarget


@dataclass(frozen=True, slots=True)
class Asked:
    """How one request ended.

    Attributes:
        began_ns: before the connection was opened; monotonic clock.
        done_ns: when the answer was whole, or the failure was known.
        status: HTTP status; 0: no whole answer.
        why_not: why the answer isn't a good one; None: it is.
        stages_ms: what `Server-Timing` told.
    """

    began_ns: int
    done_ns: int
    status: int = 0
    why_not: str | None = None
    stages_ms: dict[str, float] = field(default_factory=dict)

    @property
    def took_ms(self) -> float:
        """From before the connection to the whole answer."""
        return (self.done_ns - self.began_ns) / 1e6


class Asker:
    """Sends the first of a target's requests, each time on a new connection.

    The name is looked up and certificates are loaded once, by `prepare`, so that no request's time
    holds them.
    """

    def __init__(self, target: PreparedTarget) -> None:
        self._target = target
        self._dialler = Dialler(target, asyncio.get_running_loop())

    async def prepare(self) -> None:
        """Look up the target's name."""
        await self._dialler.look_up()

    async def is_answered(self) -> bool:
        """Whether anything listens there now."""
        talk = _Talk()
        try:
            await self._dialler.dial(Connection(talk))
        except NoConnection:
            return False
        await talk.end()
        return True

    async def ask(self, timeout_s: float) -> Asked:
        """Send it; never raises for what the target does."""
        began_ns = time.monotonic_ns()
        talk = _Talk()
        connection = Connection(
            talk,
            head_only=self._target.answers_head,
            keeps_body=self._target.expect_json_key is not None,
        )
        why: str | None
        try:
            async with asyncio.timeout(timeout_s):
                await self._dialler.dial(connection)
                connection.send(0, self._target.requests[0])
                why = await talk.ended
        except NoConnection as error:
            return Asked(began_ns, time.monotonic_ns(), why_not=str(error))
        except TimeoutError:
            why = f"no whole answer within {timeout_s:.1f} s"
        finally:
            connection.give_up()
            await talk.end()
        if why is not None:
            return Asked(began_ns, time.monotonic_ns(), why_not=why)
        return Asked(
            began_ns,
            connection.done_ns,
            connection.status,
            self._why_bad(connection),
            server_timing_ms(connection.server_timing),
        )

    def _why_bad(self, connection: Connection) -> str | None:
        expected, key = self._target.expect_status, self._target.expect_json_key
        status = connection.status
        if status not in expected if expected is not None else not 200 <= status <= 299:
            return f"status {status}"
        if key is None:
            return None
        try:
            body = json.loads(connection.body)
        except ValueError:
            return "an answer that isn't JSON"
        return None if isinstance(body, dict) and key in body else f"an answer without '{key}'"


class _Talk:
    """The owner of one connection with one request."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[str | None] = loop.create_future()
        self._connection: Connection | None = None
        self._closed = asyncio.Event()

    async def end(self) -> None:
        """Close the connection, if there is one, and see it closed."""
        if self._connection is not None:
            self._connection.give_up()
            await self._closed.wait()

    def connected(self, connection: Connection) -> None:
        self._connection = connection

    def answered(self, connection: Connection) -> None:  # noqa: ARG002 - it has one
        self._settle(None)

    def broke(self, connection: Connection, why: str) -> None:  # noqa: ARG002 - it has one
        self._settle(why)

    def lost(self, connection: Connection) -> None:  # noqa: ARG002 - it has one
        self._settle("the connection was closed without an answer")
        self._closed.set()

    def _settle(self, why: str | None) -> None:
        if not self.ended.done():
            self.ended.set_result(why)
