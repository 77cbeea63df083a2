"""`python -m visiondyno.loadtest.generator_process FD FD`: a generator process.

Over one pipe come the work, the moment to begin, and perhaps a stop; over the other go "ready",
progress and the recording, or the error. If the other side is gone, so is this process.
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
from visiondyno.loadtest.progress import Progress
from visiondyno.loadtest.recording import Recording

_NOBODY_LISTENS = 3
_RARELY = (20_000, 20, 20)
"""New objects until a collection, and collections until one of the older objects."""


def main(orders_fd: int, answers_fd: int) -> None:
    """Do one piece of work."""
    orders = Connection(orders_fd, writable=False)
    answers = Connection(answers_fd, readable=False)
    work = orders.recv()
    assert isinstance(work, Work)
    _take_all_descriptors()
    # A collection holds up whatever is due. Of what a round makes, little has cycles.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_RARELY)
    try:
        answer: tuple[str, object] = ("done", uvloop.run(_round(work, orders, answers)))
    except VisionDynoError as error:
        answer = ("error", error)
    with contextlib.suppress(BrokenPipeError):
        answers.send(answer)


async def _round(work: Work, orders: Connection, answers: Connection) -> Recording:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    start_ns: asyncio.Future[int] = loop.create_future()

    def heard() -> None:
        try:
            kind, content = orders.recv()
        except EOFError:
            os._exit(_NOBODY_LISTENS)
        if kind == "begin":
            start_ns.set_result(content)
        else:
            stop.set()

    async def begin() -> int:
        answers.send(("ready", None))
        return await start_ns

    def tell(progress: Progress) -> None:
        answers.send(("progress", progress))

    loop.add_reader(orders.fileno(), heard)
    return await run_round(
        work.target,
        work.load,
        seed=work.seed,
        timeout_s=work.timeout_s,
        connections=work.connections,
        on_progress=tell if work.tells else None,
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
    main(int(sys.argv[1]), int(sys.argv[2]))
