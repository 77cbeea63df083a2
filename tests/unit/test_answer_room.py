"""What doesn't fit into an answer is known before anything is sent."""

import base64
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from visiondyno.blobs.unset import UnsetBlobs
from visiondyno.client.answer_room import AnswerRoom, state_bytes
from visiondyno.client.client import Client
from visiondyno.client.model_state import ModelState
from visiondyno.errors import SpecError, TransportDown

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch


def linear(in_features: int, out_features: int) -> dict[str, Any]:
    layer = {"type": "linear", "in_features": in_features, "out_features": out_features}
    return {"type": "sequential", "layers": [layer]}


SMALL, LARGE = linear(10, 10), linear(1000, 2000)
ELSEWHERE = "https://api.runpod.ai/v2/abc123"


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """Of an endpoint that shares no blobs with it."""
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path))
    monkeypatch.delenv("VISIONDYNO_BLOBS_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    with Client("runpod", endpoint=ELSEWHERE, api_key="a-key") as client:
        yield client


def test_a_states_bytes_are_those_of_the_real_one() -> None:
    assert state_bytes(linear(1000, 2000)) == 4 * (1000 * 2000 + 2000)
    norm = {"type": "batch_norm2d", "num_features": 3}
    config = {"type": "sequential", "layers": [norm]}
    assert state_bytes(config) == 4 * 4 * 3 + 8  # four vectors, and a count of 64 bits
    program = base64.b64encode(b"x" * 300).decode()
    assert state_bytes({"type": "exported", "program": program}) == 300


@pytest.mark.parametrize(
    "config",
    [
        {"type": "keras", "model": {}},
        {"type": "exported", "program": f"sha256:{'0' * 64}"},
        {"type": "torchvision", "name": "resnet5000"},
        {"type": "sequential", "layers": [{"type": "liner"}]},
        {"type": "nothing"},
        3,
    ],
    ids=["keras", "blob", "no such model", "no such layer", "no such type", "no object"],
)
def test_what_cant_be_known_here_is_left_to_the_worker(config: Any) -> None:
    assert state_bytes(config) is None


def test_without_torch_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    assert state_bytes(SMALL) is None


def test_a_state_that_cant_come_back_is_refused(client: Client) -> None:
    room = AnswerRoom(client, None)
    room.check_state(SMALL, None)
    sentence = r"^The trained state, of 8\.0 MB, doesn't fit .* set VISIONDYNO_BLOBS_URL, here and"
    with pytest.raises(SpecError, match=sentence):
        room.check_state(LARGE, None)
    with pytest.raises(SpecError, match=sentence):
        room.check_state("unread", ModelState({"a": np.zeros(2_000_000, np.float32)}))
    with pytest.raises(SpecError, match="set VISIONDYNO_BLOBS_URL"):
        room.check_file()
    AnswerRoom(client, "bf16").check_state(LARGE, None)  # half as long


def test_of_what_isnt_known_a_warning_is_given_once(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    room = AnswerRoom(client, None)
    with caplog.at_level(logging.WARNING, "visiondyno"):
        for _ in range(2):
            room.check_state({"type": "keras", "model": {}}, None)
    (said,) = caplog.messages
    assert "above 7 MB it can't come back" in said
    assert "set VISIONDYNO_BLOBS_URL" in said


def test_a_store_that_answers_is_asked_once(client: Client, monkeypatch: Any) -> None:
    monkeypatch.setenv("VISIONDYNO_BLOBS_URL", Path.cwd().joinpath("blobs").as_uri())
    room = AnswerRoom(client, None)
    room.check_state(LARGE, None)
    client.close()
    room.check_state(LARGE, None)
    room.check_file()


class SilentBlobs(UnsetBlobs):
    """A store that can't be reached."""

    async def has(self, sha256: str) -> bool:
        raise TransportDown(f"Nobody answers whether {sha256} is there.")


def test_a_store_that_is_silent_stops_only_what_needs_it() -> None:
    with Client("runpod", endpoint=ELSEWHERE, api_key="a-key", blobs=SilentBlobs("")) as client:
        room = AnswerRoom(client, None)
        room.check_state(SMALL, None)
        room.check_state(LARGE, ModelState({"a": np.zeros(3)}))  # of which it is known already
        with pytest.raises(TransportDown, match=r"of 8\.0 MB, doesn't fit .*Nobody answers"):
            room.check_state(LARGE, None)


def test_elsewhere_there_always_is_a_store(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path))
    with Client("inline") as client:
        AnswerRoom(client, None).check_state(LARGE, None)
        AnswerRoom(client, None).check_file()
