"""The front's end of a replica: a spawned process and the socket to it, on the event loop."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from visiondyno.job import JobError
from visiondyno.serving.wire import Answer, FrameReader, Item, batch_parts, frame, read_answers

_SOCKET_BYTES = 1 << 20
_LOOK_EVERY_S = 0.01
_LOOKS_BEFORE_KILL = 20


@dataclass(frozen=True, slots=True)
class Readiness:
    """What a replica tells when it can answer.

    Attributes:
        process_ms: from its spawning to its packages imported.
        load_ms: loading the model.
        first_inference_ms: the first prediction.
        total_ms: from its spawning until it was ready, all of the warm-up.
        model: `runtimes.base.ModelDescription` as JSON, and as `graph` the `inputs`, `outputs` and
            `has_free_rows` of `runtimes.base.GraphModel`; None where the model has none.
    """

    process_ms: float
    load_ms: float
    first_inference_ms: float
    total_ms: float
    model: dict[str, Any]


class Listener(Protocol):
    """Who is told of a replica; always on the event loop."""

    def on_ready(self, replica: "Replica", readiness: Readiness) -> None:
        """It takes batches from now on."""

    def on_answers(self, replica: "Replica", batch_id: int, answers: list[Answer]) -> None:
        """A batch is done."""

    def on_gone(self, replica: "Replica", how: str, failure: JobError | None) -> None:
        """Its process ended: the last that is told of it. `failure`: why it couldn't start."""


class Replica(asyncio.Protocol):
    """One process with the model in it.

    Attributes:
        name: for logs and metrics; a process that replaces another takes over its name.
        pid: of the process.
        started_ns: when it was spawned, on the monotonic clock.
    """

    def __init__(
        self, name: str, config: Mapping[str, Any], environ: Mapping[str, str], to: Listener
    ) -> None:
        """Spawn the process (never forked: CUDA and thread pools don't survive it).

        Raises:
            OSError: the machine has no process or socket to give.
        """
        self.name = name
        self.started_ns = time.monotonic_ns()
        self._to = to
        self._reader = FrameReader()
        self._failure: JobError | None = None
        self._transport: asyncio.Transport | None = None
        self._config = {**config, "started_ns": self.started_ns}
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", "visiondyno.serving.replica", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                env=dict(environ),
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._socket = ours
        self.pid = self._process.pid

    async def connect(self) -> None:
        """Begin to listen to it; before that nothing is told."""
        self._socket.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self, sock=self._socket)

    def send(self, batch_id: int, items: Sequence[Item]) -> None:
        """Hand it a batch; it does one after the other."""
        assert self._transport is not None, "only a connected replica is given batches"
        self._transport.writelines(batch_parts(batch_id, items))

    @property
    def is_lost(self) -> bool:
        """Whether its socket is closed: nothing reaches it any more, and `on_gone` follows."""
        return self._transport is not None and self._transport.is_closing()

    def kill(self) -> None:
        """SIGKILL; `on_gone` follows."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def end(self) -> None:
        """Have it end by itself: it does at the end of the socket. `on_gone` follows."""
        if self._transport is not None:
            # Not `close`: that first writes what it hasn't taken yet, to one that hangs for ever.
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no class of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(frame(b"S", self._config))

    def data_received(self, data: bytes) -> None:
        for body in self._reader.feed(data):
            kind = body[0]
            if kind == ord("A"):
                self._to.on_answers(self, *read_answers(body))
            elif kind == ord("R"):
                told = json.loads(bytes(body[1:]))
                names = ("process_ms", "load_ms", "first_inference_ms", "total_ms", "model")
                self._to.on_ready(self, Readiness(**{name: told[name] for name in names}))
            else:
                self._failure = JobError.model_validate_json(bytes(body[1:]))

    def connection_lost(self, _: Exception | None) -> None:
        self._reap(0)

    def _reap(self, looks: int) -> None:
        """Wait for the process's end without blocking; one that closed its socket may hang."""
        code = self._process.poll()
        if code is None:
            if looks == _LOOKS_BEFORE_KILL:
                self.kill()
            asyncio.get_running_loop().call_later(_LOOK_EVERY_S, self._reap, looks + 1)
            return
        how = (
            f"ended with exit code {code}"
            if code >= 0
            else f"was killed by {signal.Signals(-code).name}"
        )
        self._to.on_gone(self, how, self._failure)


Launch = Callable[[str, Listener], Replica]
"""Spawns a replica of this name; raises OSError where the machine has no process to give."""
