"""How many jobs run at once, and which of them run alone."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class Gate:
    """So many places, taken in the order of asking; who takes all of them is alone.

    Who asks for many isn't passed by those who ask for few after it, so nobody waits for ever.
    For use from one event loop.

    Attributes:
        places: how many there are, at least 1.
    """

    def __init__(self, places: int) -> None:
        assert places >= 1
        self.places = places
        self._free = places
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def entered(self, places: int) -> AsyncGenerator[None]:
        """Hold `places` of them, 1 to `self.places`, while the context lasts."""
        assert 1 <= places <= self.places
        await self._take(places)
        try:
            yield
        finally:
            self._free += places
            self._let_in()

    async def _take(self, places: int) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((places, turn))
        self._let_in()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # let in and cancelled in the same moment
                self._free += places
            self._let_in()
            raise

    def _let_in(self) -> None:
        while self._waiting:
            places, turn = self._waiting[0]
            if not turn.cancelled():
                if places > self._free:
                    return
                self._free -= places
                turn.set_result(None)
            self._waiting.popleft()
