"""Who may ask a live inference server, and what it says of itself."""

import re
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest

from file_server import FileServer, Served
from live_serving import LiveServing
from visiondyno.errors import ModelError, SpecError, VisionDynoError

PNG = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
KEY = "0123456789abcdef-key"
ROOT = Path(__file__).resolve().parents[2]


def test_with_keys_only_probes_are_open(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"# of the tests\n{KEY}\n")
    with LiveServing(keys_file=keys) as live, live.client() as client:
        for path in (
            *("/health", "/ready", "/ping", "/metrics", "/docs", "/openapi.json", "/docs/errors"),
            *("/v2/health/live", "/v2/health/ready"),
        ):
            assert client.get(path).status_code == 200, path
        for given in ({}, {"Authorization": "Bearer another-key-of-some-length"}):
            answer = client.post("/predict", content=PNG, headers=given)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
            assert answer.headers["www-authenticate"].startswith("Bearer")
            answer = client.get("/v2/models/detection", headers=given)
            assert answer.status_code == 401
            assert list(answer.json()) == ["error"]
            assert answer.headers["www-authenticate"].startswith("Bearer")
        # A key makes any name and any page good: whoever has it may ask.
        good = {"Authorization": f"Bearer {KEY}", "Host": "models.example"}
        assert client.post("/predict", content=PNG, headers=good).status_code == 200
        assert client.get("/v2/models/detection-images", headers=good).status_code == 200
        said = client.get("/openapi.json").json()
        assert said["paths"]["/predict"]["post"]["security"] == [{"ApiKey": []}]


def test_without_keys_other_names_and_pages_are_refused() -> None:
    with LiveServing(cors_origins="https://app.example") as live, live.client() as client:
        answer = client.post("/predict", content=PNG, headers={"Host": "evil.example"})
        assert answer.status_code == 403
        assert "start it with --keys-file FILE" in answer.json()["detail"]
        answer = client.post("/predict", content=PNG, headers={"Origin": "https://evil.example"})
        assert answer.status_code == 403
        answer = client.post("/predict", content=PNG, headers={"Origin": "https://app.example"})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert "Server-Timing" in answer.headers["access-control-expose-headers"]
        asked = {
            "Origin": "https://app.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "Content-Type",
        }
        assert client.options("/predict", headers=asked).status_code == 200


def test_urls_are_fetched_from_the_hosts_that_are_allowed() -> None:
    with (
        FileServer() as files,
        LiveServing(allow_url_hosts="127.0.0.1", max_images=3) as live,
        live.client() as client,
    ):
        files.files = {"a.png": Served(PNG), "page": Served(b"<html>"), "away": Served(b"")}
        files.files["away"].redirect = "http://localhost/a.png"
        url = files.url + "a.png"
        one = client.post("/predict", json={"url": url})
        assert one.json() == client.post("/predict", content=PNG).json()
        assert len(client.post("/predict", json={"urls": [url] * 3}).json()["predictions"]) == 3
        for named, status, code in (
            (files.url + "page", 415, "unsupported_media_type"),
            (files.url + "none", 424, "source_failed"),
            (files.url + "away", 422, "url_refused"),
            ("http://169.254.169.254/latest/meta-data/", 422, "url_refused"),
            ("ftp://127.0.0.1/a.png", 422, "url_refused"),
        ):
            answer = client.post("/predict", json={"url": named})
            assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
        answer = client.post("/predict", json={"urls": [url, files.url + "page"]})
        assert "Image 2 of 2" in answer.json()["detail"]
        assert client.post("/predict", json={"urls": [url] * 4}).status_code == 413


def test_urls_are_off_unless_they_are_allowed() -> None:
    with LiveServing() as live, live.client() as client:
        answer = client.post("/predict", json={"url": live.url + "/health"})
        assert (answer.status_code, answer.json()["code"]) == (422, "url_refused")
        assert "--allow-url-host" in answer.json()["detail"]
        # What people look at.
        answer = client.get("/", follow_redirects=True)
        assert answer.url.path == "/docs"
        assert "/predict" in answer.text
        assert "Predict images, or a video" in answer.text
        assert f"curl -X POST {live.url}/predict" in answer.text
        assert "Dashboard" not in answer.text


def test_metrics_are_those_that_the_page_names() -> None:
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:visiondyno|process)_[a-z_]+)", page))
    with LiveServing() as live, live.client() as client:
        client.post("/predict", content=PNG)
        text = client.get("/metrics").text
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    exported = {name for name in kinds if not name.endswith("_created")}
    assert named <= exported
    ours = {name for name in exported if name.startswith("visiondyno_")}
    only_on_a_gpu = {"visiondyno_replica_gpu_memory_used_bytes"}
    assert ours - only_on_a_gpu == {name for name in named if name.startswith("visiondyno_")} - (
        only_on_a_gpu
    )


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"model": "no-such.onnx"}, ModelError, "no model file"),
        ({"model": "fake:detection", "classes": "horse"}, SpecError, "no class 'horse'"),
        ({"model": "fake:detection", "replicas_least": 2}, SpecError, "more than the most"),
        ({"model": "fake:detection", "queue": 0}, SpecError, "VISIONDYNO_SERVE_QUEUE"),
        ({"model": "fake:detection", "keys_file": "no-such"}, SpecError, "can't be read"),
        ({"model": "fake:detection", "device": "cuda"}, VisionDynoError, "no device 'cuda'"),
    ],
    ids=range(6),
)
def test_a_server_that_cannot_start_says_why(
    given: dict[str, object], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says), LiveServing(**given):  # type: ignore[arg-type]
        pass


def test_a_taken_port_is_said() -> None:
    with LiveServing() as live:
        port = int(httpx.URL(live.url).port or 0)
        with (
            pytest.raises(SpecError, match=f"Port {port} on 127.0.0.1 is taken"),
            LiveServing(port=port),
        ):
            pass
