"""Targets made ready: whole requests as bytes, and one clear sentence for what can't be one."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.errors import DatasetError, SpecError
from visiondyno.loadtest import targets
from visiondyno.loadtest.connection import server_timing_ms
from visiondyno.loadtest.targets import USER_AGENT, PreparedTarget, image_files, prepare_target
from visiondyno.specs.load_test import TargetSpec

JPEG, PNG = b"\xff\xd8\xff\xe0 jpeg", b"\x89PNG\r\n\x1a\n png"
WEBP, BMP = b"RIFF\x00\x00\x00\x00WEBPVP8 webp", b"BM bmp"


def prepared(url: str = "http://host/", **fields: Any) -> PreparedTarget:
    return prepare_target(TargetSpec(url=url, **fields))


def line_of(target: PreparedTarget) -> str:
    return target.requests[0].split(b"\r\n")[0].decode()


def headers_of(request: bytes) -> dict[str, str]:
    lines = request.split(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
    return dict(line.split(": ", 1) for line in lines)


@pytest.mark.parametrize(
    ("url", "host", "port", "tls", "line", "header"),
    [
        ("http://a.example", "a.example", 80, False, "GET / HTTP/1.1", "a.example"),
        ("a.example:81", "a.example", 81, False, "GET / HTTP/1.1", "a.example:81"),
        ("https://a.example/x?y=1&z", "a.example", 443, True, "GET /x?y=1&z HTTP/1.1", "a.example"),
        ("https://a.example:80", "a.example", 80, True, "GET / HTTP/1.1", "a.example:80"),
        ("http://[::1]:8080/é%20", "::1", 8080, False, "GET /%C3%A9%20 HTTP/1.1", "[::1]:8080"),
        ("http://bücher.example/", "xn--bcher-kva.example", 80, False, "GET / HTTP/1.1", None),
        ("HTTP://A.example/a#b", "a.example", 80, False, "GET /a HTTP/1.1", "a.example"),
    ],
)
def test_a_url_is_an_address_and_a_request_line(
    url: str, host: str, port: int, tls: bool, line: str, header: str | None
) -> None:
    target = prepared(url)
    assert (target.host, target.port, target.uses_tls) == (host, port, tls)
    assert line_of(target) == line
    found = headers_of(target.requests[0])
    assert found["Host"] == (header or host)
    assert found["User-Agent"] == USER_AGENT


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://host/", "http://", "http:///path", "http://host:99999/", "http://[::1/", ""),
        *("http://host/a b", "http://host/\r\nX: y", "http://host:x/", "http://" + "ä" * 80),
    ],
)
def test_a_url_that_cannot_be_one_is_refused(url: str) -> None:
    with pytest.raises(SpecError, match="The URL") as refused:
        prepared(url)
    assert "\n" not in refused.value.message


def test_user_information_is_sent_as_basic_authorization_and_shown_nowhere() -> None:
    target = prepared("http://us%40er:pa%3Ass@host:8080/x")
    assert headers_of(target.requests[0])["Authorization"] == "Basic dXNAZXI6cGE6c3M="
    assert target.url == "http://host:8080/x"
    assert target.name == "host:8080/x"
    with pytest.raises(SpecError) as refused:
        prepared("ftp://user:secret@host/")
    assert "secret" not in refused.value.message


def test_images_go_to_predict_of_a_bare_host_with_their_types(tmp_path: Path) -> None:
    for name, content in {"d.webp": WEBP, "a": JPEG, "b.txt": PNG, "c": BMP, "z": b"no"}.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder").mkdir()
    target = prepared("http://host", images=(str(tmp_path), str(tmp_path / "a")))
    assert line_of(target) == "POST /predict HTTP/1.1"
    bodies = [request.split(b"\r\n\r\n", 1)[1] for request in target.requests]
    assert bodies == [JPEG, PNG, BMP, WEBP, JPEG]
    kinds = [headers_of(request)["Content-Type"] for request in target.requests]
    assert kinds == ["image/jpeg", "image/png", "image/bmp", "image/webp", "image/jpeg"]
    lengths = [int(headers_of(request)["Content-Length"]) for request in target.requests]
    assert lengths == [len(body) for body in bodies]
    assert line_of(prepared("http://host/", images=(str(tmp_path),))).startswith("POST / ")


def test_other_bodies_have_their_type_and_method(tmp_path: Path) -> None:
    file = tmp_path / "body"
    file.write_bytes(b"bytes")
    as_file = prepared(body_file=str(file), headers={"content-TYPE": "text/x"})
    assert headers_of(as_file.requests[0])["content-TYPE"] == "text/x"
    assert b"octet-stream" not in as_file.requests[0]
    as_json = prepared(json_body={"a": [1]}, method="PUT")
    assert line_of(as_json) == "PUT / HTTP/1.1"
    assert as_json.requests[0].endswith(b'\r\n\r\n{"a": [1]}')
    assert headers_of(prepared(method="POST").requests[0])["Content-Length"] == "0"
    assert "Content-Length" not in headers_of(prepared().requests[0])
    assert prepared(method="HEAD").answers_head


def test_the_users_headers_take_the_place_of_ours() -> None:
    target = prepared(headers={"user-agent": "mine", "HOST": "other", "Connection": "Close"})
    found = headers_of(target.requests[0])
    assert found["user-agent"] == "mine"
    assert found["HOST"] == "other"
    assert "Host" not in found
    assert target.closes


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ({"A": "x\r\nB: y"}, "'A' has a line break"),
        ({"A\n": "x"}, "can't be the name of a header"),
        ({"": "x"}, "can't be the name of a header"),
        ({"A": "→"}, "Latin-1"),
        ({"content-length": "3"}, "made from the body"),
    ],
)
def test_a_header_that_breaks_the_request_is_refused(headers: dict[str, str], why: str) -> None:
    with pytest.raises(SpecError, match=why):
        prepared(headers=headers)


@given(st.text(max_size=30), st.text(max_size=30))
def test_no_header_puts_another_line_into_a_request(name: str, value: str) -> None:
    plain = prepared().requests[0].count(b"\n")
    try:
        request = prepared(headers={name: value}).requests[0]
    except SpecError:
        return
    assert request.count(b"\n") in {plain, plain + 1}
    assert request.count(b"\r") == request.count(b"\n")


def test_files_that_cannot_be_sent_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    for fields, why in [
        ({"images": (str(tmp_path / "absent.jpg"),)}, "image .*absent.jpg can't be read: No such"),
        ({"images": (str(text),)}, "no JPEG, PNG, WebP or BMP image; send"),
        ({"images": (str(tmp_path),)}, "has no JPEG, PNG, WebP or BMP image in it"),
        ({"body_file": str(tmp_path)}, "can't be read: Is a directory"),
        ({"json_body": {"a": float("nan")}}, "can't be written as JSON"),
        ({"json_body": {"a": object()}}, "can't be written as JSON"),
    ]:
        with pytest.raises(SpecError, match=why):
            prepared(**fields)  # type: ignore[arg-type]
    monkeypatch.setattr(targets, "MOST_BODIES_BYTES", 10)
    (tmp_path / "a.png").write_bytes(PNG[:9])
    with pytest.raises(SpecError, match="together"):
        prepared(images=(str(tmp_path / "a.png"),) * 2)
    (tmp_path / "a.png").write_bytes(PNG)
    with pytest.raises(SpecError, match="is over"):
        prepared(images=(str(tmp_path / "a.png"),))


def test_a_folder_that_may_not_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", forbidden)  # root, as whom tests may run, may read all
    with pytest.raises(SpecError, match="can't be read: Permission denied"):
        prepared(images=(str(tmp_path),))


def test_built_in_scenes_are_images_and_a_folder_of_that_name_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    scenes = list(image_files(("street:val:2",)))
    assert len(scenes) == 2
    assert all(scene.read_bytes()[:2] == b"\xff\xd8" for scene in scenes)
    with pytest.raises(DatasetError):
        list(image_files(("street:nowhere",)))
    (tmp_path / "street:val:2").mkdir()
    (tmp_path / "street:val:2/a.jpg").write_bytes(scenes[0].read_bytes())
    assert [path.name for path in image_files(("street:val:2",))] == ["a.jpg"]


@pytest.mark.parametrize(
    ("header", "stages"),
    [
        (b"queue;dur=1.5, total;dur=2", {"queue": 1.5, "total": 2.0}),
        (b'a;desc="x";dur=1', {"a": 1.0}),
        (b"a;DUR=1", {"a": 1.0}),
        (b'a;dur="2.5"', {"a": 2.5}),
        (b" a ; dur = 3 ,", {"a": 3.0}),
        (b"cache, miss;desc=x", {}),
        (b"a;dur=, b;dur=x, c;dur=nan, d;dur=inf", {}),
        (b"", {}),
    ],
)
def test_durations_of_a_server_timing_header(header: bytes, stages: dict[str, float]) -> None:
    assert server_timing_ms(header) == stages


@given(st.binary(max_size=200))
def test_no_server_timing_header_breaks_a_round(header: bytes) -> None:
    assert all(value == value for value in server_timing_ms(header).values())  # noqa: PLR0124
