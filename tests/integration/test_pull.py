"""Pulling published data sets from a real server: interruptions, damage, and hostile archives."""

import gzip
import hashlib
import io
import multiprocessing
import os
import stat
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from dataset_factory import CLASSES, encoded, idx_bytes, write_voc
from file_server import FileServer, Served
from visiondyno.class_names import COCO_80
from visiondyno.cli import datasets as datasets_command
from visiondyno.datasets.pull import catalogue, install
from visiondyno.datasets.pull.archive import Selection, unpack
from visiondyno.datasets.pull.catalogue import DOWNLOADABLE, DownloadableDataset, SourceFile
from visiondyno.datasets.pull.download import Downloader
from visiondyno.datasets.pull.install import RECORD, pull
from visiondyno.datasets.registry import open_dataset
from visiondyno.errors import DatasetError, Unavailable

DATA = np.random.default_rng(0).bytes(300_000)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as running:
        yield running


@pytest.fixture(autouse=True)
def own_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("VISIONDYNO_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


class Waits:
    """Takes the place of sleeping, and remembers for how long."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def fetch(server: FileServer, target: Path, **options: object) -> list[float]:
    waits = Waits()
    with Downloader(sleep=waits) as downloader:
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
        with Downloader(timeout_s=0.2, sleep=Waits()) as downloader:
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
        from visiondyno.datasets.pull import download

        usage = type("Usage", (), {"free": 1000})
        monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage)
        server.files["file.bin"] = Served(DATA)
        with pytest.raises(DatasetError, match="room for 1,000"):
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
            Downloader(sleep=Waits()) as downloader,
            pytest.raises(Unavailable, match="VISIONDYNO_DATA"),
        ):
            downloader.fetch(url, tmp_path / "x", most_bytes=1)

    @pytest.mark.parametrize("url", ["ftp://a/b", "file:///etc/passwd", "coco.zip", "http:///x"])
    def test_what_is_no_address(self, tmp_path: Path, url: str) -> None:
        with Downloader() as downloader, pytest.raises(DatasetError, match="isn't an address"):
            downloader.fetch(url, tmp_path / "x", most_bytes=1)


def zipped(entries: dict[str, bytes], **modes: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = modes.get(name, stat.S_IFREG | 0o644) << 16
            archive.writestr(info, data)
    return file.getvalue()


def tarred(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def tar_info(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


OUTSIDE = "would lie outside its folder"
NO_FILE = "is a link or a device"


class TestArchive:
    @pytest.mark.parametrize(
        ("kind", "data", "words"),
        [
            ("zip", zipped({"a/../../evil": b"x"}), OUTSIDE),
            ("zip", zipped({"/etc/evil": b"x"}), OUTSIDE),
            ("zip", zipped({"..\\evil": b"x"}), OUTSIDE),
            ("zip", zipped({"C:evil": b"x"}), OUTSIDE),
            ("zip", zipped({"../dir/": b""}), OUTSIDE),
            ("zip", zipped({"link": b"/etc"}, link=stat.S_IFLNK | 0o777), NO_FILE),
            ("zip", zipped({"a": b"x"})[:-10], "damaged"),
            ("zip", b"<html>not found</html>", "damaged"),
            ("zip", zipped({"bomb": bytes(3_000_000)}), "far more than"),
            ("zip", zipped({"a": b"1", "a/b": b"2"}), "twice"),
            ("zip", zipped({"__MACOSX/a": b"1"}), "holds nothing below"),
            ("tar", tarred((tar_info("../evil"), b"x")), OUTSIDE),
            ("tar", tarred((tar_info("/evil"), b"x")), OUTSIDE),
            ("tar", tarred((tar_info("../dir", tarfile.DIRTYPE), b"")), OUTSIDE),
            ("tar", tarred((tar_info("l", tarfile.SYMTYPE, "/etc"), b"")), NO_FILE),
            ("tar", tarred((tar_info("l", tarfile.LNKTYPE, "../x"), b"")), NO_FILE),
            ("tar", tarred((tar_info("d", tarfile.CHRTYPE), b"")), NO_FILE),
            ("tar", tarred((tar_info("f", tarfile.FIFOTYPE), b"")), NO_FILE),
            ("tar", tarred((tar_info("a"), b"1"), (tar_info("a"), b"2")), "twice"),
            ("tar", tarred((tar_info("a"), DATA))[:5000], "damaged"),
            ("tar", b"", "damaged"),
            ("tar", tarred((tar_info("bomb"), bytes(3_000_000))), "far more than"),
        ],
        # gzip stores the time: an id made of the bytes would differ between test processes.
        ids=lambda value: "archive" if isinstance(value, bytes) else None,
    )
    def test_a_hostile_or_broken_archive_is_refused(
        self, tmp_path: Path, kind: str, data: bytes, words: str
    ) -> None:
        (tmp_path / "archive").write_bytes(data)
        (tmp_path / "in").mkdir()
        with pytest.raises(DatasetError, match=words):
            unpack(
                tmp_path / "archive", kind, tmp_path / "in" / "here", Selection(most_bytes=10**6)
            )
        assert not (tmp_path / "in" / "evil").exists()
        assert not (tmp_path / "evil").exists()

    def test_an_encrypted_file_is_refused(self, tmp_path: Path) -> None:
        data = bytearray(zipped({"secret": b"x"}))
        data[6] |= 1
        data[data.index(b"PK\x01\x02") + 8] |= 1
        (tmp_path / "a.zip").write_bytes(data)
        with pytest.raises(DatasetError, match="secret is encrypted"):
            unpack(tmp_path / "a.zip", "zip", tmp_path / "out", Selection())

    @pytest.mark.parametrize("kind", ["zip", "tar"])
    def test_only_what_is_selected(self, tmp_path: Path, kind: str) -> None:
        entries = {
            "set/images/a.jpg": b"a", "set/notes.txt": b"n", "set/labels/a.txt": b"l",
            "other/images/b.jpg": b"b", "./set/images/c.jpg": b"c",
        }  # fmt: skip
        data = (
            zipped(entries)
            if kind == "zip"
            else tarred(*((tar_info(name), text) for name, text in entries.items()))
        )
        (tmp_path / "a").write_bytes(data)
        count = unpack(tmp_path / "a", kind, tmp_path / "o", Selection("set/", ("images/", "lab")))
        found = {
            path.relative_to(tmp_path / "o").as_posix()
            for path in (tmp_path / "o").rglob("*")
            if path.is_file()
        }
        assert found == {"images/a.jpg", "images/c.jpg", "labels/a.txt"}
        assert count == 3


def coco128(server: FileServer) -> DownloadableDataset:
    """A small archive of coco128's layout at the server, in the catalogue's own entry."""
    server.files["coco128.zip"] = Served(
        zipped(
            {
                "coco128/": b"",
                "coco128/LICENSE": b"AGPL",
                "coco128/images/train2017/1.jpg": encoded(".jpg", 40, 30),
                "coco128/labels/train2017/1.txt": b"2 0.5 0.5 0.5 0.5\n",
            }
        )
    )
    return known("coco128")


def known(name: str) -> DownloadableDataset:
    found = catalogue.downloadable(name)
    assert found is not None
    return found


class TestPull:
    def test_it_is_found_by_its_name_from_then_on(self, server: FileServer) -> None:
        dataset = coco128(server)
        with pytest.raises(DatasetError, match="dyno datasets pull coco128"):
            open_dataset("coco128")
        told: list[tuple[str, int, int | None]] = []
        pulled = pull(dataset, urls=[server.url], on_progress=lambda *at: told.append(at))
        assert pulled.new
        assert told[-1][0] == "coco128.zip"
        opened = open_dataset("coco128")
        assert (len(opened), opened.classes) == (1, COCO_80)
        assert opened.sample(0).truth.class_ids.tolist() == [2]
        about = (pulled.folder / "PULLED.txt").read_text()
        digest = hashlib.sha256(server.files["coco128.zip"].data).hexdigest()
        assert digest in about
        assert "CC BY 4.0" in about
        again = pull(dataset, urls=[server.url])
        assert (again.new, again.folder) == (False, pulled.folder)
        assert len(server.asked) == 1
        rest = [path.name for path in pulled.folder.parent.iterdir()]
        assert sorted(rest) == [".coco128.lock", "coco128", RECORD]

    def test_without_a_published_checksum_the_first_download_counts(
        self, server: FileServer, tmp_path: Path
    ) -> None:
        dataset = coco128(server)
        first = pull(dataset, urls=[server.url], dest=tmp_path / "d")
        assert "No checksum of coco128.zip is published: its SHA-256" in first.notes[0]
        (tmp_path / "d" / "coco128").rename(tmp_path / "d" / "old")
        server.files["coco128.zip"] = Served(zipped({"coco128/images/train2017/x": b"other"}))
        with pytest.raises(DatasetError, match=r"SHA256 is .*remove its line in"):
            pull(dataset, urls=[server.url], dest=tmp_path / "d")
        coco128(server)
        assert pull(dataset, urls=[server.url], dest=tmp_path / "d").notes == ()

    def test_what_was_no_archive_is_not_recorded(self, server: FileServer) -> None:
        dataset = coco128(server)
        good, server.files["coco128.zip"] = server.files["coco128.zip"], Served(b"<html>login")
        with pytest.raises(DatasetError, match="no archive of its kind"):
            pull(dataset, urls=[server.url])
        server.files["coco128.zip"] = good
        assert pull(dataset, urls=[server.url]).new

    def test_a_wrong_checksum_leaves_nothing(self, server: FileServer, tmp_path: Path) -> None:
        server.files |= {file.name: Served(b"wrong") for file in known("mnist").files}
        with pytest.raises(DatasetError, match=r"its MD5 is .* not f68b.*--url"):
            pull(known("mnist"), urls=[server.url], dest=tmp_path / "d")
        assert not (tmp_path / "d" / "mnist").exists()
        downloads = tmp_path / "d" / ".mnist.downloads"
        assert "train-images-idx3-ubyte.gz" not in [path.name for path in downloads.iterdir()]

    def test_an_interrupted_pull_goes_on(self, server: FileServer, tmp_path: Path) -> None:
        dataset = coco128(server)
        served = server.files["coco128.zip"]
        served.drops += [200] + [0] * 9
        with pytest.raises(Unavailable):
            pull(dataset, urls=[server.url], dest=tmp_path, downloader=Downloader(sleep=Waits()))
        served.drops.clear()
        pull(dataset, urls=[server.url], dest=tmp_path)
        assert server.asked[-1] == ("/coco128.zip", "bytes=200-")
        assert len(open_dataset(str(tmp_path / "coco128"))) == 1

    def test_the_data_folder_comes_before_any_download(
        self, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shared = tmp_path / "shared data"
        shared.mkdir()
        monkeypatch.setenv("VISIONDYNO_DATA", str(shared))
        dataset = coco128(server)
        (shared / "coco128.zip").write_bytes(server.files["coco128.zip"].data)
        pulled = pull(dataset, dest=tmp_path / "d")
        assert f"coco128.zip was taken from {shared}" in pulled.notes
        assert server.asked == []
        (tmp_path / "d" / "coco128").rename(shared / "coco128")
        again = pull(dataset)
        assert (again.new, again.folder) == (False, shared / "coco128")
        assert len(open_dataset("coco128")) == 1
        write_voc(shared / "own" / "voc")
        assert len(open_dataset("own/voc")) == 4
        with pytest.raises(DatasetError, match=r"nor below .*shared data, which VISIONDYNO_DATA"):
            open_dataset("own/nothing")

    def test_a_wrong_file_in_the_data_folder_stays_and_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("VISIONDYNO_DATA", str(tmp_path))
        (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"wrong")
        with pytest.raises(DatasetError, match="Remove or replace that file"):
            pull(known("cifar10"))
        assert (tmp_path / "cifar-10-binary.tar.gz").exists()

    def test_addresses_for_each_file(self, server: FileServer, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=r"coco-val2017 is 2 files \(val2017\.zip, anno"):
            pull(known("coco-val2017"), urls=["http://a/1", "http://a/2", "http://a/3"])
        coco128(server)
        server.files["my.zip"] = server.files["coco128.zip"]
        pull(known("coco128"), urls=[server.url + "my.zip"], dest=tmp_path)
        assert server.asked == [("/my.zip", None)]

    def test_a_folder_that_can_not_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(DatasetError, match=r"can't be written.*--dest"):
            pull(known("coco128"), dest=tmp_path / "file")

    def test_two_at_the_same_time_download_once(self, server: FileServer, tmp_path: Path) -> None:
        dataset = coco128(server)
        found: list[bool] = []

        def work() -> None:
            found.append(pull(dataset, urls=[server.url], dest=tmp_path).new)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(found) == [False, False, False, True]
        assert len(server.asked) == 1


def without_checksums(dataset: DownloadableDataset) -> DownloadableDataset:
    files = tuple(replace(file, checksum=None) for file in dataset.files)
    return replace(dataset, files=files)


def serve_val2017(server: FileServer) -> None:
    labels = (
        b'{"images": [{"id": 1, "file_name": "1.jpg"}], "categories": [{"id": 1, "name": "car"}],'
        b'"annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}]}'
    )
    server.files["val2017.zip"] = Served(zipped({"val2017/1.jpg": encoded(".jpg", 30, 20)}))
    names = ("instances_val2017", "instances_train2017", "captions_val2017")
    server.files["annotations_trainval2017.zip"] = Served(
        zipped({f"annotations/{name}.json": labels for name in names})
    )


def serve_mnist(server: FileServer) -> None:
    for part, count in (("train", 20), ("t10k", 10)):
        images = np.random.default_rng(count).integers(0, 256, (count, 28, 28), np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            data = gzip.compress(idx_bytes(values))
            server.files[f"{part}-{kind}-ubyte.gz"] = Served(data)


def serve_voc(server: FileServer) -> None:
    folder = Path("made") / "VOCdevkit" / "VOC2007"
    write_voc(folder)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.add("made/VOCdevkit", "VOCdevkit")
    server.files["VOCtest_06-Nov-2007.tar"] = Served(file.getvalue())


CIFAR_CLASSES = ("airplane", "automobile", "bird")


def serve_cifar(server: FileServer) -> None:
    def records(seed: int) -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 256, (6, 3072), np.uint8)
        labels = (np.arange(6, dtype=np.uint8) % 3)[:, None]
        return np.hstack((labels, pixels)).astype(np.uint8).tobytes()

    names = [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]
    members = [
        (tar_info(f"cifar-10-batches-bin/{name}"), records(seed)) for seed, name in enumerate(names)
    ]
    meta = ("\n".join(CIFAR_CLASSES) + "\n\n").encode()
    members.append((tar_info("cifar-10-batches-bin/batches.meta.txt"), meta))
    members.append((tar_info("cifar-10-batches-bin/readme.html"), b"hi"))
    server.files["cifar-10-binary.tar.gz"] = Served(tarred(*members))


@pytest.mark.parametrize(
    ("name", "serve", "counts", "classes"),
    [
        ("coco-val2017", serve_val2017, {"": 1}, ("car",)),
        ("mnist", serve_mnist, {"": 10, ":test": 10, ":train": 20}, tuple("0123456789")),
        ("fashion_mnist", serve_mnist, {":train": 20}, known("fashion_mnist").classes),
        ("kmnist", serve_mnist, {":train": 20}, known("kmnist").classes),
        ("voc2007-test", serve_voc, {"": 4}, tuple(sorted(CLASSES))),
        ("cifar10", serve_cifar, {"": 6, ":test": 6, ":train": 30}, CIFAR_CLASSES),
    ],
)
def test_every_published_set_opens_after_pulling(
    server: FileServer,
    name: str,
    serve: Callable[[FileServer], None],
    counts: dict[str, int],
    classes: tuple[str, ...],
) -> None:
    """Small stand-ins of each set's own layout; their checksums can't be those of the real ones."""
    serve(server)
    pull(without_checksums(known(name)), urls=[server.url])
    for split, count in counts.items():
        dataset = open_dataset(name + split)
        assert (len(dataset), dataset.classes) == (count, classes)


def test_cifar_s_planes_become_pixels(server: FileServer) -> None:
    serve_cifar(server)
    pull(without_checksums(known("cifar10")), urls=[server.url])
    record = np.random.default_rng(5).integers(0, 256, (6, 3072), np.uint8)[0]
    image = cv2.imread(str(open_dataset("cifar10").sample(0).path))
    np.testing.assert_array_equal(image[..., ::-1], record.reshape(3, 32, 32).transpose(1, 2, 0))


@pytest.mark.parametrize(
    ("batch", "words"),
    [(b"\0" * 100, "isn't made of records"), (b"\x09" + b"\0" * 3072, "a class beyond the 3")],
)
def test_a_broken_cifar_is_refused(server: FileServer, batch: bytes, words: str) -> None:
    folder = "cifar-10-batches-bin/"
    meta = (tar_info(folder + "batches.meta.txt"), b"a\nb\nc\n")
    both = [(tar_info(folder + name), batch) for name in ("data_batch_1.bin", "test_batch.bin")]
    server.files["cifar-10-binary.tar.gz"] = Served(tarred(meta, *both))
    with pytest.raises(DatasetError, match=words):
        pull(without_checksums(known("cifar10")), urls=[server.url])
    server.files["cifar-10-binary.tar.gz"] = Served(tarred(meta))
    with pytest.raises(DatasetError, match="isn't complete"):
        pull(without_checksums(known("cifar10")), urls=[server.url])


def test_coco128_without_its_images(server: FileServer) -> None:
    server.files["coco128.zip"] = Served(zipped({"coco128/README.txt": b"hi"}))
    with pytest.raises(DatasetError, match="doesn't hold one folder in images/"):
        pull(known("coco128"), urls=[server.url])


class TestCommand:
    def test_pull_says_terms_checksum_and_place(self, server: FileServer, tmp_path: Path) -> None:
        coco128(server)
        arguments = ["pull", "coco128", "--url", server.url, "--dest", "here"]
        done = CliRunner().invoke(datasets_command.command, arguments, catch_exceptions=False)
        assert done.exit_code == 0
        assert "Terms of coco128: annotations CC BY 4.0" in done.output
        assert "No checksum of coco128.zip is published" in done.output
        assert f"Pulled: {tmp_path / 'here' / 'coco128'}" in done.output
        again = CliRunner().invoke(datasets_command.command, arguments, catch_exceptions=False)
        assert "Already there" in again.output

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("street", "built in and needs no download"),
            ("digits:train", "built in and needs no download"),
            ("coco12", "Did you mean coco128"),
            ("../x", "There are: coco128, coco-val2017"),
        ],
    )
    def test_unknown_names(self, name: str, words: str) -> None:
        done = CliRunner().invoke(datasets_command.command, ["pull", name])
        assert words in str(done.exception)

    def test_the_list_shows_terms_and_what_is_here(self, server: FileServer) -> None:
        coco128(server)
        pull(known("coco128"), urls=[server.url])
        done = CliRunner().invoke(datasets_command.command, [], env={"COLUMNS": "200"})
        lines = [line for line in done.output.splitlines() if "coco128" in line]
        assert "yes" in lines[0]


def test_the_catalogue_is_in_order() -> None:
    names = [dataset.name for dataset in DOWNLOADABLE]
    assert len(set(names)) == len(names)
    for dataset in DOWNLOADABLE:
        assert dataset.terms
        for file in dataset.files:
            assert file.url.startswith(("https://", "http://"))
            assert file.url.endswith(file.name)
            if file.checksum is not None:
                algorithm, _, digest = file.checksum.partition(":")
                assert len(digest) == 2 * hashlib.new(algorithm).digest_size
                assert set(digest) <= set("0123456789abcdef")
            elif not file.url.startswith("https://"):
                pytest.fail(f"{file.url}: neither encrypted nor verified")


def _pull_and_stop(url: str, dest: Path, ready: object) -> None:
    """In a child: stop dead in the middle of making the folder."""

    def die(*_: object) -> None:
        os._exit(9)

    install.prepare = die  # type: ignore[assignment]
    pull(known("coco128"), urls=[url], dest=dest)


def test_a_killed_pull_leaves_no_half_folder(server: FileServer, tmp_path: Path) -> None:
    dataset = coco128(server)
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=_pull_and_stop, args=(server.url, tmp_path / "d", None))
    child.start()
    child.join(60)
    assert child.exitcode == 9
    assert not (tmp_path / "d" / "coco128").exists()
    assert pull(dataset, urls=[server.url], dest=tmp_path / "d").new
    assert len(server.asked) == 1, "the file had come already"
    left = sorted(path.name for path in (tmp_path / "d").iterdir())
    assert left == [".coco128.lock", "coco128", RECORD]


def test_a_file_is_as_the_catalogue_says(server: FileServer, tmp_path: Path) -> None:
    """An address that delivers something far longer than the set isn't read to its end."""
    small = DownloadableDataset(
        "coco128", "x", (SourceFile("a.zip", server.url + "a.zip", 10),), "none"
    )
    server.files["a.zip"] = Served(bytes(3_000_000))
    with pytest.raises(DatasetError, match="twice what the file should be"):
        pull(small, dest=tmp_path)
