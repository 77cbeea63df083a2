"""Images and videos out of bodies, however they come."""

import base64
import contextlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from coroutines import run
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect

from visiondyno.api.problems import BadBody
from visiondyno.errors import (
    DatasetError,
    RateLimited,
    SpecError,
    StorageFull,
    TooLarge,
    UnsupportedMedia,
)
from visiondyno.serving.config import ServingConfig
from visiondyno.serving.inputs import Head, Inputs, Sent, read_head
from visiondyno.serving.sniffing import is_video
from visiondyno.serving.spooled import MOST_HELD, SpoolRoom

PIXELS = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(8, 6, 3)
PNG, JPEG, BMP, WEBP = (
    cv2.imencode(suffix, PIXELS)[1].tobytes() for suffix in (".png", ".jpg", ".bmp", ".webp")
)
MP4 = b"\0\0\0\x20ftypisom" + bytes(range(256)) * 4
BOUNDARY = "a-boundary"
FORM = f"multipart/form-data; boundary={BOUNDARY}"


class Fetched:
    """Answers with the URL's own text as if it were a file."""

    async def all(self, urls: Sequence[str]) -> list[bytes]:
        return [PNG if url == "http://png" else url.encode() for url in urls]


def form(*parts: tuple[str, bytes]) -> bytes:
    """A form of parts: each the rest of its Content-Disposition, and its content."""
    pieces = [
        f"--{BOUNDARY}\r\nContent-Disposition: form-data; {said}\r\n\r\n".encode() + data + b"\r\n"
        for said, data in parts
    ]
    return b"".join(pieces) + f"--{BOUNDARY}--\r\n".encode()


async def read(body: bytes, head: Head, chunk: int = 1 << 16, **given: Any) -> Sent:
    """What is read of a body that comes in chunks."""
    config = ServingConfig(model="m", _env_file=None, **given)
    pieces = [body[at : at + chunk] for at in range(0, len(body), chunk)] or [b""]
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    messages[-1]["more_body"] = False
    waiting = iter(messages)

    async def receive() -> Any:
        return next(waiting)

    return await Inputs(config, Fetched()).read(head, receive)


def images(body: bytes, kind: str = "", **given: Any) -> list[bytes]:
    sent = run(read(body, Head(content_type=kind), **given))
    assert sent.video is None
    found: list[bytes] = sent.images
    return found


def video(body: bytes, kind: str = "", **given: Any) -> bytes:
    sent = run(read(body, Head(content_type=kind), **given))
    assert sent.images == []
    with sent.video as held:
        content: bytes = held.path.read_bytes()
        assert held.size_bytes == len(content)
    assert not held.path.exists()
    return content


def refused(error: type[Exception], says: str, body: bytes, kind: str = "", **given: Any) -> None:
    with pytest.raises(error) as raised:
        run(read(body, Head(content_type=kind), **given))
    assert says in str(getattr(raised.value, "detail", raised.value))


@pytest.mark.parametrize(
    "kind", ["", "image/jpeg", "application/octet-stream", "application/x-www-form-urlencoded"]
)
def test_a_file_is_what_it_holds_whatever_it_is_called(kind: str) -> None:
    for image in (PNG, JPEG, BMP, WEBP):
        assert images(image, kind) == [image]
    assert video(MP4, kind) == MP4


@given(st.integers(1, 400), st.sampled_from(["file", "form", "json", "video", "video form"]))
@settings(max_examples=60)
def test_where_chunks_end_changes_nothing(chunk: int, kind: str) -> None:
    files = form(('name="a"; filename="a.png"', PNG), ('name="b"; filename="b"', JPEG))
    texts = json.dumps({"images": [base64.b64encode(one).decode() for one in (PNG, JPEG)]})
    match kind:
        case "file":
            assert images(PNG, chunk=chunk) == [PNG]
        case "form":
            assert images(files, FORM, chunk=chunk) == [PNG, JPEG]
        case "json":
            assert images(texts.encode(), "application/json", chunk=chunk) == [PNG, JPEG]
        case "video":
            assert video(MP4, "video/mp4", chunk=chunk) == MP4
        case _:
            assert video(form(('name="v"; filename="v"', MP4)), FORM, chunk=chunk) == MP4


@given(st.binary(max_size=300), st.sampled_from(["", FORM, "application/json"]))
def test_any_body_is_read_or_refused(body: bytes, kind: str) -> None:
    with contextlib.suppress(BadBody, SpecError, DatasetError, UnsupportedMedia, TooLarge):
        run(read(body, Head(content_type=kind))).close()


@pytest.mark.parametrize(
    ("body", "error", "says"),
    [
        (b"", BadBody, "The body is empty"),
        (b"GIF89a" + bytes(300), UnsupportedMedia, "a GIF file"),
        (b"II*\0" + bytes(300), UnsupportedMedia, "a TIFF file"),
        (b"\0\0\0\x18ftypheic" + bytes(300), UnsupportedMedia, "HEIC or AVIF"),
        (b"%PDF-1.7", UnsupportedMedia, "JPEG, PNG, WebP or BMP"),
        (b'{"image": "x"}', UnsupportedMedia, "Content-Type: application/json"),
        (b"#EXTM3U\nfile:///etc/passwd\n", UnsupportedMedia, "another kind"),
        (PNG[:20], DatasetError, "damaged header"),
        (JPEG[:4], DatasetError, "damaged header"),
        (b"\xff\xd8" + b"\xff\xe0\0\x02" * 5000, DatasetError, "damaged header"),
        (b"RIFF\0\0\0\0WEBPVP9 " + bytes(20), DatasetError, "damaged header"),
    ],
    ids=range(11),
)
def test_what_is_no_image_is_refused(body: bytes, error: type[Exception], says: str) -> None:
    refused(error, says, body)


def announcing(width: int, height: int) -> dict[str, bytes]:
    """Small files that announce so many pixels."""
    png = PNG[:16] + width.to_bytes(4, "big") + height.to_bytes(4, "big") + PNG[24:]
    at = JPEG.index(b"\xff\xc0") + 5
    sides = min(height, 65535).to_bytes(2, "big") + min(width, 65535).to_bytes(2, "big")
    bmp = BMP[:18] + width.to_bytes(4, "little") + height.to_bytes(4, "little") + BMP[26:]
    return {"png": png, "jpeg": JPEG[:at] + sides + JPEG[at + 4 :], "bmp": bmp}


@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp"])
def test_pixels_are_refused_before_they_are_decoded(kind: str) -> None:
    refused(TooLarge, "65535×65535 pixels", announcing(65535, 65535)[kind])
    refused(TooLarge, "at most 0.01 megapixels", announcing(200, 100)[kind], max_megapixels=0.01)
    refused(TooLarge, "16384 a side", announcing(16385, 1)[kind])
    assert images(announcing(16384, 3000)[kind])


def test_a_body_has_a_size() -> None:
    big = PNG + bytes(3000)
    for body, kind in ((big, ""), (b" " * 3000, "application/json")):
        refused(TooLarge, "larger than the 0.002 MB", body, kind, max_body_mb=0.002)
    said = Head(content_type="application/json", length=3000)
    with pytest.raises(TooLarge):
        run(read(b"{}", said, max_body_mb=0.002))
    with pytest.raises(TooLarge, match="--max-body-mb"):
        run(read(PNG, Head(length=3000), max_body_mb=0.002))
    with pytest.raises(TooLarge):
        run(read(b"", Head(content_type=FORM, length=10**9), max_video_mb=1))
    two = form(('name="a"; filename="a"', big), ('name="b"; filename="b"', big))
    refused(TooLarge, "more than the 0.005 MB", two, FORM, max_body_mb=0.005)
    assert len(images(two, FORM, max_body_mb=0.01)) == 2


def test_a_video_has_a_size_of_its_own() -> None:
    assert video(MP4 + bytes(5000), max_body_mb=0.001) == MP4 + bytes(5000)
    refused(TooLarge, "--max-video-mb", MP4 + bytes(5000), max_video_mb=0.005)
    parts = form(('name="a"; filename="v.mp4"', MP4 + bytes(5000)))
    refused(TooLarge, "--max-video-mb", parts, FORM, max_video_mb=0.005)
    with pytest.raises(TooLarge, match="--max-video-mb"):
        run(read(MP4, Head(length=6000), max_video_mb=0.005))


def test_a_form_names_the_file_that_is_wrong() -> None:
    good = ('name="a"; filename="a.png"', PNG)
    bad = ('name="b"; filename="übel.txt"', b"text " * 50)
    refused(UnsupportedMedia, "Image 2 of 2 ('übel.txt') is a file", form(good, bad), FORM)
    refused(
        SpecError,
        "Image 1 of 2 ('a') is empty",
        form(('name="a"; filename=""', b""), good).replace(b'filename=""', b'filename="a"'),
        FORM,
    )
    field = ('name="conf"', b"0.5")
    refused(SpecError, "field 'conf' is no file", form(good, field), FORM)
    assert images(form(('name="plain field"', PNG + bytes(200))), FORM) == [PNG + bytes(200)]
    refused(SpecError, "A video comes alone", form(good, ('name="v"; filename="v"', MP4)), FORM)
    refused(TooLarge, "more than the 2 files", form(*[good] * 3), FORM, max_images=2)


@pytest.mark.parametrize(
    ("body", "kind", "says"),
    [
        (form(('name="a"; filename="a"', PNG))[:-9], FORM, "before its closing boundary"),
        (b"text", FORM, "isn't multipart/form-data as it says"),
        (form(), "multipart/form-data", "has no boundary"),
        (form(), f"multipart/form-data; boundary={'b' * 400}", "can't be one"),
    ],
    ids=range(4),
)
def test_a_broken_form_is_malformed(body: bytes, kind: str, says: str) -> None:
    refused(BadBody, says, body, kind)


def test_an_empty_form_has_no_file() -> None:
    refused(BadBody, "before its closing", b"", FORM)
    refused(SpecError, "has no file", b"--a-boundary--\r\n", FORM)


def text_of(image: bytes) -> str:
    return base64.b64encode(image).decode()


@pytest.mark.parametrize(
    ("content", "count"),
    [
        ({"image": text_of(PNG)}, 1),
        ({"image": "data:image/png;base64," + text_of(PNG)}, 1),
        ({"image": base64.encodebytes(PNG).decode()}, 1),
        ({"images": [text_of(PNG)] * 3}, 3),
        ({"url": "http://png"}, 1),
        ({"urls": ["http://png", "http://png"]}, 2),
    ],
    ids=range(6),
)
def test_json_brings_images_and_urls(content: Any, count: int) -> None:
    body = json.dumps(content).encode()
    assert images(body, "application/json; charset=utf-8") == [PNG] * count


def test_a_large_json_is_read_off_the_loop() -> None:
    large = BMP + bytes(100_000)
    body = json.dumps({"image": text_of(large)}).encode()
    assert images(body, "application/json") == [large]


@pytest.mark.parametrize(
    ("content", "error", "says"),
    [
        ("", BadBody, "The body is empty"),
        ("{", BadBody, "isn't JSON"),
        ('{"image": NaN}', BadBody, "isn't JSON"),
        ("[" * 5000, BadBody, "isn't JSON"),
        ("[]", SpecError, "one key"),
        ("{}", SpecError, "one key"),
        ('{"image": "", "url": ""}', SpecError, "one key"),
        ('{"picture": ""}', SpecError, "the key 'picture'"),
        ('{"image": 3}', SpecError, "must be a text"),
        ('{"images": "AA=="}', SpecError, "must be a list of texts"),
        ('{"urls": [3]}', SpecError, "must be a list of texts"),
        ('{"images": []}', SpecError, "is empty; give at least one"),
        ('{"image": "a*"}', SpecError, "The image isn't base64"),
        ('{"image": "aü"}', SpecError, "The image isn't base64"),
        ('{"images": ["AA==", "A"]}', SpecError, "Image 2 of 2 isn't base64"),
        ('{"image": ""}', SpecError, "The image is empty"),
        ('{"images": ["", "", ""]}', TooLarge, "3 entries, more than the 2"),
        ('{"url": "http://other"}', UnsupportedMedia, "The image is a file of another kind"),
    ],
    ids=range(18),
)
def test_json_that_brings_neither_is_refused(
    content: str, error: type[Exception], says: str
) -> None:
    refused(error, says, content.encode(), "application/json", max_images=2)


def test_a_video_comes_neither_in_json_nor_among_images() -> None:
    body = json.dumps({"image": text_of(MP4)}).encode()
    refused(UnsupportedMedia, "The image is a video", body, "application/json")


def test_many_videos_in_a_form_take_no_room() -> None:
    body = form(*[(f'name="v"; filename="{n}.mp4"', MP4) for n in range(MOST_HELD + 1)])
    for sent in (body, form(('name="a"; filename="a.png"', PNG), ('name="v"; filename="v"', MP4))):
        refused(SpecError, "A video comes alone", sent, FORM, max_images=100)


def test_a_compressed_body_is_refused() -> None:
    with pytest.raises(UnsupportedMedia, match="send it plain"):
        run(read(PNG, Head(encoding="gzip")))


@pytest.mark.parametrize("kind", ["", "video/mp4", FORM, "application/json"])
def test_a_client_that_hangs_up_leaves_nothing(kind: str, tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="v"; filename="v"\r\n\r\n'
    body = part.encode() + MP4 if kind == FORM else MP4 if "video" in kind else PNG
    messages = [
        {"type": "http.request", "body": body + bytes(600_000), "more_body": True},
        {"type": "http.disconnect"},
    ]
    config = ServingConfig(model="m", _env_file=None)

    async def scenario() -> None:
        waiting = iter(messages)

        async def receive() -> Any:
            return next(waiting)

        with pytest.raises(ClientDisconnect):
            await Inputs(config, Fetched()).read(Head(content_type=kind), receive)

    run(scenario())
    assert list(tmp_path.iterdir()) == []


def test_headers_are_read_in_one_pass() -> None:
    headers = [
        (b"content-type", b"image/png"),
        (b"accept", b"image/jpeg"),
        (b"content-length", b"12"),
        (b"content-encoding", b" GZIP "),
        (b"x-other", b"1"),
    ]
    assert read_head({"headers": headers}) == Head("image/png", "image/jpeg", "gzip", 12)
    assert read_head({"headers": [(b"content-length", b"-1")]}) == Head()


@pytest.mark.parametrize(
    ("begin", "is_one"),
    [
        (MP4, True),
        (b"\0\0\0\x14moov", True),
        (b"\x1aE\xdf\xa3", True),
        (b"RIFF\0\0\0\0AVI ", True),
        (b"\0\0\x01\xba", True),
        (b"G" + bytes(187) + b"G", True),
        (b"G" + bytes(191), False),
        (b"GIF89a", False),
        (WEBP, False),
        (b"\0\0\0\x18ftypavif", False),
        (b"", False),
    ],
    ids=range(11),
)
def test_a_video_is_known_by_its_beginning(begin: bytes, is_one: bool) -> None:
    assert is_video(begin) is is_one


def test_room_for_videos_is_given_back(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    room = SpoolRoom("video", 100, "--max-video-mb", most=1)
    first = room.take()
    with pytest.raises(RateLimited) as raised:
        room.take()
    assert raised.value.retry_after_s == 5.0
    first.close()
    first.close()
    with room.take() as second:
        second.write(b"x" * 100)
        with pytest.raises(TooLarge):
            second.write(b"x")
    room.take().close()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    for _ in range(2):  # what couldn't be taken isn't counted
        with pytest.raises(StorageFull, match="TMPDIR"):
            room.take()


def test_a_full_disk_is_told_and_nothing_is_left() -> None:
    room = SpoolRoom("video", 10**9, "--max-video-mb", most=1)
    with room.take() as held:
        held._file.close()
        held._file = Path("/dev/full").open("wb")  # type: ignore[assignment] # noqa: SIM115
        with pytest.raises(StorageFull, match="No space left"):
            held.write(bytes(100_000))
        held.write(b"a little")
        with pytest.raises(StorageFull):
            held.flush()
    room.take().close()
