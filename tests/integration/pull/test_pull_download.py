"""Files over HTTP: whole, verified, taken up again, or refused."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from file_server import FileServer, Served, Waits
from visiondyno.datasets.pull.install import ADVICE
from visiondyno.downloading import Downloader
from visiondyno.errors import DatasetError, StorageFull, Unavailable

DATA = np.random.default_rng(0).bytes(300_000)


def fetch(server: FileServer, target: Path, **options: object) -> list[float]:
    waits = Waits()
    with Downloader(ADVICE, sleep=waits) as downloader:
        downloader.fetch(server.url + "file.bin", target, **{"most_bytes": 1_000_000, **options})
    return waits.seconds


class TestDownload:
    def test_bytes_arrive_as_they_are_and_progress_is_told(
        self, server: FileServer, tmp_path: Path
    ) -> None:
        server.files["file.bin"] = Served(DATA)
        told: list[tuple[int, int | None]] = []
        fetch(server, tmp_path / "x", on_progress=lambda *at: told.append(at))
        assert (tmp_path / "x").read_bytes() == DATA
        assert told[-1] == (len(DATA), len(DATA))
        assert [done for done, _ in told] == sorted(done for done, _ in told)
        assert [path.name for path in tmp_path.iterdir()] == ["x"]

    def test_a_dropped_connection_goes_on_where_it_stopped(
        self, server: FileServer, tmp_path: Path
    ) -> None:
        server.files["file.bin"] = Served(DATA, drops=[100_000, 50_000])
        fetch(server, tmp_path / "x")
        assert (tmp_path / "x").read_bytes() == DATA
        assert [wanted for _, wanted in server.asked] == [
            None,
            "bytes=100000-",
            "bytes=150000-",
        ]

    def test_another_process_goes_on_too(self, server: FileServer, tmp_path: Path) -> None:
        server.files["file.bin"] = Served(DATA, drops=[1000], statuses=[])
        server.files["file.bin"].drops += [0] * 9
        with pytest.raises(Unavailable, match="What has come, 1,000 bytes, is kept"):
            fetch(server, tmp_path / "x")
        server.files["file.bin"].drops.clear()
        server.asked.clear()
        fetch(server, tmp_path / "x")
        assert server.asked == [("/file.bin", "bytes=1000-")]
        assert (tmp_path / "x").read_bytes() == DATA

    def test_a_file_that_changed_meanwhile_starts_again(
        self, server: FileServer, tmp_path: Path
    ) -> None:
        server.files["file.bin"] = Served(DATA, drops=[1000] + [0] * 9)
        with pytest.raises(Unavailable):
            fetch(server, tmp_path / "x")
        server.files["file.bin"] = Served(DATA[::-1])
        fetch(server, tmp_path / "x")
        assert (tmp_path / "x").read_bytes() == DATA[::-1]

    @pytest.mark.parametrize(
        "served",
        [
            Served(DATA, ranges=False, drops=[100_000]),
            Served(DATA, etag="", drops=[100_000]),
            Served(DATA, etag='W/"weak"', drops=[100_000]),
            Served(DATA, content_range="bytes 5-9/10", drops=[100_000]),
        ],
        ids=["no ranges", "no mark", "weak mark", "another range"],
    )
    def test_what_can_not_be_continued_starts_again(
        self, server: FileServer, tmp_path: Path, served: Served
    ) -> None:
        server.files["file.bin"] = replace(served, drops=list(served.drops))
        fetch(server, tmp_path / "x")
        assert (tmp_path / "x").read_bytes() == DATA

    def test_a_rest_that_is_not_there_starts_again(
        self, server: FileServer, tmp_path: Path
    ) -> None:
        server.files["file.bin"] = Served(DATA, etag='"a"', drops=[1000] + [0] * 9)
        with pytest.raises(Unavailable):
            fetch(server, tmp_path / "x")
        server.files["file.bin"] = Served(DATA[:500], etag='"a"')
        fetch(server, tmp_path / "x")
        assert (tmp_path / "x").read_bytes() == DATA[:500]

    def test_a_busy_server_is_asked_again_when_it_says(
        self, server: FileServer, tmp_path: Path
    ) -> None:
        server.files["file.bin"] = Served(DATA, statuses=[503, 429])
        assert fetch(server, tmp_path / "x") == [7.0, 7.0]

    def test_a_server_that_stays_broken_is_given_up(
        self, server: FileServer, tmp_path: Path
    ) -> None:
        server.files["file.bin"] = Served(DATA, statuses=[500] * 20)
        with pytest.raises(Unavailable, match=r"answers 500.*--url"):
            fetch(server, tmp_path / "x")
        assert len(server.asked) == 5

    @pytest.mark.parametrize("status", [401, 403, 404, 410, 418])
    def test_a_refusal_is_told_at_once(
        self, server: FileServer, tmp_path: Path, status: int
    ) -> None:
        server.files["file.bin"] = Served(DATA, statuses=[status])
        with pytest.raises(DatasetError, match=rf"\({status}\)\. Name a mirror"):
            fetch(server, tmp_path / "x")
        assert len(server.asked) == 1
        assert not (tmp_path / "x").exists()

    def test_a_stalled_server_is_asked_again(self, server: FileServer, tmp_path: Path) -> None:
        let_go = threading.Event()
        server.files["file.bin"] = Served(DATA, stall=let_go)
        with Downloader(ADVICE, timeout_s=2.0, sleep=Waits()) as downloader:
            downloader.fetch(server.url + "file.bin", tmp_path / "x", most_bytes=1_000_000)
        let_go.set()
        assert (tmp_path / "x").read_bytes() == DATA

    def test_no_length(self, server: FileServer, tmp_path: Path) -> None:
        server.files["file.bin"] = Served(DATA, chunked=True)
        fetch(server, tmp_path / "x")
        assert (tmp_path / "x").read_bytes() == DATA

    @pytest.mark.parametrize("chunked", [False, True])
    def test_more_than_it_may_be(self, server: FileServer, tmp_path: Path, chunked: bool) -> None:
        server.files["file.bin"] = Served(DATA, chunked=chunked)
        with pytest.raises(DatasetError, match="longer than 100,000 bytes"):
            fetch(server, tmp_path / "x", most_bytes=100_000)

    def test_no_room(
        self, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from visiondyno import downloading

        usage = type("Usage", (), {"free": 1000})
        monkeypatch.setattr(downloading.shutil, "disk_usage", lambda _: usage)
        server.files["file.bin"] = Served(DATA)
        with pytest.raises(StorageFull, match="room for 1,000"):
            fetch(server, tmp_path / "x")

    def test_redirects_are_followed_but_not_round_and_round(
        self, server: FileServer, tmp_path: Path
    ) -> None:
        server.files["file.bin"] = Served(b"", redirect="/elsewhere")
        server.files["elsewhere"] = Served(DATA)
        fetch(server, tmp_path / "x")
        assert (tmp_path / "x").read_bytes() == DATA
        server.files["elsewhere"] = Served(b"", redirect="/file.bin")
        with pytest.raises(DatasetError, match="can't be downloaded"):
            fetch(server, tmp_path / "y")
        server.files["elsewhere"] = Served(b"", redirect="ftp://example.org/x")
        with pytest.raises(DatasetError, match="can't be downloaded"):
            fetch(server, tmp_path / "y")

    def test_nobody_listens(self, tmp_path: Path) -> None:
        with FileServer() as gone:
            url = gone.url
        with (
            Downloader(ADVICE, sleep=Waits()) as downloader,
            pytest.raises(Unavailable, match="VISIONDYNO_DATA"),
        ):
            downloader.fetch(url, tmp_path / "x", most_bytes=1)

    @pytest.mark.parametrize("url", ["ftp://a/b", "file:///etc/passwd", "coco.zip", "http:///x"])
    def test_what_is_no_address(self, tmp_path: Path, url: str) -> None:
        with (
            Downloader(ADVICE) as downloader,
            pytest.raises(DatasetError, match="isn't an address"),
        ):
            downloader.fetch(url, tmp_path / "x", most_bytes=1)
