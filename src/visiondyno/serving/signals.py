"""SIGINT and SIGTERM, from before a server's first process until its end."""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

_TAKEN = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """Those that came, told to whoever is named; to nobody they are kept until then."""

    def __init__(self) -> None:
        self._kept = 0
        self._to: Callable[[], None] | None = None

    def came(self) -> None:
        """One more."""
        if self._to is None:
            self._kept += 1
        else:
            self._to()

    def tell(self, to: Callable[[], None]) -> None:
        """Call it for each that came already, and at each that comes."""
        self._to = to
        for _ in range(self._kept):
            to()
        self._kept = 0


@contextlib.contextmanager
def taken_signals() -> Iterator[Signals]:
    """Take both on the running event loop; outside of the main thread none ever comes."""
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in _TAKEN}
    for number in _TAKEN:
        loop.add_signal_handler(number, signals.came)
    try:
        yield signals
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
