"""`python -m visiondyno.loadtest.generator_process FD`: a generator process, at work for another.

Over the pipe come the work, the moment to begin, and perhaps a stop; back go "ready", progress and
the recording, or the error. If the other side is gone, so is this process.
"""

import asyncio
import contextlib
import gc
import os
import resource
import sys
from multiprocessing.connection import Connection

import uvloop

from visiondyno.errors import VisionDynoError
from visiondyno.loadtest.generator import run_round
from visiondyno.loadtest.processes import Work
from visiondyno.loadtest.recording import Recording

_NOBODY_LISTENS = 3
_RARELY = (20_000, 20, 20)
"""New objects until a collection, and collections until one of the older objects."""


def main(fd: int) -> None:
    """Do one piece of work."""
    pipe = Connection(fd)
    work = pipe.recv()
    assert isinstance(work, Work)
    _take_all_descriptors()
    # A collection holds up whatever is due. Of what a round makes, little has cycles.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_RARELY)
    try:
        answer: tuple[str, object] = ("done", uvloop.run(_round(work, pipe)))
    except VisionDynoError as error:
        answer = ("error", error)
    with contextlib.suppress(BrokenPipeError):
        pipe.send(answer)


async def _round(work: Work, pipe: Connection) -> Recording:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    start_ns: asyncio.Future[int] = loop.create_future()

    def heard() -> None:
        try:
            kind, content = pipe.recv()
        except (EOFError, ConnectionResetError):
            os._exit(_NOBODY_LISTENS)
        if kind == "begin":
            start_ns.set_result(content)
        else:
            stop.set()

    async def begin() -> int:
        pipe.send(("ready", None))
        return await start_ns

    loop.add_reader(pipe.fileno(), heard)
    return await run_round(
        work.target,
        work.load,
        seed=work.seed,
        timeout_s=work.timeout_s,
        connections=work.connections,
        on_progress=(lambda progress: pipe.send(("progress", progress))) if work.tells else None,
        stop=stop,
        share=work.share,
        begin=begin,
    )


def _take_all_descriptors() -> None:
    """As many connections as the system allows: shells give few by default."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    main(int(sys.argv[1]))
