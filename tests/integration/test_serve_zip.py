"""A zip file to `POST /predict`: each image answered, whatever else is in it."""

import io
import json
import socket
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
import schemathesis

from archives import zipped
from live_serving import LiveServing

PIXELS = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
PNG, JPEG = (cv2.imencode(suffix, PIXELS)[1].tobytes() for suffix in (".png", ".jpg"))
BMP = cv2.imencode(".bmp", np.zeros((600, 700, 3), np.uint8))[1].tobytes()  # 1.26 MB
MIXED = zipped(
    {
        "__MACOSX/._a.png": b"x",
        "day 1/a.png": PNG,
        "notes.txt": b"hello",
        "b.jpg": JPEG,
        "inner.zip": zipped({"c.png": PNG}),
        "cut.png": PNG[:60],
        "large.bmp": BMP,
        "empty.png": b"",
        "straße.PNG": PNG,
    }
)
ERRORS = {
    "notes.txt": (415, "unsupported_media_type", "a file of another kind"),
    "inner.zip": (415, "unsupported_media_type", "a zip file among images"),
    "cut.png": (422, "bad_dataset", ""),
    "large.bmp": (413, "too_large", "at most 1 MB"),
    "empty.png": (422, "bad_spec", "is empty"),
}


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServing]:
    with LiveServing(
        max_images=4, max_body_mb=1, max_zip_mb=2, max_zip_images=10, max_zip_unpacked_mb=4
    ) as live:
        yield live


@pytest.fixture(scope="module")
def client(server: LiveServing) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture
def alone(client: httpx.Client) -> dict[str, Any]:
    """What the images are answered by themselves."""
    return {
        name: client.post("/predict", content=image).json()["predictions"][0]
        for name, image in (("day 1/a.png", PNG), ("b.jpg", JPEG), ("straße.PNG", PNG))
    }


def check_mixed(said: dict[str, Any], found: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    assert said == {"files": 8, "skipped": ["__MACOSX/._a.png"]}
    with zipfile.ZipFile(io.BytesIO(MIXED)) as archive:
        assert [one["name"] for one in found] == archive.namelist()[1:]
    for one in found:
        name = one.pop("name")
        if name in ERRORS:
            status, code, says = ERRORS[name]
            assert (one["error"]["status"], one["error"]["code"]) == (status, code)
            assert says in one["error"]["message"]
        else:
            assert one == alone[name]


@pytest.mark.parametrize("sent", ["application/zip", "", "form"])
def test_each_file_is_answered_at_its_place(
    client: httpx.Client, server: LiveServing, alone: dict[str, Any], sent: str
) -> None:
    how: Any = {"content": MIXED, "headers": {"Content-Type": sent} if sent else {}}
    if sent == "form":
        how = {"files": {"file": ("images.zip", MIXED)}}
    answer = client.post("/predict", **how)
    assert answer.status_code == 200
    assert answer.headers["x-request-id"]
    found = answer.json()
    assert found["model"] == "detection"
    check_mixed(found["archive"], found["predictions"], alone)
    if sent == "application/zip":
        answer.request.read()
        schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
        schema["/predict"]["POST"].validate_response(answer)


@pytest.mark.parametrize("asked", ["format", "accept"])
def test_lines_come_after_one_about_the_archive(
    client: httpx.Client, alone: dict[str, Any], asked: str
) -> None:
    how: Any = {"params": {"format": "ndjson"}}
    if asked == "accept":
        how = {"headers": {"Accept": "application/x-ndjson"}}
    answer = client.post("/predict", content=MIXED, **how)
    assert answer.headers["content-type"] == "application/x-ndjson"
    first, *rest = [json.loads(line) for line in answer.text.splitlines()]
    assert first["model"] == "detection"
    check_mixed(first["archive"], rest, alone)


def test_other_requests_have_lines_too(client: httpx.Client, alone: dict[str, Any]) -> None:
    files = [("a", PNG), ("b", JPEG)]
    answer = client.post("/predict?format=ndjson", files=files)
    assert "server-timing" in answer.headers
    found = [json.loads(line) for line in answer.text.splitlines()]
    assert found == [{"model": "detection"}, alone["day 1/a.png"], alone["b.jpg"]]


def test_a_video_has_a_line_a_frame(client: httpx.Client, tmp_path: Path) -> None:
    clip = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for _ in range(3):
        writer.write(PIXELS)
    writer.release()
    whole = client.post("/predict", content=clip.read_bytes()).json()
    answer = client.post("/predict?format=ndjson", content=clip.read_bytes())
    first, *frames = [json.loads(line) for line in answer.text.splitlines()]
    assert first == {"model": "detection", "video": whole["video"], "notes": []}
    assert frames == whole["predictions"]


@pytest.mark.parametrize(
    ("form", "endings"),
    [
        ("annotated", ["day 1/a.png.jpg", "b.jpg", "straße.PNG.jpg"]),
        ("png", ["day 1/a.png", "b.jpg.png", "straße.PNG"]),
    ],
)
def test_pictures_come_as_a_zip_file(client: httpx.Client, form: str, endings: list[str]) -> None:
    answer = client.post("/predict", params={"format": form}, content=MIXED)
    assert answer.headers["content-type"] == "application/zip"
    drawn = client.post("/predict", params={"format": form}, content=PNG).content
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [*endings, "errors.json"]
        assert archive.read(endings[0]) == drawn
        told = json.loads(archive.read("errors.json"))
    assert [one["name"] for one in told["errors"]] == list(ERRORS)
    assert told["archive"]["skipped"] == ["__MACOSX/._a.png"]


def test_no_two_pictures_have_one_name(client: httpx.Client) -> None:
    names = ["a.jpg", "a.JPG", "a.png", "a.png.jpg"]
    body = zipped(dict.fromkeys(names, PNG))
    answer = client.post("/predict", params={"format": "jpeg"}, content=body)
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.namelist() == ["a.jpg", "a-2.jpg", "a.png.jpg", "a.png-2.jpg"]


def test_options_hold_for_each(client: httpx.Client) -> None:
    body = zipped({"a.png": PNG, "b.png": PNG})
    found = client.post("/predict?conf=0&classes=car", content=body).json()["predictions"]
    assert {name for one in found for name in one["names"]} == {"car"}
    wrong = client.post("/predict?every=2", content=body)
    assert (wrong.status_code, wrong.json()["code"]) == (422, "bad_spec")


def deflated(files: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return target.getvalue()


REFUSED = {
    "empty": (zipped({}), 422, "bad_spec", "holds no file"),
    "leads out": (zipped({"a.png": PNG, "../b.png": PNG}), 422, "bad_dataset", "outside"),
    "cut": (zipped({"a.png": PNG})[:-30], 422, "bad_dataset", "damaged or none"),
    "many": (zipped({f"{n}.png": b"" for n in range(11)}), 413, "too_large", "at most 10"),
    "unpacks to much": (deflated({f"{n}.bmp": BMP for n in range(4)}), 413, "too_large", "4 MB"),
    "long": (b"PK\3\4" + bytes(2_000_001), 413, "too_large", "raise --max-zip-mb"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("as_form", [False, True], ids=["body", "form"])
def test_a_zip_file_is_refused_whole(
    server: LiveServing, client: httpx.Client, case: str, as_form: bool
) -> None:
    body, status, code, says = REFUSED[case]
    counted = 'visiondyno_inference_items_total{model="detection",outcome="client_error"}'
    before = server.metric(counted)
    how: Any = {"files": {"file": ("a.zip", body)}} if as_form else {"content": body}
    answer = client.post("/predict", **how)
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert says in answer.json()["detail"]
    assert server.metric(counted) == before + 1


def test_it_comes_alone(client: httpx.Client) -> None:
    files = [("a", ("a.zip", MIXED)), ("b", ("b.png", PNG))]
    for sent in (files, files[::-1]):
        answer = client.post("/predict", files=sent)
        assert answer.status_code == 422
        assert "A zip file comes alone" in answer.json()["detail"]


def spooled() -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob("visiondyno-upload-*"))


def test_nothing_is_left_of_those_who_hang_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    body = zipped({f"{n}.png": PNG for n in range(200)})
    head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    with LiveServing() as live:
        port = int(live.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as half:
            half.sendall(head.encode() + body[: len(body) // 2])
        with socket.create_connection(("127.0.0.1", port)) as whole:
            whole.sendall(head.encode() + body)
            assert whole.recv(12) == b"HTTP/1.1 200"
        end_s = time.monotonic() + 60
        while spooled() and time.monotonic() < end_s:
            time.sleep(0.02)
        assert spooled() == []
        with live.client() as client:
            found = client.post("/predict", content=body).json()["predictions"]
        assert len(found) == 200
        assert not any("error" in one for one in found)
