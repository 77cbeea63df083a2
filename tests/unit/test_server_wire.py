"""A server's HTTP API is read and written without loss, and secrets stay out of what is said."""

import json
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.errors import (
    InputError,
    RateLimited,
    SpecError,
    TransportDown,
    Unavailable,
    VisionDynoError,
    error_classes,
)
from visiondyno.executors.runpod import is_endpoint_url
from visiondyno.executors.server_wire import (
    EventReader,
    checked_key,
    checked_url,
    connection_error,
    idempotency_key,
    job_event,
    key_headers,
    path_part,
    problem_error,
    refusal,
    request_body,
    retry_after_s,
)
from visiondyno.job import JobRequest, Policy

LINES = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e9, 1e9) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def answered(status: int, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
    asked = httpx.Request("GET", "http://server/health")
    return httpx.Response(status, headers=headers, request=asked, **body)


@given(
    st.lists(st.lists(LINES, min_size=1, max_size=3), max_size=4),
    st.lists(st.integers(1, 12), min_size=1, max_size=6),
    st.sampled_from(["\n", "\r\n"]),
)
def test_events_are_read_whatever_pieces_they_come_in(
    events: list[list[str]], sizes: list[int], end: str
) -> None:
    text = f": ping{end}{end}"
    for number, lines in enumerate(events, 1):
        text += f"id: {number}{end}"
        text += "".join(f"data: {line}{end}" for line in lines) + end
    sent = text.encode() + b"data: never ended"
    reader, found, at, turn = EventReader(), [], 0, 0
    while at < len(sent):
        size = sizes[turn % len(sizes)]
        found += reader.read(sent[at : at + size])
        at, turn = at + size, turn + 1
    assert found == ["\n".join(lines) for lines in events]


@given(
    st.dictionaries(st.text(), JSON, max_size=4),
    st.none() | st.integers(1, 10**15),
    st.none() | st.integers(1, 10**15),
    st.booleans(),
    st.none() | st.text(min_size=1),
)
def test_a_request_is_the_same_on_the_other_side(
    job_input: dict[str, Any], timeout_ms: int | None, ttl_ms: int | None, low: bool, hook: Any
) -> None:
    policy = Policy(execution_timeout_ms=timeout_ms, ttl_ms=ttl_ms, low_priority=low)
    sent = JobRequest(input=job_input, policy=policy, webhook=hook)
    assert JobRequest.model_validate(json.loads(request_body(sent))) == sent


@pytest.mark.parametrize("value", [float("inf"), b"bytes", {1, 2}, object], ids=range(4))
def test_what_json_cannot_hold_is_refused(value: Any) -> None:
    with pytest.raises(SpecError, match="can't be sent as JSON"):
        request_body(JobRequest(input={"x": value}))


def test_a_circle_is_refused_as_an_input() -> None:
    circle: dict[str, Any] = {}
    circle["x"] = circle
    with pytest.raises(SpecError, match="can't be sent as JSON"):
        request_body(JobRequest.model_construct(input=circle, policy=Policy(), webhook=None))


@pytest.mark.parametrize("code", sorted(error_classes()))
def test_every_error_is_the_same_on_the_other_side(code: str) -> None:
    kind = error_classes()[code]
    problem = {"code": code, "title": "T", "detail": "What, where, next step."}
    error = refusal(answered(max(400, kind.http_status), json=problem))
    assert type(error) is kind
    assert error.message == "What, where, next step."


@pytest.mark.parametrize(
    "body",
    [{}, [], 3, None, {"code": "not_found"}, {"code": 1, "title": "x"}, {"code": "a", "title": 1}],
    ids=range(7),
)
def test_what_is_no_problem_document_is_a_foreign_answer(body: Any) -> None:
    assert problem_error(answered(404, json=body)) is None
    error = refusal(answered(404, json=body))
    assert type(error) is Unavailable
    assert "isn't VisionDyno's" in error.message


def test_codes_of_a_newer_server_keep_their_side() -> None:
    newer = {"code": "teapot", "title": "I am a teapot."}
    assert type(refusal(answered(418, json=newer))) is InputError
    assert type(refusal(answered(599, json=newer))) is VisionDynoError


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("7", 7.0), ("0", 0.0), ("", None), ("-1", None), ("1.5", None), ("Wed, 21 Oct", None)],
)
def test_retry_after_is_read_where_it_says_seconds(given: str, seconds: float | None) -> None:
    assert retry_after_s(answered(429, {"Retry-After": given})) == seconds
    limited = refusal(
        answered(429, {"Retry-After": given}, json={"code": "rate_limited", "title": "x"})
    )
    assert isinstance(limited, RateLimited)
    assert limited.retry_after_s == seconds


@pytest.mark.parametrize(
    ("url", "is_now"),
    [
        ("host", "http://host"),
        ("127.0.0.1:8000/", "http://127.0.0.1:8000"),
        ("https://host/prefix//", "https://host/prefix"),
    ],
)
def test_a_url_is_completed(url: str, is_now: str) -> None:
    assert checked_url(url) == is_now


@pytest.mark.parametrize(
    "url", ["http://me:hidden@host", "hidden@host", "https://host/?key=hidden", "host?hidden"]
)
def test_a_url_with_a_secret_is_refused_without_telling_it(url: str) -> None:
    with pytest.raises(SpecError, match="give the API key apart") as caught:
        checked_url(url)
    assert "hidden" not in caught.value.message


@pytest.mark.parametrize("key", ["hid\nden", "hidd\u00e9n", "hid\x00den", "hidden\u2028x"])
def test_a_key_that_no_header_takes_is_refused_without_telling_it(key: str) -> None:
    with pytest.raises(SpecError) as caught:
        key_headers(key)
    assert "hid" not in caught.value.message


def test_a_key_goes_into_its_header_without_space_around_it() -> None:
    assert key_headers(" vd_1\n") == {"Authorization": "Bearer vd_1"}
    assert key_headers(None) == key_headers("") == key_headers(" \n") == {}
    assert checked_key(" ") is None


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (httpx.ConnectError("x"), "No server answers at http://s; do this."),
        (httpx.ReadTimeout("x"), "didn't answer in time"),
        (httpx.ReadError("x"), "broke the connection off"),
    ],
    ids=range(3),
)
def test_a_failed_connection_says_what_to_do(error: httpx.RequestError, says: str) -> None:
    down = connection_error("http://s", error, "do this")
    assert isinstance(down, TransportDown)
    assert says in down.message


@pytest.mark.parametrize(
    "data",
    [
        "",
        "[]",
        "3",
        "{}",
        '{"number": 1}',
        '{"number": 1, "state": "LOST"}',
        "{half",
        '{"number": 1, "state": "FAILED", "answer": {"status": "FAILED", "unknown": 1}}',
    ],
    ids=range(8),
)
def test_what_is_no_event_is_told(data: str) -> None:
    with pytest.raises(Unavailable, match="isn't one"):
        job_event("job", data)


def test_an_event_has_the_id_that_the_job_has_on_this_side() -> None:
    answer = {"id": "theirs", "status": "COMPLETED", "output": {"x": None}}
    event = job_event("ours", json.dumps({"number": 3, "state": "COMPLETED", "answer": answer}))
    assert event.job_id == "ours"
    assert event.answer is not None
    assert event.answer.id == "ours"
    assert event.answer.output == {"x": None}


@pytest.mark.parametrize(
    ("url", "is_endpoint"),
    [
        ("https://api.runpod.ai/v2/abc123", True),
        ("https://api.runpod.ai/v2/abc123/run/", True),
        ("http://127.0.0.1:8000/v2/default", True),
        ("http://host/prefix/v2/default/", True),
        ("http://host", False),
        ("http://host/v2", False),
        ("http://host/v2/", False),
        ("http://host/v2/default/status/x", False),
        ("host/v2/default", False),
    ],
)
def test_an_endpoint_is_known_by_its_url(url: str, is_endpoint: bool) -> None:
    assert is_endpoint_url(url) is is_endpoint


@given(st.text(), st.text())
def test_each_id_has_one_key_that_a_header_takes(one: str, other: str) -> None:
    key = idempotency_key(one)
    assert 1 <= len(key) <= 255
    assert all("!" <= letter <= "~" for letter in key)
    assert key == idempotency_key(one)
    assert (key == idempotency_key(other)) == (one == other)


def test_a_submission_without_an_id_has_a_key_of_its_own() -> None:
    assert idempotency_key(None) != idempotency_key(None)


@given(st.text(st.characters()))
def test_any_text_is_one_part_of_a_path(text: str) -> None:
    assert not set("/?#") & set(path_part(text))
