"""The dashboard's parts that need no server: wording, counting, drawings, streams, forms."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import FormData

from visiondyno.dashboard.charts import score_bar, score_scale, sparkline
from visiondyno.dashboard.comparison_form import (
    ComparisonForm,
    data_suggestions,
    model_suggestions,
)
from visiondyno.dashboard.guard import local_path
from visiondyno.dashboard.live import Regions, batches, follow_regions, stream
from visiondyno.dashboard.tasks import board_rows
from visiondyno.dashboard.throughput import BUCKET_S, BUCKETS, Throughput
from visiondyno.dashboard.wording import (
    bytes_text,
    duration_text,
    facts_text,
    folded_json,
    moment,
    span_text,
)
from visiondyno.errors import NotFound, TransportDown
from visiondyno.service.leaderboard import LeaderboardRow


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 s"),
        (0, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (86400, "1 d"),
        (10 * 86400, "10 d"),
    ],
)
def test_a_span_is_told_in_its_largest_whole_unit(seconds, text):
    assert span_text(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0.0002, "< 1 ms"),
        (0.0412, "41.2 ms"),
        (3.271, "3.27 s"),
        (125, "2 min 5 s"),
        (600, "10 min"),
        (3840, "1 h 4 min"),
        (86400, "24 h"),
    ],
)
def test_a_duration_keeps_three_digits_and_its_unit(seconds, text):
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "not measured"), (812, "812 B"), (1500, "1.50 kB"), (5_300_000_000, "5.30 GB")],
)
def test_a_size_that_was_not_measured_is_no_zero(count, text):
    assert bytes_text(count) == text


def test_a_moment_is_relative_on_a_page_and_absolute_in_a_region():
    assert str(moment(None, 100.0)) == "–"
    page, region = str(moment(88.0, 100.0)), str(moment(88.0, None))
    assert ">12 s ago</time>" in page
    assert 'title="1970-01-01 00:01:28 UTC"' in page
    assert ">1970-01-01 00:01:28 UTC</time>" in region
    assert ">12 s</time>" in str(moment(88.0, 100.0, form="span"))


@given(st.recursive(st.text() | st.integers(), st.lists, max_leaves=5))
def test_short_values_fold_into_the_same_json(value):
    assert json.loads(folded_json(value)) == value


def test_long_values_say_how_much_was_left_out():
    folded = folded_json({"image": "A" * 5000, "numbers": list(range(1000))})
    assert "… (4,800 more characters)" in folded
    assert "… (800 more entries)" in folded
    assert len(folded) < 4000


def test_progress_is_told_as_one_line():
    assert facts_text({"log": "loss 0.1"}) == "loss 0.1"
    said = {"stage": "accuracy pass", "model": "a.onnx", "done": 1200, "total": 2000, "warm": True}
    assert facts_text(said) == "a.onnx: accuracy pass · 1,200 of 2,000 · warm True"
    assert facts_text({"stage": "x", "done": "odd", "total": None}) == "x"


def test_throughput_counts_what_ended_and_knows_since_when():
    now = [10_000.0]
    throughput = Throughput(lambda: now[0])

    async def note(times: int) -> None:
        for _ in range(times):
            await throughput.note(None, None)  # type: ignore[arg-type]

    asyncio.run(note(3))
    now[0] += BUCKET_S
    asyncio.run(note(2))
    assert throughput.bars()[-1] == 3
    assert throughput.bars()[:-1] == [None] * (BUCKETS - 1)  # unknown is no 0
    assert throughput.ended() == 5
    assert throughput.counted_s() == BUCKET_S
    now[0] += BUCKET_S * 2
    assert throughput.bars()[-3:] == [3, 2, 0]
    now[0] += BUCKET_S * BUCKETS * 3
    assert throughput.bars() == [0] * BUCKETS
    assert throughput.ended() == 0
    assert throughput.counted_s() == BUCKET_S * BUCKETS


@given(st.lists(st.none() | st.integers(0, 10**6), max_size=80))
def test_a_sparkline_keeps_inside_its_frame(bars):
    drawing = str(sparkline(bars, 'a "label"'))
    assert drawing.count('class="bar"') == sum(bar is not None for bar in bars)
    assert drawing.count('class="unknown"') == bars.count(None)
    assert "&#34;label&#34;" in drawing
    heights = [float(part.split('"')[0]) for part in drawing.split('height="')[1:]]
    assert all(0 < height <= 44 for height in heights)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted), min_size=1, max_size=9))
def test_every_interval_of_a_board_fits_its_bar(intervals):
    scale = score_scale([(low, high) for low, high in intervals])
    assert scale is not None
    for low, high in intervals:
        assert 3.9 <= scale(low) <= scale(high) <= 236.1
        assert "<circle" in score_bar(scale, low, low, high, "x")


def test_a_score_without_interval_has_no_span():
    scale = score_scale([(0.5, 0.5)])
    assert scale is not None
    assert 'class="span"' not in score_bar(scale, 0.5, None, None, "x")
    assert score_scale([]) is None


def test_ties_share_a_rank_and_say_so():
    rows = [
        LeaderboardRow(1, "a", 0.81, 0.80, 0.82, ("b",), 0.0, "sub_a"),
        LeaderboardRow(1, "b", 0.80, 0.79, 0.81, ("a",), 0.0, "sub_b"),
        LeaderboardRow(3, "c", 0.70, None, None, (), 0.0, "sub_c"),
    ]
    board = board_rows(rows)
    assert [entry.rank for entry in board] == ["1=", "1=", "3"]
    assert "0.810, 95 % interval 0.800 to 0.820" in board[0].bar
    assert 'class="span"' not in board[2].bar
    assert "interval" not in board[2].bar.split("aria-label")[1]
    assert board_rows([]) == []


@pytest.mark.parametrize(
    "text",
    [
        "//evil.example",
        "https://evil.example/",
        "/\\evil",
        "jobs",
        "",
        "/a\r\nb",
        "\\\\e",
        "http://[",
    ],
)
def test_a_login_leads_nowhere_else(text):
    assert local_path(text) == "/"


def test_a_login_leads_back_to_its_page():
    assert local_path("/jobs?state=FAILED") == "/jobs?state=FAILED"


class Numbers:
    """Says numbers, waiting where it is told to; knows whether it was closed."""

    def __init__(self, *said: int | asyncio.Event | Exception) -> None:
        self.said = said
        self.closed = False

    async def __call__(self) -> AsyncIterator[int]:
        try:
            for one in self.said:
                if isinstance(one, asyncio.Event):
                    await one.wait()
                elif isinstance(one, Exception):
                    raise one
                else:
                    yield one
        finally:
            self.closed = True


def test_what_comes_together_is_one_batch():
    async def gather() -> list[list[int]]:
        return [batch async for batch in batches(Numbers(1, 2, 3)(), gather_s=0.01)]

    assert asyncio.run(gather()) == [[1, 2, 3]]


def test_an_error_comes_after_what_came_before_it():
    async def gather() -> None:
        async for batch in batches(Numbers(1, NotFound("gone"))(), gather_s=0.01):
            found.append(batch)

    found: list[list[int]] = []
    with pytest.raises(NotFound):
        asyncio.run(gather())
    assert found == [[1]]


def test_silence_is_told_and_leaving_closes_the_source():
    async def gather() -> tuple[list[list[int]], bool]:
        numbers = Numbers(1, asyncio.Event())
        batched, found = batches(numbers(), gather_s=0.001, silence_s=0.001), []
        async for batch in batched:
            found.append(batch)
            if len(found) == 3:
                break
        await batched.aclose()
        return found, numbers.closed

    assert asyncio.run(gather()) == ([[1], [], []], True)


def follow(readings: list[Regions | Exception], **options: float) -> list[tuple[str, dict]]:
    """What `follow_regions` says while the readings last."""
    waiting = iter(readings)

    async def read() -> Regions:
        found = next(waiting)
        if isinstance(found, Exception):
            raise found
        return found

    async def gather() -> list[tuple[str, dict]]:
        events = follow_regions(read, look_s=0, **options)
        return [(str(e.event), json.loads(e.data)) async for e in events]

    return asyncio.run(gather())


def test_only_what_changed_is_sent_and_the_end_is_told():
    said = follow(
        [
            Regions({"a": "1", "b": "1"}),
            Regions({"a": "1", "b": "1"}),
            Regions({"a": "1", "b": "2"}, ended=True),
        ],
        heartbeat_s=1000,
    )
    assert [(name, data.get("regions")) for name, data in said] == [
        ("regions", {"a": "1", "b": "1"}),
        ("regions", {"b": "2"}),
        ("end", None),
    ]


def test_a_quiet_stream_beats_and_trouble_is_no_beat():
    same = Regions({"a": "1"})
    said = follow(
        [same, same, TransportDown("The store is away."), Regions({}, True)], heartbeat_s=0
    )
    assert [name for name, _ in said] == ["regions", "regions", "trouble", "regions", "end"]
    assert said[1][1]["regions"] == {}
    assert said[2][1] == {"message": "The store is away."}


def test_a_stream_ends_after_its_longest_time():
    async def gather() -> int:
        async def read() -> Regions:
            return Regions({})

        response = stream(follow_regions(read, look_s=0, heartbeat_s=0), longest_s=0.02)
        return len([event async for event in response.body_iterator])

    assert asyncio.run(gather()) >= 1


def form(**fields: str | list[str]) -> ComparisonForm:
    items = [
        (name, value)
        for name, values in fields.items()
        for value in (values if isinstance(values, list) else [values])
    ]
    return ComparisonForm.from_form(FormData(items))


def test_a_form_becomes_a_comparison():
    spec, errors = form(
        shipped=["visiondyno:street-n"],
        others=" a.onnx \n\n b.onnx ",
        data="street:demo",
        classes="car, truck,",
        scenarios=["server"],
        duration_s="2.5",
        max_images="10",
    ).spec()
    assert errors == {}
    assert spec is not None
    assert spec.models == ("visiondyno:street-n", "a.onnx", "b.onnx")
    assert spec.classes == ("car", "truck")
    assert (spec.scenarios, spec.duration_s, spec.max_images) == (("server",), 2.5, 10)


def test_a_wrong_form_says_what_at_which_field():
    spec, errors = form().spec()
    assert spec is None
    assert set(errors) == {"models", "data", "scenarios"}
    _, errors = form(others="a\na", data="x", scenarios=["offline"]).spec()
    assert "twice" in errors["models"]
    _, errors = form(
        others="a", data="x", scenarios=["offline"], duration_s="long", max_images="-1"
    ).spec()
    assert set(errors) == {"duration_s", "max_images"}
    _, errors = form(others="a", data="x", scenarios=["downhill"], duration_s="1").spec()
    assert set(errors) == {"scenarios"}


def test_suggestions_are_what_the_package_holds():
    assert "visiondyno:street-n" in model_suggestions()
    assert "street:demo" in data_suggestions()
