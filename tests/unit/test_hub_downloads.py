"""Models of the hub: fetched from a server that plays it, found again without a connection."""

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub_server import COMMIT, HubServer, PublishedModel
from visiondyno.errors import MissingExtra, ModelError, Unavailable
from visiondyno.runtimes.pytorch import hub

pytestmark = pytest.mark.torch
constants = pytest.importorskip("huggingface_hub.constants")

WEIGHTS = bytes(range(256)) * 4000
CONFIG = b'{"model_type": "detr"}'
NAME = "maker/detector"
REFERENCE = f"transformers:{NAME}"
PATTERNS = ("config.json", "model.safetensors")


@pytest.fixture(autouse=True)
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """The hub's client reads the environment once, at import: its constants are set instead."""
    with HubServer() as server:
        files = {"config.json": CONFIG, "model.safetensors": WEIGHTS, "pytorch_model.bin": b"x" * 9}
        server.models[NAME] = PublishedModel(files)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.delenv("VISIONDYNO_OFFLINE", raising=False)
        yield server


def wanted(name: str = NAME) -> hub.Repository:
    return hub.repository(name, f"transformers:{name}", PATTERNS, "transformers")


def fetched(name: str = NAME) -> Path:
    return hub.fetch(wanted(name), "model*.safetensors")


def test_what_is_needed_comes_and_is_found_without_a_connection(server: HubServer) -> None:
    told: list[tuple[str, int, int | None]] = []
    folder = hub.fetch(wanted(), "model*.safetensors", lambda *one: told.append(one))
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert (folder / "config.json").read_bytes() == CONFIG
    assert not (folder / "pytorch_model.bin").exists()
    total = len(WEIGHTS) + len(CONFIG)
    assert {name for name, _, _ in told} == {NAME}
    assert {all_bytes for _, _, all_bytes in told} == {total}
    done = [count for _, count, _ in told]
    assert done == sorted(done)
    assert done[-1] == total
    asked = len(server.asked)
    assert hub.find(wanted()) == folder
    assert hub.find(wanted(f"{NAME}@{COMMIT}")) == folder
    assert len(server.asked) == asked


def test_a_download_that_broke_off_goes_on(server: HubServer) -> None:
    server.models[NAME].drops = [300_000]
    assert (fetched() / "model.safetensors").read_bytes() == WEIGHTS
    assert server.models[NAME].drops == []


def test_weights_that_are_not_here_name_the_command() -> None:
    with pytest.raises(ModelError, match=f"dyno models pull {REFERENCE}"):
        hub.find(wanted())


def test_a_snapshot_that_lost_a_file_is_not_taken_for_whole() -> None:
    (fetched() / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="dyno models pull"):
        hub.find(wanted())


def test_a_file_that_differs_from_the_announced_is_removed(server: HubServer) -> None:
    server.models[NAME].announced["model.safetensors"] = "0" * 64
    with pytest.raises(ModelError, match="isn't what the hub announced"):
        fetched()
    with pytest.raises(ModelError, match="dyno models pull"):
        hub.find(wanted())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nobody/nothing", "There is no nobody/nothing"),
        (f"{NAME}@nowhere", "revision nowhere"),
        ("a--b/c", "names no model"),
    ],
)
def test_a_model_that_is_not_there_is_named(name: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        fetched(name)


@pytest.mark.parametrize("name", ["", "noslash", "a/b/c", "../../etc", "a/..", "a/b@"])
def test_what_cannot_be_a_name_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="transformers:ORGANISATION/NAME"):
        wanted(name)


def test_a_model_without_safetensors_is_refused_before_anything_comes(server: HubServer) -> None:
    server.models["maker/pickled"] = PublishedModel({"pytorch_model.bin": b"x" * 5000})
    with pytest.raises(ModelError, match="pickle can run code"):
        fetched("maker/pickled")
    assert not any("resolve" in asked for asked in server.asked)


def test_a_model_of_many_gigabytes_is_refused_before_anything_comes(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "MOST_BYTES", len(WEIGHTS))  # and the configuration comes on top
    with pytest.raises(ModelError, match=f"hf download {NAME}"):
        fetched()
    assert not any("resolve" in asked for asked in server.asked)


def test_terms_to_accept_are_told(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.models[NAME].gated = True
    with pytest.raises(ModelError, match="accept them on its page, and set HF_TOKEN"):
        fetched()
    monkeypatch.setenv("HF_TOKEN", "granted")
    assert (fetched() / "config.json").is_file()


def test_a_hub_that_cannot_be_reached_is_unavailable(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match=r"can't be fetched now: .*127\.0\.0\.1:9|try again"):
        fetched()


def test_offline_asks_nobody(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISIONDYNO_OFFLINE", "1")
    with pytest.raises(Unavailable, match="VISIONDYNO_OFFLINE"):
        fetched()
    assert server.asked == []


def test_nobody_is_asked_while_a_model_is_made(server: HubServer) -> None:
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with hub.no_connections():
            inside.set()
            leave.wait(30)

    thread = threading.Thread(target=other)
    with hub.no_connections():
        thread.start()
        assert inside.wait(30)
    with pytest.raises(Unavailable, match="offline"):
        fetched()
    leave.set()
    thread.join()
    assert server.asked == []
    fetched()


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtra, match=r"visiondyno\[transformers\]"):
        hub.find(wanted())
