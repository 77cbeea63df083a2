"""How often and how much the API takes."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException

from visiondyno.api.gate import body_limit
from visiondyno.api.limits import LimitedBody, RateLimit
from visiondyno.errors import RateLimited
from visiondyno.settings import Settings


class Seconds:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def refused_for(limit: RateLimit, caller: str) -> float:
    try:
        limit.take(caller)
    except RateLimited as refusal:
        return refusal.retry_after_s or -1
    return 0


def allowed(limit: RateLimit, caller: str) -> bool:
    return refused_for(limit, caller) == 0


def test_a_caller_gets_its_minute_at_once_and_then_evenly() -> None:
    clock = Seconds()
    limit = RateLimit(60, clock)
    assert [allowed(limit, "a") for _ in range(61)] == [True] * 60 + [False]
    clock.now = 0.9
    with pytest.raises(RateLimited, match="60 requests a minute") as refusal:
        limit.take("a")
    assert refusal.value.retry_after_s == pytest.approx(0.1)
    clock.now = 1.0
    assert [allowed(limit, "a") for _ in range(2)] == [True, False]
    assert allowed(limit, "b")


def test_a_limit_of_zero_is_none() -> None:
    limit = RateLimit(0, Seconds())
    assert all(allowed(limit, "a") for _ in range(10_000))


@given(
    per_minute=st.integers(1, 500),
    pauses=st.lists(st.floats(0, 30, allow_nan=False), min_size=1, max_size=200),
)
def test_no_more_than_the_bucket_and_its_refill_pass(per_minute: int, pauses: list[float]) -> None:
    clock = Seconds()
    limit = RateLimit(per_minute, clock)
    passed = 0
    for pause in pauses:
        clock.now += pause
        passed += allowed(limit, "a")
    assert passed <= per_minute + clock.now * per_minute / 60 + 1e-6


@given(per_minute=st.integers(1, 500), used=st.integers(0, 600))
def test_who_waits_as_told_is_let_in(per_minute: int, used: int) -> None:
    clock = Seconds()
    limit = RateLimit(per_minute, clock)
    for _ in range(used):
        allowed(limit, "a")
    wait_s = refused_for(limit, "a")
    clock.now += wait_s + 1e-9
    assert wait_s == 0 or allowed(limit, "a")


def test_a_clock_that_goes_back_gives_nothing() -> None:
    clock = Seconds()
    clock.now = 100.0
    limit = RateLimit(1, clock)
    assert allowed(limit, "a")
    clock.now = 0.0
    assert not allowed(limit, "a")


def test_the_callers_seen_longest_ago_are_forgotten_first() -> None:
    limit = RateLimit(1, Seconds())
    assert allowed(limit, "first")
    assert not allowed(limit, "first")
    for number in range(10_000):
        assert allowed(limit, f"caller {number}")
    assert allowed(limit, "first")
    assert not allowed(limit, "caller 9999")


def read_all(chunks: list[bytes], limit_bytes: int, declared: str = "") -> bytes:
    messages = iter(
        [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
        + [{"type": "http.disconnect"}]
    )

    async def receive() -> Any:
        return next(messages)

    async def main() -> bytes:
        body = LimitedBody(receive, limit_bytes)
        body.check_declared(declared)
        found = b""
        while (message := await body())["type"] == "http.request":
            found += message["body"]
        return found

    return asyncio.run(main())


@given(chunks=st.lists(st.binary(max_size=20), max_size=10), limit_bytes=st.integers(0, 100))
def test_a_body_passes_whole_or_not(chunks: list[bytes], limit_bytes: int) -> None:
    whole = b"".join(chunks)
    if len(whole) <= limit_bytes:
        assert read_all(chunks, limit_bytes) == whole
    else:
        with pytest.raises(HTTPException) as refusal:
            read_all(chunks, limit_bytes)
        assert refusal.value.status_code == 413


@pytest.mark.parametrize("declared", ["101", "0101", "9" * 5000, " 101 "])
def test_a_body_that_says_it_is_too_large_is_refused_unread(declared: str) -> None:
    with pytest.raises(HTTPException, match=r"larger than the 0\.0001 MB"):
        read_all([], 100, declared)


@pytest.mark.parametrize("declared", ["100", "", "-5", "1e9", "٣", "many"])
def test_a_body_is_believed_only_against_itself(declared: str) -> None:
    assert read_all([b"x"], 100, declared) == b"x"


def test_each_address_has_its_limit() -> None:
    settings = Settings(_env_file=None, max_run_bytes=1, max_runsync_bytes=2, max_upload_bytes=3)
    assert body_limit("/v2/default/run", settings) == 1
    assert body_limit("/v2/default/runsync", settings) == 2
    assert body_limit("/blobs/00", settings) == 3
    assert body_limit("/submit/task2", settings) == 1_000_003
    assert body_limit("/api/benchmark", settings) == 1
