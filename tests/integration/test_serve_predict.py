"""`POST /predict` of a live server: every input, every refusal, and what comes back."""

import base64
import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import psutil
import pytest

from live_serving import LiveServing

PIXELS = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
PNG, JPEG, BMP, WEBP = (
    cv2.imencode(suffix, PIXELS)[1].tobytes() for suffix in (".png", ".jpg", ".bmp", ".webp")
)
FAKE_CLASSES = ["car", "truck", "pedestrian", "sign"]


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServing]:
    with LiveServing(max_images=4, max_body_mb=1, max_video_frames=50) as live:
        yield live


@pytest.fixture(scope="module")
def client(server: LiveServing) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def text_of(image: bytes) -> str:
    return base64.b64encode(image).decode()


def refused(answer: httpx.Response, status: int, code: str, says: str) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code)
    assert says in problem["detail"]
    assert problem["instance"] == "/predict"
    return problem


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """20 frames, 10 a second."""
    return made_video(tmp_path_factory.mktemp("videos") / "clip.mp4", frames=20)


def made_video(path: Path, frames: int, width: int = 64, height: int = 48) -> bytes:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (width, height))
    for number in range(frames):
        writer.write(np.full((height, width, 3), number * 5 % 255, np.uint8))
    writer.release()
    return path.read_bytes()


# ---- every form of an image is the same image


@pytest.mark.parametrize("image", [PNG, BMP], ids=["png", "bmp"])
def test_every_form_of_an_image_has_one_answer(client: httpx.Client, image: bytes) -> None:
    plain = client.post("/predict", content=image)
    assert plain.status_code == 200
    answer = plain.json()
    assert answer["model"] == "detection"
    (prediction,) = answer["predictions"]
    assert (prediction["width"], prediction["height"]) == (64, 48)
    assert len(prediction["boxes_xyxy"]) == len(prediction["scores"]) == 5
    assert prediction["scores"] == sorted(prediction["scores"], reverse=True)
    assert prediction["names"] == [FAKE_CLASSES[index] for index in prediction["classes"]]
    for same in (
        client.post("/predict", content=image, headers={"Content-Type": "image/png"}),
        client.post("/predict", content=image, headers={"Content-Type": "text/plain"}),
        client.post("/predict", files={"file": image}),
        client.post("/predict", json={"image": text_of(image)}),
        client.post("/predict", json={"images": [text_of(image)]}),
    ):
        assert same.status_code == 200
        assert same.json() == answer


def test_images_are_answered_in_their_order(client: httpx.Client) -> None:
    alone = [
        client.post("/predict", content=image).json()["predictions"][0] for image in (PNG, JPEG)
    ]
    assert alone[0] != alone[1]
    files = [("a", PNG), ("b", JPEG), ("a", PNG)]
    texts = {"images": [text_of(image) for _, image in files]}
    for answer in (client.post("/predict", files=files), client.post("/predict", json=texts)):
        assert answer.json()["predictions"] == [alone[0], alone[1], alone[0]]


def test_an_answer_tells_where_its_time_went(client: httpx.Client) -> None:
    answer = client.post("/predict", content=WEBP, headers={"X-Request-Id": "mine"})
    assert answer.headers["x-request-id"] == "mine"
    stages = dict(part.split(";dur=") for part in answer.headers["server-timing"].split(", "))
    parts = ["queue", "decode", "preprocess", "inference", "postprocess"]
    assert list(stages) == [*parts, "total"]
    assert 0 < sum(float(stages[name]) for name in parts) <= float(stages["total"]) * 1.001


# ---- options


def predicted(client: httpx.Client, query: str) -> dict[str, Any]:
    answer = client.post(f"/predict?{query}", content=PNG)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["predictions"][0]
    return found


def test_options_choose_what_is_answered(client: httpx.Client) -> None:
    everything = predicted(client, "conf=0")
    least = everything["scores"][2]
    assert predicted(client, f"conf={least - 1e-4}")["scores"] == everything["scores"][:3]
    name = everything["names"][0]
    only = predicted(client, f"conf=0&classes={name}")
    assert set(only["names"]) == {name}
    assert predicted(client, f"conf=0&classes={FAKE_CLASSES.index(name)}") == only
    all_of_them = "&".join(f"classes={one}" for one in FAKE_CLASSES)
    assert predicted(client, f"conf=0&{all_of_them}&iou=0.5") == everything


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("conf=2", "'conf' is '2'"),
        ("threshold=0.5", "no parameter 'threshold'"),
        ("classes=horse", "no class 'horse'; there are car, truck, pedestrian, sign"),
        ("every=2", "'every' chooses frames of a video; this is none"),
        ("format=gif", "give json, ndjson, jpeg, png or annotated"),
    ],
    ids=range(5),
)
def test_wrong_options_are_refused(client: httpx.Client, query: str, says: str) -> None:
    refused(client.post(f"/predict?{query}", content=PNG), 422, "bad_spec", says)


def test_what_the_server_is_set_to_holds_until_a_request_says_otherwise() -> None:
    with (
        LiveServing(conf=1.0, classes=("car", "sign"), name="mine") as live,
        live.client() as client,
    ):
        assert client.post("/predict", content=PNG).json() == {
            "model": "mine",
            "predictions": [
                {"boxes_xyxy": [], "scores": [], "classes": [], "names": []}
                | {"width": 64, "height": 48}
            ],
        }
        assert set(predicted(client, "conf=0")["names"]) <= {"car", "sign"}


# ---- pictures


@pytest.mark.parametrize("form", ["jpeg", "png"])
def test_a_picture_is_the_image_with_its_boxes(client: httpx.Client, form: str) -> None:
    by_query = client.post(f"/predict?format={form}&conf=0", content=PNG)
    by_header = client.post("/predict?conf=0", content=PNG, headers={"Accept": f"image/{form}"})
    assert by_query.headers["content-type"] == f"image/{form}"
    assert by_header.content == by_query.content
    drawn = cv2.imdecode(np.frombuffer(by_query.content, np.uint8), cv2.IMREAD_COLOR)
    assert drawn is not None
    assert drawn.shape == PIXELS.shape
    assert not np.array_equal(drawn, PIXELS)
    if form == "png":
        nothing = client.post("/predict?format=png&conf=1", content=PNG).content
        same = cv2.imdecode(np.frombuffer(nothing, np.uint8), cv2.IMREAD_COLOR)
        assert same is not None
        assert np.array_equal(same, PIXELS)


def test_a_picture_is_of_one_image(client: httpx.Client) -> None:
    answer = client.post("/predict?format=png", files=[("a", PNG), ("b", PNG)])
    refused(answer, 422, "bad_spec", "A picture is the answer to one image")


# ---- refusals

BOMB = PNG[:16] + (50_000).to_bytes(4, "big") * 2 + PNG[24:]
AT = JPEG.index(b"\xff\xc0") + 5
WIDE_JPEG = JPEG[:AT] + b"\xff\xff\xff\xff" + JPEG[AT + 4 :]


@pytest.mark.parametrize(
    ("body", "status", "code", "says"),
    [
        (b"", 400, "malformed", "The body is empty"),
        (b"GIF89a" + bytes(50), 415, "unsupported_media_type", "JPEG, PNG, WebP or BMP"),
        (b"hello", 415, "unsupported_media_type", "a file of another kind"),
        (BOMB, 413, "too_large", "50000×50000 pixels (2500.0 megapixels); at most 50"),
        (WIDE_JPEG, 413, "too_large", "65535×65535"),
        (JPEG[: len(JPEG) // 2], 422, "bad_dataset", "truncated JPEG"),
        (PNG[:60], 422, "bad_dataset", "damaged"),
        (PNG[:20], 422, "bad_dataset", "damaged header"),
        (PNG + bytes(1_000_000), 413, "too_large", "larger than the 1 MB"),
    ],
    ids=range(9),
)
def test_bad_bodies_are_refused(
    client: httpx.Client, body: bytes, status: int, code: str, says: str
) -> None:
    refused(client.post("/predict", content=body), status, code, says)
    assert client.post("/predict", content=PNG).status_code == 200


def test_an_image_that_packs_well_is_an_image(client: httpx.Client) -> None:
    flat = cv2.imencode(".png", np.zeros((6000, 8000, 3), np.uint8))[1].tobytes()
    assert len(flat) * 100 < 6000 * 8000 * 3
    answer = client.post("/predict", content=flat)
    assert answer.json()["predictions"][0]["width"] == 8000


def test_one_bad_image_refuses_all_and_is_named(client: httpx.Client) -> None:
    cut = JPEG[: len(JPEG) // 2]
    before = client.post("/predict", files=[("a", PNG), ("b", b"text" * 60), ("c", PNG)])
    refused(before, 415, "unsupported_media_type", "Image 2 of 3 ('upload') is a file of another")
    problem = refused(
        client.post("/predict", files=[("a", PNG), ("b", cut), ("c", PNG), ("d", PNG[:60])]),
        422,
        "bad_dataset",
        "Image 2 of 4: The image is a truncated JPEG",
    )
    assert [one["field"] for one in problem["errors"]] == ["images.1", "images.3"]
    many = client.post("/predict", files=[("a", PNG)] * 5)
    refused(many, 413, "too_large", "more than the 4 files")
    many = client.post("/predict", json={"images": [text_of(PNG)] * 5})
    refused(many, 413, "too_large", "5 entries, more than the 4")


def test_other_methods_are_told_which_is_meant(client: httpx.Client) -> None:
    answer = client.get("/predict")
    refused(answer, 405, "method_not_allowed", "/predict takes POST")
    assert answer.headers["allow"] == "POST"


def test_refusals_are_counted_by_their_class(server: LiveServing, client: httpx.Client) -> None:
    def count(outcome: str) -> float:
        name = "visiondyno_inference_items_total"
        return server.metric(f'{name}{{model="detection",outcome="{outcome}"}}')

    before = {outcome: count(outcome) for outcome in ("ok", "client_error", "server_error")}
    client.post("/predict", content=PNG)
    client.post("/predict", content=b"text")
    client.post("/predict", content=PNG[:60])
    client.post("/predict?conf=7", content=PNG)
    after = {outcome: count(outcome) for outcome in before}
    assert {name: after[name] - before[name] for name in before} == {
        "ok": 1,
        "client_error": 3,
        "server_error": 0,
    }


# ---- videos


def test_a_video_is_answered_frame_by_frame(client: httpx.Client, video: bytes) -> None:
    answer = client.post("/predict", content=video, headers={"Content-Type": "video/mp4"}).json()
    assert answer["video"] == {
        "width": 64,
        "height": 48,
        "frames_per_second": 10.0,
        "frames_announced": 20,
    }
    found = answer["predictions"]
    assert [one["frame"] for one in found] == list(range(20))
    assert [one["time_s"] for one in found] == [number / 10 for number in range(20)]
    assert all(len(one["scores"]) == 5 and one["width"] == 64 for one in found)
    assert found[0]["boxes_xyxy"] != found[10]["boxes_xyxy"]
    for same in (
        client.post("/predict", content=video),
        client.post("/predict", files={"clip": ("clip.mp4", video)}),
    ):
        assert same.json() == answer


@pytest.mark.parametrize(
    ("query", "frames"),
    [
        ("every=8", [0, 8, 16]),
        ("every=8&start_s=0.3", [3, 11, 19]),
        ("fps=2", [0, 5, 10, 15]),
        ("fps=1000&max_frames=3", [0, 1, 2]),
        ("start_s=1.75", [18, 19]),
        ("start_s=1&end_s=1.25", [10, 11, 12]),
        ("max_frames=2", [0, 1]),
        ("start_s=60", []),
    ],
    ids=range(8),
)
def test_a_request_chooses_the_frames(
    client: httpx.Client, video: bytes, query: str, frames: list[int]
) -> None:
    answer = client.post(f"/predict?{query}", content=video)
    assert answer.status_code == 200, answer.text
    assert [one["frame"] for one in answer.json()["predictions"]] == frames


def test_the_objects_of_a_video_are_numbered(client: httpx.Client, tmp_path: Path) -> None:
    path = tmp_path / "still.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for _ in range(3):
        writer.write(np.full((48, 64, 3), 70, np.uint8))
    writer.release()
    plain = client.post("/predict?conf=0.5", content=path.read_bytes()).json()["predictions"]
    answer = client.post("/predict?conf=0.5&track=true", content=path.read_bytes())
    assert answer.status_code == 200, answer.text
    tracked = answer.json()["predictions"]
    assert len(tracked) == 3
    for one, before in zip(tracked, plain, strict=True):
        numbers = one.pop("track_ids")
        assert numbers == sorted(numbers) == list(range(1, len(before["scores"]) + 1))
        assert one == before
    untracked = client.post("/predict?track=0&max_frames=1", content=path.read_bytes()).json()
    assert "track_ids" not in untracked["predictions"][0]
    refused(client.post("/predict?track=true", content=PNG), 422, "bad_spec", "this is none")
    wrong = client.post("/predict?track=maybe", content=path.read_bytes())
    refused(wrong, 422, "bad_spec", "give true or false")


def test_a_video_is_refused_whole(client: httpx.Client, video: bytes, tmp_path: Path) -> None:
    long = made_video(tmp_path / "long.mp4", frames=60)
    refused(client.post("/predict", content=long), 413, "too_large", "more than the 50 frames")
    half = client.post("/predict?every=2", content=long)
    assert len(half.json()["predictions"]) == 30
    more = client.post("/predict?max_frames=55", content=long)
    refused(more, 413, "too_large", "more than the 50 frames")
    broken = video[:32] + bytes(2000)
    refused(client.post("/predict", content=broken), 422, "bad_dataset", "can't be opened")
    playlist = b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n" * 9
    answer = client.post("/predict", content=playlist, headers={"Content-Type": "video/mp4"})
    refused(answer, 415, "unsupported_media_type", "MP4, MOV, MKV")
    refused(client.post("/predict?format=png", content=video), 422, "bad_spec", "one image")
    with_image = client.post("/predict", files=[("a", PNG), ("b", video)])
    refused(with_image, 422, "bad_spec", "A video comes alone")


def test_what_is_missing_of_a_cut_off_video_is_said(client: httpx.Client, tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for _ in range(20):
        writer.write(np.full((48, 64, 3), 70, np.uint8))
    writer.release()
    whole = path.read_bytes()
    assert client.post("/predict", content=whole).json()["notes"] == []
    answer = client.post("/predict", content=whole[: len(whole) * 8 // 10]).json()
    count = len(answer["predictions"])
    assert 1 < count < 20
    (note,) = answer["notes"]
    assert f"ends after {count} of the 20 frames" in note


def test_large_frames_are_refused(tmp_path: Path) -> None:
    clip = made_video(tmp_path / "clip.mp4", frames=2, width=320, height=240)
    with LiveServing(max_megapixels=0.05) as live, live.client() as client:
        answer = client.post("/predict", content=clip)
        refused(answer, 413, "too_large", "320×240 pixels; at most 0.05 megapixels")


# ---- other models


def test_a_classifier_answers_its_best_classes() -> None:
    with LiveServing("fake:classification") as live, live.client() as client:
        (found,) = client.post("/predict", content=PNG).json()["predictions"]
        assert len(found["scores"]) == 4
        assert found["scores"] == sorted(found["scores"], reverse=True)
        assert (found["width"], found["height"]) == (64, 48)
        (one,) = client.post("/predict?classes=sign", content=PNG).json()["predictions"]
        assert one["names"] == ["sign"]
        cut = client.post(f"/predict?conf={found['scores'][1] - 1e-5}", content=PNG).json()
        assert cut["predictions"][0]["names"] == found["names"][:2]
        picture = client.post("/predict?format=png&classes=sign", content=PNG)
        assert picture.headers["content-type"] == "image/png"


def test_a_depth_model_answers_a_map_and_pictures_of_it() -> None:
    with LiveServing("visiondyno:depth-n", threads=1) as live, live.client() as client:
        (found,) = client.post("/predict", content=PNG).json()["predictions"]
        depth = np.frombuffer(base64.b64decode(found["depth"]["data"]), "<f4")
        assert found["depth"]["shape"] == [48, 64]
        assert depth.size == 48 * 64
        assert found["depth"]["dtype"] == "float32"
        picture = client.post("/predict?format=png", content=PNG).content
        stored = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_UNCHANGED)
        assert stored is not None
        assert (stored.dtype, stored.shape) == (np.uint16, (48, 64))
        if found["depth"]["unit"] == "metres":
            expected = np.clip(np.rint(depth.reshape(48, 64) * 1000), 0, 65535)
        else:
            share = (depth - depth.min()) / (depth.max() - depth.min())
            expected = np.rint(share.reshape(48, 64) * 65535)
        assert np.abs(stored.astype(float) - expected).max() <= 1
        coloured = client.post("/predict?format=jpeg", content=PNG)
        assert coloured.headers["content-type"] == "image/jpeg"
        refused(client.post("/predict?conf=0.5", content=PNG), 422, "bad_spec", "leave 'conf' away")


# ---- hang-ups


def decoders() -> list[psutil.Process]:
    """Processes of this one that decode videos."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found += [child] if "visiondyno.sandbox.video_child" in child.cmdline() else []
    return found


def test_a_client_that_hangs_up_takes_nothing_along(server: LiveServing, video: bytes) -> None:
    port = int(server.url.rpartition(":")[2])
    head = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n"
    for body, sent in ((PNG, 10), (PNG, len(PNG)), (video, 500), (video, len(video))):
        with socket.create_connection(("127.0.0.1", port)) as raw:
            raw.sendall(head % len(body) + body[:sent])
    with server.client() as client:
        while decoders():  # pytest's own timeout ends it
            client.get("/health")
        assert client.post("/predict", content=video).status_code == 200
        assert client.get("/ready").status_code == 200
    assert not decoders()


def test_json_that_is_no_object_is_refused(client: httpx.Client) -> None:
    headers = {"Content-Type": "application/json"}
    refused(client.post("/predict", content=b"{", headers=headers), 400, "malformed", "isn't JSON")
    refused(client.post("/predict", content=json.dumps([1]), headers=headers), 422, "bad_spec", "")
