"""An event loop on a thread of its own, used from threads that have none, or another."""

import asyncio
import atexit
import os
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
from queue import SimpleQueue
from typing import Any, TypeVar, cast

from visiondyno.errors import Cancelled, SpecError

T = TypeVar("T")
Give = Callable[[Any], None]

_EXIT_S = 10.0
_END = object()


class LoopThread:
    """Runs coroutines for callers of any thread; started by the first call, ended by `stop`.

    What a coroutine gives on its way is handed on in the caller's own thread. An interrupt
    (Ctrl-C) there cancels the coroutine and waits for its end; a second one doesn't wait.

    One that is forgotten is stopped when the interpreter ends.
    """

    def __init__(self, name: str, close: Callable[[], Awaitable[None]]) -> None:
        """`close` is awaited on the loop, as its last, when it is stopped."""
        self._name = name
        self._close = close
        self._lock = threading.RLock()  # a finalizer may run wherever this thread is
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ending = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._pid = 0
        self._stopped = False

    def run(self, make: Callable[[Give], Coroutine[Any, Any, T]], deliver: Give | None = None) -> T:
        """`await make(give)` on the loop; what it gives goes to `deliver` here.

        What `deliver` raises cancels the coroutine, and is raised once that has ended.

        Raises:
            Cancelled: `stop` was called meanwhile.
            SpecError: it was called before, or in another process.
        """
        inbox: SimpleQueue[Any] = SimpleQueue()
        begun: list[asyncio.Task[T]] = []

        def begin() -> None:
            task = self._begin(make(inbox.put))
            begun.append(task)
            task.add_done_callback(inbox.put)

        loop = self._schedule(begin)
        try:
            while not isinstance(item := inbox.get(), asyncio.Task):
                if deliver is not None:
                    deliver(item)
        except BaseException:
            loop.call_soon_threadsafe(lambda: [task.cancel() for task in begun])
            # An interrupt may have come just as the end was taken from the inbox.
            while not (begun and begun[0].done()) and not isinstance(inbox.get(), asyncio.Task):
                pass
            raise
        try:
            return cast("T", item.result())
        except asyncio.CancelledError as error:
            raise Cancelled("The client was closed while this waited.") from error

    def iterate(self, make: Callable[[], AsyncGenerator[T, None]]) -> Iterator[T]:
        """What an asynchronous generator yields, one by one."""
        items = make()

        async def step(_: Give) -> Any:
            return await anext(items, _END)

        async def end(_: Give) -> None:
            await items.aclose()

        try:
            while (item := self.run(step)) is not _END:
                yield item
        finally:
            if self._thread is not None and self._thread.ident == threading.get_ident():
                self._begin(items.aclose())  # collected there as garbage: it can't wait for itself
            elif not self._stopped:
                self.run(end)

    def stop(self, timeout_s: float | None = None) -> None:
        """Cancel what runs, close, and end the thread. Calling it again does nothing.

        Args:
            timeout_s: goes on without the thread after so long; None waits.
        """
        if self._pid not in (0, os.getpid()):
            return  # a fork took neither the thread along nor who holds the lock
        with self._lock:
            first, self._stopped = not self._stopped, True
            loop, thread = self._loop, self._thread
            if loop is None or thread is None:
                return
            if first:
                loop.call_soon_threadsafe(self._ending.set)
        if thread.ident != threading.get_ident():
            thread.join(timeout_s)

    def _schedule(self, begin: Callable[[], None]) -> asyncio.AbstractEventLoop:
        if self._pid not in (0, os.getpid()):
            raise SpecError(
                "This client was made in another process, and a fork doesn't take its thread "
                "along; make a new one in this process."
            )
        # Under the lock: what is scheduled before the end is told is begun before it.
        with self._lock:
            if self._stopped:
                raise SpecError("This client is closed; make a new one.")
            if self._loop is None:
                self._start()
            assert self._loop is not None
            self._loop.call_soon_threadsafe(begin)
            return self._loop

    def _begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _start(self) -> None:
        ready = threading.Event()
        self._pid = os.getpid()
        self._thread = threading.Thread(
            target=self._live, args=(ready,), name=self._name, daemon=True
        )
        _stop_at_exit(self)
        self._thread.start()
        ready.wait()

    def _live(self, ready: threading.Event) -> None:
        asyncio.run(self._main(ready))
        _open.discard(self)  # until here the interpreter's end must wait for it

    async def _main(self, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        ready.set()
        await self._ending.wait()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._close()


_open: set[LoopThread] = set()
_registered = threading.Lock()


def _stop_at_exit(thread: LoopThread) -> None:
    if _registered.acquire(blocking=False):
        # Before the interpreter waits for the threads of pools, one of which may run a job; what
        # is registered with atexit comes after. Functions registered later are called earlier.
        register = getattr(threading, "_register_atexit", atexit.register)
        register(_stop_all)
    _open.add(thread)


def _stop_all() -> None:
    for thread in list(_open):
        thread.stop(_EXIT_S)
