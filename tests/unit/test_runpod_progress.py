"""What a RunPod worker says of a job: in order, joined where it waits, cut where it is too much."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from coroutines import run
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.runpod_handler.progress import (
    MAX_ITEM_BYTES,
    MOST_WAITING,
    Json,
    OpenStream,
    Post,
    ProgressStream,
    read_json,
)


class Posted:
    """What a stream was given; each item takes as long as `hold` isn't set."""

    def __init__(self) -> None:
        self.items: list[Json] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self.error: Exception | None = None

    def opener(self) -> OpenStream:
        @asynccontextmanager
        async def opened() -> AsyncGenerator[Post]:
            async def post(item: Json) -> None:
                await self.hold.wait()
                if self.error is not None:
                    raise self.error
                self.items.append(item)

            yield post

        return opened


def test_progress_arrives_in_order_and_before_the_flush_ends() -> None:
    async def main() -> None:
        posted = Posted()
        stream = ProgressStream(posted.opener())
        for done in range(50):
            stream.tell(json.dumps({"done": done}))
            if done % 7 == 0:
                await asyncio.sleep(0)
        await stream.flush()
        assert posted.items == [{"done": done} for done in range(50)]
        stream.tell('{"done": 50}')
        await stream.flush()
        assert len(posted.items) == 50

    run(main())


def test_waiting_lines_of_a_log_are_joined_and_nothing_else() -> None:
    async def main() -> None:
        posted = Posted()
        posted.hold.clear()
        stream = ProgressStream(posted.opener())
        said = [{"log": "a"}, {"log": "b"}, {"stage": "x", "log": "c"}, {"log": "d"}, {"log": "e"}]
        for item in said:
            stream.tell(json.dumps(item))
        long = {"log": "f" * 100_000}
        stream.tell(json.dumps(long))
        posted.hold.set()
        await stream.flush()
        assert posted.items == [
            {"log": "a\nb"},
            {"stage": "x", "log": "c"},
            {"log": "d\ne"},
            long,
        ]

    run(main())


def test_what_is_too_much_is_left_out_and_said_so() -> None:
    async def main() -> None:
        posted = Posted()
        posted.hold.clear()
        stream = ProgressStream(posted.opener())
        for done in range(MOST_WAITING + 5):
            stream.tell(json.dumps({"done": done}))
        stream.tell(json.dumps({"stage": "weights", "bytes": "x" * MAX_ITEM_BYTES}))
        posted.hold.set()
        await stream.flush()
        assert posted.items[0] == {"stage": "progress was left out", "left_out": 6}
        assert posted.items[1] == {"done": 6}
        assert len(posted.items) == 1 + MOST_WAITING
        assert posted.items[-1]["stage"] == "weights"
        assert "1 MB" in posted.items[-1]["log"]

    run(main())


def test_a_stream_that_hangs_or_breaks_holds_no_answer_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        hanging = Posted()
        hanging.hold.clear()
        stream = ProgressStream(hanging.opener(), flush_s=0.0)
        stream.tell('{"done": 1}')
        await stream.flush()
        hanging.hold.set()
        await asyncio.sleep(0)
        assert hanging.items == []
        assert "too slow" in caplog.text

        broken = Posted()
        broken.error = OSError("the network is gone")
        stream = ProgressStream(broken.opener())
        stream.tell('{"done": 1}')
        await asyncio.sleep(0.0)
        await stream.flush()
        assert "the network is gone" in caplog.text
        await ProgressStream(broken.opener()).flush()  # nothing was told

    run(main())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(JSON)
def test_json_is_read_as_it_was_written(value: Any) -> None:
    assert read_json(json.dumps(value)) == value


@given(st.text(st.characters(codec=None, categories=("Cs", "Lu", "Sm"))))
def test_what_is_read_can_be_sent(text: str) -> None:
    found = read_json(json.dumps({"text": text}))
    assert json.loads(json.dumps(found, ensure_ascii=False).encode()) == found
