"""Weights that a model's name stands for: they come once, whole and verified, or say why not."""

import hashlib
import json
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from file_server import FileServer, Served, Waits
from visiondyno.errors import ModelError, SpecError, StorageFull, Unavailable
from visiondyno.runtimes.weights import (
    WeightsFile,
    fetch_weights,
    find_weights,
    is_offline,
    kept_weights,
    verify,
    weights_folder,
)
from visiondyno.whole_file import only_one

DATA = np.random.default_rng(1).bytes(200_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
REFERENCE = "family:net-n"


@pytest.fixture(autouse=True)
def may_download(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VISIONDYNO_OFFLINE", "HF_HUB_OFFLINE", "VISIONDYNO_WEIGHTS_MIRROR"):
        monkeypatch.delenv(name, raising=False)


def served(server: FileServer, data: bytes = DATA, **how: object) -> Served:
    """The file `net.pt`, and how it is served."""
    server.files["v1/net.pt"] = Served(data, **how)
    return server.files["v1/net.pt"]


def net(server: FileServer, sha256: str | None = SHA256) -> WeightsFile:
    return WeightsFile(f"{server.url}v1/net.pt", "net.pt", sha256, "MIT", most_bytes=1_000_000)


def fetch(file: WeightsFile) -> Path:
    return fetch_weights(file, REFERENCE, sleep=Waits())


class TestComing:
    @pytest.mark.parametrize("sha256", [SHA256, SHA256[:8].upper(), None], ids=["all", "8", "none"])
    def test_they_are_kept_with_a_record_and_asked_for_once(
        self, server: FileServer, sha256: str | None
    ) -> None:
        served(server)
        file = net(server, sha256)
        told: list[tuple[str, int, int | None]] = []
        path = fetch_weights(file, REFERENCE, lambda *at: told.append(at))
        assert path == find_weights(file, REFERENCE)
        assert path == weights_folder() / "net.pt"
        assert path.read_bytes() == DATA
        assert told[-1] == ("net.pt", len(DATA), len(DATA))
        assert fetch(file) == path
        assert len(server.asked) == 1
        assert verify(file, REFERENCE) == f"sha256:{SHA256}"
        (kept,) = kept_weights()
        assert (kept.path, kept.reference, kept.size_bytes) == (path, REFERENCE, len(DATA))
        assert (kept.sha256, kept.license) == (SHA256, "MIT")

    def test_a_cut_connection_goes_on_where_it_stopped(self, server: FileServer) -> None:
        served(server, drops=[60_000])
        assert fetch(net(server)).read_bytes() == DATA
        assert [wanted for _, wanted in server.asked] == [None, "bytes=60000-"]

    def test_a_later_pull_goes_on_where_an_earlier_one_gave_up(self, server: FileServer) -> None:
        file = served(server, drops=[60_000] + [0] * 9)
        with pytest.raises(Unavailable, match="What has come, 60,000 bytes, is kept"):
            fetch(net(server))
        with pytest.raises(ModelError, match=f"dyno models pull {REFERENCE}$"):
            find_weights(net(server), REFERENCE)
        file.drops.clear()
        server.asked.clear()
        assert fetch(net(server)).read_bytes() == DATA
        assert server.asked == [("/v1/net.pt", "bytes=60000-")]

    def test_a_listener_that_stops_it_leaves_what_has_come(self, server: FileServer) -> None:
        served(server)

        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fetch_weights(net(server), REFERENCE, stop)
        assert fetch(net(server)).read_bytes() == DATA
        assert server.asked[1][1] is not None

    def test_a_mirror_takes_the_place_of_each_publisher(
        self, server: FileServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server.files["mirror/v1/net.pt?raw=1"] = Served(DATA)
        file = WeightsFile("https://publisher.invalid/v1/net.pt?raw=1", "net.pt", None)
        monkeypatch.setenv("VISIONDYNO_WEIGHTS_MIRROR", f"{server.url}mirror/")
        path = fetch(file)
        record = json.loads((path.parent / "net.pt.json").read_text())
        assert record["url"] == file.url
        monkeypatch.setenv("VISIONDYNO_WEIGHTS_MIRROR", "mirror")
        assert fetch(file) == path
        with pytest.raises(SpecError, match="VISIONDYNO_WEIGHTS_MIRROR isn't an address"):
            fetch(replace(file, name="other.pt"))


class TestRefusals:
    def test_another_file_than_the_published_one(self, server: FileServer) -> None:
        served(server, DATA[::-1])
        with pytest.raises(ModelError, match=r"isn't the file that was expected.*published one"):
            fetch(net(server))
        assert kept_weights() == ()
        with pytest.raises(ModelError, match="aren't on this machine"):
            find_weights(net(server), REFERENCE)
        served(server)
        assert fetch(net(server)).read_bytes() == DATA

    def test_another_file_than_the_first_download(self, server: FileServer) -> None:
        served(server)
        file = net(server, None)
        path = fetch(file)
        path.unlink()
        assert kept_weights() == ()
        served(server, DATA[::-1])
        with pytest.raises(ModelError, match=r"first download was .*net\.pt\.json and pull"):
            fetch(file)
        assert not path.exists()
        (path.parent / "net.pt.json").unlink()
        assert fetch(file).read_bytes() == DATA[::-1]

    def test_another_version_at_another_address_is_no_forgery(self, server: FileServer) -> None:
        served(server)
        path = fetch(net(server, None))
        path.unlink()
        server.files["v2/net.pt"] = Served(DATA[::-1])
        assert fetch(replace(net(server, None), url=f"{server.url}v2/net.pt")) == path
        assert path.read_bytes() == DATA[::-1]

    def test_nothing_is_there(self, server: FileServer) -> None:
        with pytest.raises(ModelError, match=r"no such file \(404\)\. Name a mirror with VISION"):
            fetch(net(server))

    def test_nobody_listens(self) -> None:
        with FileServer() as gone:
            file = net(gone)
        with pytest.raises(Unavailable, match=r"Try again later, name a mirror .* put the file"):
            fetch(file)

    @pytest.mark.parametrize(
        ("more", "error", "said"),
        [(-5, ModelError, "its SHA-256 is"), (5, Unavailable, "can't be downloaded")],
        ids=["too short", "too long"],
    )
    def test_a_server_that_lies_about_the_length(
        self, server: FileServer, more: int, error: type[Exception], said: str
    ) -> None:
        served(server, announced=len(DATA) + more, ranges=False)
        with pytest.raises(error, match=said):
            fetch(net(server))
        assert kept_weights() == ()

    def test_more_than_weights_may_be(self, server: FileServer) -> None:
        served(server, chunked=True)
        with pytest.raises(ModelError, match="longer than 1,000 bytes"):
            fetch(replace(net(server), most_bytes=1000))

    @pytest.mark.parametrize("name", ["../net.pt", "a/b.pt", "/net.pt", "", ".net.pt", "n\n"])
    def test_a_name_that_leads_elsewhere(self, server: FileServer, name: str) -> None:
        with pytest.raises(ModelError, match="isn't the name of a file of weights"):
            fetch(replace(net(server), name=name))

    def test_a_disk_that_is_full_before(
        self, server: FileServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from visiondyno import downloading

        served(server)
        usage = type("Usage", (), {"free": 1000})
        monkeypatch.setattr(downloading.shutil, "disk_usage", lambda _: usage)
        with pytest.raises(StorageFull, match=r"room for 1,000.*XDG_CACHE_HOME"):
            fetch(net(server))

    def test_a_disk_that_gets_full_meanwhile(self, server: FileServer) -> None:
        served(server)
        process = start(net(server), "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))")
        said = process.communicate(timeout=60)[0]
        assert "StorageFull: The weights of family:net-n can't be written to" in said
        assert "File too large" in said
        assert fetch(net(server)).read_bytes() == DATA

    def test_a_folder_that_can_not_be_made(self, server: FileServer) -> None:
        weights_folder().parent.mkdir(parents=True)
        weights_folder().write_text("a file")
        with pytest.raises(StorageFull, match=r"can't be written to .*weights"):
            fetch(net(server))


class TestHere:
    @pytest.mark.parametrize("sha256", [SHA256, None], ids=["published", "recorded"])
    def test_damage_is_found_and_mended(self, server: FileServer, sha256: str | None) -> None:
        served(server)
        file = net(server, sha256)
        path = fetch(file)
        path.write_bytes(DATA[:-1] + b"?")
        with pytest.raises(
            ModelError, match=f"Download it again with: dyno models pull {REFERENCE}"
        ):
            verify(file, REFERENCE)
        assert fetch(file).read_bytes() == DATA
        assert verify(file, REFERENCE) == f"sha256:{SHA256}"

    def test_a_file_put_here_by_hand_is_taken(self, server: FileServer) -> None:
        weights_folder().mkdir(parents=True)
        (weights_folder() / "net.pt").write_bytes(DATA)
        assert verify(net(server, None), REFERENCE) == f"sha256:{SHA256}"
        fetch(net(server, None))
        fetch(net(server))
        assert server.asked == []
        assert kept_weights() == ()

    @pytest.mark.parametrize(
        "record", ["", "[]", "{}", '{"schema": "visiondyno.weights/1", "sha256": 3}', "\0"]
    )
    def test_a_damaged_record_is_none(self, server: FileServer, record: str) -> None:
        served(server)
        path = fetch(net(server, None))
        (path.parent / "net.pt.json").write_text(record)
        assert fetch(net(server, None)) == path
        assert kept_weights() == ()

    def test_offline_uses_what_is_here_and_asks_for_nothing(
        self, server: FileServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        served(server)
        monkeypatch.setenv("VISIONDYNO_OFFLINE", "1")
        with pytest.raises(Unavailable, match=r"nothing may be downloaded \(--offline or VISION"):
            fetch(net(server))
        monkeypatch.setenv("VISIONDYNO_OFFLINE", "no")
        path = fetch(net(server))
        monkeypatch.setenv("VISIONDYNO_OFFLINE", "yes")
        server.asked.clear()
        assert is_offline()
        assert fetch(net(server)) == path
        path.write_bytes(b"damaged")
        with pytest.raises(Unavailable, match="nothing may be downloaded"):
            fetch(net(server))
        assert server.asked == []


class TestTogether:
    def test_waiting_for_another_download_is_told_and_can_be_stopped(
        self, server: FileServer
    ) -> None:
        served(server)
        part = weights_folder() / ".incoming" / "net.pt.part"
        part.parent.mkdir(parents=True)
        told: list[tuple[str, int, int | None]] = []

        def tell(*at: Any) -> None:
            told.append(at)
            if len(told) == 2:
                raise KeyboardInterrupt
            part.write_bytes(DATA[:5000])

        with only_one(weights_folder() / "net.pt"), pytest.raises(KeyboardInterrupt):
            fetch_weights(net(server), REFERENCE, tell, sleep=Waits())
        assert told == [("net.pt", 0, None), ("net.pt", 5000, None)]
        assert server.asked == []

    def test_whoever_waits_silently_gets_the_file_too(self, server: FileServer) -> None:
        served(server)
        with ExitStack() as held:
            held.enter_context(only_one(weights_folder_made() / "net.pt"))
            path = fetch_weights(net(server), REFERENCE, sleep=lambda _: held.close())
        assert path.read_bytes() == DATA

    def test_two_processes_at_once_download_once(self, server: FileServer) -> None:
        file = served(server, hold=threading.Event())
        assert file.hold is not None
        processes = [start(net(server), "import visiondyno.downloading") for _ in range(2)]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "asking\n"
        # Nothing tells when the second one waits for the first; too early, the test is only milder.
        time.sleep(0.2)
        file.hold.set()
        said = [process.communicate(timeout=60)[0] for process in processes]
        assert said == ["200000\n"] * 2
        assert len(server.asked) == 1


def weights_folder_made() -> Path:
    weights_folder().mkdir(parents=True)
    return weights_folder()


def start(file: WeightsFile, before: str = "pass") -> "subprocess.Popen[str]":
    """A process that fetches `file`; it says `asking`, then the file's size or the error."""
    script = f"""
import resource
from visiondyno.runtimes.weights import WeightsFile, fetch_weights
{before}
print("asking", flush=True)
try:
    print(fetch_weights({file!r}, {REFERENCE!r}).stat().st_size)
except Exception as error:
    print(f"{{type(error).__name__}}: {{error}}")
"""
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
