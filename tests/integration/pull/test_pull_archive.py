"""Archives are unpacked below their folder, or refused."""

import stat
import tarfile
from pathlib import Path

import numpy as np
import pytest

from archives import tar_info, tarred, zipped
from visiondyno.datasets.pull.archive import Selection, unpack
from visiondyno.errors import DatasetError

DATA = np.random.default_rng(0).bytes(300_000)


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
