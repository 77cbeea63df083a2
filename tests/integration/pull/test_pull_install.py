"""A pulled set is found by its name, however its pull was interrupted."""

import hashlib
import multiprocessing
import os
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from archives import zipped
from dataset_factory import write_voc
from file_server import FileServer, Served, Waits
from published_sets import coco128, known
from visiondyno.class_names import COCO_80
from visiondyno.cli import datasets as datasets_command
from visiondyno.datasets.pull import install
from visiondyno.datasets.pull.catalogue import DownloadableDataset, SourceFile
from visiondyno.datasets.pull.install import ADVICE, RECORD, pull
from visiondyno.datasets.registry import open_dataset
from visiondyno.downloading import Downloader
from visiondyno.errors import DatasetError, Unavailable


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
            pull(
                dataset,
                urls=[server.url],
                dest=tmp_path,
                downloader=Downloader(ADVICE, sleep=Waits()),
            )
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
    with pytest.raises(DatasetError, match="the most that the file can be"):
        pull(small, dest=tmp_path)
