"""A client asks again for a quarter of a minute, however long one attempt takes."""

import asyncio

import pytest

from visiondyno.client.patience import PAUSES_S, Patience
from visiondyno.errors import RateLimited, TransportDown

DOWN = TransportDown("No server answers at http://127.0.0.1:1; start one.")


class Time:
    """Passes by pauses and by attempts alone."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.pauses_s: list[float] = []

    async def sleep(self, pause_s: float) -> None:
        self.pauses_s.append(pause_s)
        self.now_s += pause_s

    def clock(self) -> float:
        return self.now_s


def failing(time: Time, attempt_s: float, error: TransportDown | RateLimited = DOWN) -> None:
    """Attempts that take so long and fail, until they are over."""

    async def main() -> None:
        patience = Patience(time.sleep, time.clock)
        while True:
            time.now_s += attempt_s
            await patience.pause(error)

    with pytest.raises(type(error)):
        asyncio.run(main())


@pytest.mark.parametrize(
    ("attempt_s", "pauses_s"),
    [(0.0, list(PAUSES_S)), (2.0, [0.5, 1.0, 2.0, 4.0]), (8.0, [0.5]), (60.0, [])],
    ids=["at once", "2 s", "8 s", "60 s"],
)
def test_attempts_end_after_a_quarter_of_a_minute(attempt_s: float, pauses_s: list[float]) -> None:
    time = Time()
    failing(time, attempt_s)
    assert time.pauses_s == pauses_s


def test_time_that_a_server_asked_for_does_not_count() -> None:
    time = Time()
    failing(time, 0.0, RateLimited("Too many requests.", retry_after_s=30.0))
    assert time.pauses_s == [30.0] * len(PAUSES_S)


def test_who_asks_for_a_year_is_waited_for_a_minute() -> None:
    time = Time()
    failing(time, 0.0, RateLimited("Too many requests.", retry_after_s=3e7))
    assert time.pauses_s == [60.0] * len(PAUSES_S)


def test_what_fails_after_a_long_good_time_is_a_new_trouble() -> None:
    time = Time()

    async def main() -> None:
        patience = Patience(time.sleep, time.clock)
        await patience.pause(DOWN)
        patience.renew()
        time.now_s += 600
        for _ in range(len(PAUSES_S)):
            await patience.pause(DOWN)
        with pytest.raises(TransportDown):
            await patience.pause(DOWN)

    asyncio.run(main())
    assert time.pauses_s == [0.5, *PAUSES_S]
