"""A timer as precise as the kernel's: event loops keep time in whole milliseconds.

Linux' timerfd is armed with an absolute moment of CLOCK_MONOTONIC in ns, and the loop waits for it
as for a socket. Where there is none the loop's own timer is used, and `is_precise` says so.
"""

import asyncio
import contextlib
import ctypes
import os
import time
from collections.abc import Callable, Iterator

_CLOCK_MONOTONIC = 1
_ABSOLUTE = 1
_SET_TIMERSLACK, _GET_TIMERSLACK = 29, 30

IMPRECISE = "This system has no timerfd: requests are sent by a timer of 1 ms steps."


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("ns", ctypes.c_long))


class _Setting(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Timer:
    """Calls back once at a moment of the monotonic clock, on the loop it was made in.

    Args:
        callback: called without arguments; it may arm the timer again.
        loop: the running loop.
    """

    is_precise: bool

    def __init__(self, callback: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        self._callback = callback
        self._loop = loop
        self._handle: asyncio.TimerHandle | None = None
        self._fd = _timerfd()
        self.is_precise = self._fd is not None
        if self._fd is not None:
            self._setting = _Setting()
            loop.add_reader(self._fd, self._fired)

    def arm(self, at_ns: int) -> None:
        """Call back at this moment (at once if it is over), instead of at one armed before."""
        if self._fd is None:
            self._cancel()
            delay_s = max(0.0, (at_ns - time.monotonic_ns()) / 1e9)
            self._handle = self._loop.call_later(delay_s, self._callback)
            return
        value = self._setting.value
        # A value of 0 would disarm it.
        value.seconds, value.ns = divmod(max(at_ns, 1), 1_000_000_000)
        _LIBC.timerfd_settime(self._fd, _ABSOLUTE, ctypes.byref(self._setting), None)

    def close(self) -> None:
        """Never call back again. Safe to call twice."""
        self._cancel()
        if self._fd is not None:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = None

    def _cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _fired(self) -> None:
        assert self._fd is not None
        with contextlib.suppress(BlockingIOError):  # armed anew since the loop saw it
            os.read(self._fd, 8)
            self._callback()


@contextlib.contextmanager
def least_slack() -> Iterator[None]:
    """Have the kernel wake this thread on time instead of up to 50 µs later, to save power."""
    before = _prctl(_GET_TIMERSLACK, 0)
    if before is None or before < 0:
        yield
        return
    _prctl(_SET_TIMERSLACK, 1)
    try:
        yield
    finally:
        _prctl(_SET_TIMERSLACK, before)


_LIBC = ctypes.CDLL(None, use_errno=True)


def _timerfd() -> int | None:
    if not hasattr(_LIBC, "timerfd_create"):
        return None
    fd = int(_LIBC.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC))
    return None if fd < 0 else fd


def _prctl(option: int, value: int) -> int | None:
    if not hasattr(_LIBC, "prctl"):
        return None
    return int(_LIBC.prctl(option, ctypes.c_ulong(value), 0, 0, 0))
