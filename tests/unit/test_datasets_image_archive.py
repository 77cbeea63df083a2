"""Zip files of images: what is in them is read or refused, and nothing else happens."""

import contextlib
import io
import stat
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from archives import zipped
from visiondyno.datasets.image_archive import ArchiveLimits, ImageArchive, is_zip
from visiondyno.errors import DatasetError, SpecError, TooLarge, VisionDynoError

LIMITS = ArchiveLimits(20, 3_000_000, 2_000_000, "Send several.")
NAMES = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\\:/"), min_size=1
).filter(lambda name: name not in (".", ".."))


def opened(tmp_path: Path, data: bytes, limits: ArchiveLimits = LIMITS) -> ImageArchive:
    path = tmp_path / "images.zip"
    path.write_bytes(data)
    return ImageArchive(path, limits)


def content(tmp_path: Path, data: bytes) -> dict[str, bytes]:
    with opened(tmp_path, data) as archive:
        return {name: archive.read(index) for index, name in enumerate(archive.names)}


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(NAMES, st.binary(max_size=200), min_size=1, max_size=8),
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
    st.booleans(),
)
def test_what_was_packed_comes_out_in_its_order(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], method: int, streamed: bool
) -> None:
    target = io.BytesIO()
    # A target that can't be gone back in has data descriptors after its entries.
    sink = Unseekable(target) if streamed else target
    with zipfile.ZipFile(sink, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    kept = [name for name in files if not junk(name)]
    assume(kept)
    with opened(tmp_path_factory.mktemp("zip"), target.getvalue()) as found:
        assert list(found.names) == kept
        assert sorted(found.skipped) == sorted(set(files) - set(kept))
        assert [found.read(index) for index in range(len(kept))] == [files[k] for k in kept]


class Unseekable:
    def __init__(self, file: io.BytesIO) -> None:
        self._file = file

    def write(self, data: bytes) -> int:
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def junk(name: str) -> bool:
    return name.startswith(".") or name.lower() in ("thumbs.db", "desktop.ini", "__macosx")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_one_is_refused_or_gives_what_fits(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    good = bytearray(zipped({"a.png": b"a" * 300, "b/c.png": bytes(range(256))}))
    for _ in range(data.draw(st.integers(1, 6))):
        good[data.draw(st.integers(4, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(good[: data.draw(st.integers(0, len(good)))]) if data.draw(st.booleans()) else good
    with (
        contextlib.suppress(DatasetError, SpecError, TooLarge),
        opened(tmp_path_factory.mktemp("zip"), bytes(cut)) as archive,
    ):
        for index in range(len(archive.names)):
            with contextlib.suppress(DatasetError, TooLarge):
                assert len(archive.read(index)) <= LIMITS.most_image_bytes


def patched(data: bytes, at: int, form: str, value: int) -> bytes:
    """With a field of the list's first entry changed, and of its own header where it has it too."""
    changed = bytearray(data)
    start = changed.index(b"PK\x01\x02")
    struct.pack_into(form, changed, start + at, value)
    return bytes(changed)


def overlapping() -> bytes:
    """Two names for the same bytes."""
    plain = bytearray(zipped({"a.png": b"a" * 100, "b.png": b"b" * 100}))
    second = plain.index(b"PK\x01\x02", plain.index(b"PK\x01\x02") + 4)
    struct.pack_into("<I", plain, second + 42, 0)
    return bytes(plain)


def misplaced(at: int, value: int) -> bytes:
    """With a field of the last record changed: 12: the list's length, 16: its place."""
    changed = bytearray(ONE)
    struct.pack_into("<I", changed, changed.index(b"PK\x05\x06") + at, value)
    return bytes(changed)


def doubled() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("a.png", b"1")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a.png", b"2")
    return target.getvalue()


def compressed_by(method: int) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as archive:
        archive.writestr("a.png", b"1" * 100)
    return target.getvalue()


ONE = zipped({"a.png": b"1" * 100})
HOSTILE: dict[str, tuple[Callable[[], bytes], type[VisionDynoError], str]] = {
    "leads out": (lambda: zipped({"../a.png": b"1"}), DatasetError, "outside its folder"),
    "absolute": (lambda: zipped({"/etc/a.png": b"1"}), DatasetError, "outside its folder"),
    "of windows": (lambda: zipped({"c:\\a.png": b"1"}), DatasetError, "outside its folder on some"),
    "backslashes": (lambda: zipped({"x\\a.png": b"1"}), DatasetError, r"for its '\' or"),
    "link": (
        lambda: zipped({"a.png": b"/etc/passwd"}, **{"a.png": stat.S_IFLNK | 0o777}),
        DatasetError,
        "a link or a device",
    ),
    "twice": (doubled, DatasetError, "'a.png' stands in it twice"),
    "overlap": (overlapping, DatasetError, "share bytes"),
    "encrypted": (lambda: patched(ONE, 8, "<H", 1), DatasetError, "is encrypted"),
    "lzma": (lambda: compressed_by(zipfile.ZIP_LZMA), DatasetError, "method 14"),
    "unknown method": (lambda: patched(ONE, 10, "<H", 77), DatasetError, "method 77"),
    "announces a bomb": (lambda: patched(ONE, 24, "<I", 4_000_000), TooLarge, "4.0 MB, unpacked"),
    "many": (lambda: zipped({f"{n}.png": b"" for n in range(21)}), TooLarge, "at most 20 are"),
    "too many": (
        lambda: zipped({f"{n}/": b"" for n in range(1021)}),
        TooLarge,
        "holds more than the 20 files that are taken. Send several.",
    ),
    "empty": (lambda: zipped({}), SpecError, "holds no file; put"),
    "only junk": (lambda: zipped({"__MACOSX/._a.png": b"1"}), SpecError, "no file but __MACOSX"),
    "before": (lambda: misplaced(16, 5000), DatasetError, "an entry lies before its beginning"),
    "long list": (lambda: misplaced(12, 2**30), DatasetError, "damaged or none"),
    "cut": (lambda: ONE[:-10], DatasetError, "damaged or none"),
    "name of no text": (
        lambda: ONE.replace(b"a.png", b"\xff.png").replace(
            b"PK\x01\x02\x14\x03\x14\0\0\0", b"PK\x01\x02\x14\x03\x14\0\0\x08"
        ),
        DatasetError,
        "damaged or none",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_list_is_refused_before_anything_is_read(tmp_path: Path, case: str) -> None:
    made, error, says = HOSTILE[case]
    with pytest.raises(error) as refused:
        opened(tmp_path, made())
    assert type(refused.value) is error
    assert says in refused.value.message


def test_a_lying_size_is_found_out_at_that_file_alone(tmp_path: Path) -> None:
    both = zipped({"a.png": b"1" * 100, "b.png": b"2" * 100})
    with opened(tmp_path, patched(both, 24, "<I", 10)) as archive:
        with pytest.raises(DatasetError, match=r"'a\.png' is damaged in the zip file"):
            archive.read(0)
        assert archive.read(1) == b"2" * 100


def bomb(packed: bytes, method: int, says_bytes: int) -> bytes:
    """With one file that says of itself that it is so small."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as archive:
        archive.writestr("a.png", packed)
    return patched(target.getvalue(), 24, "<I", says_bytes)


def test_a_file_that_lies_of_its_size_takes_no_more_memory_than_it_says(tmp_path: Path) -> None:
    zeros = bytes(20_000_000)
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        for says_bytes in (0, 10, 60_000):
            with opened(tmp_path, bomb(zeros, method, says_bytes)) as archive:
                tracemalloc.start()
                try:
                    with pytest.raises(DatasetError, match="is damaged in the zip file"):
                        archive.read(0)
                    _, most_bytes = tracemalloc.get_traced_memory()
                finally:
                    tracemalloc.stop()
                assert most_bytes < 1_000_000


def test_one_file_may_be_too_large_by_itself(tmp_path: Path) -> None:
    with opened(tmp_path, zipped({"a.bmp": bytes(2_500_000), "b.png": b"2"})) as archive:
        with pytest.raises(TooLarge, match=r"'a\.bmp' has 2\.5 MB, and at most 2 MB"):
            archive.read(0)
        assert archive.read(1) == b"2"


def test_what_a_computer_adds_is_passed_over_and_said(tmp_path: Path) -> None:
    files = ["x/", "__MACOSX/._a.png", ".DS_Store", "x/.hidden/b.png", "x/Thumbs.db", "x/a.png"]
    with opened(tmp_path, zipped(dict.fromkeys(files, b"1"))) as archive:
        assert archive.names == ("x/a.png",)
        assert archive.skipped == tuple(files[1:-1])


def test_a_name_in_utf_8_needs_not_say_so(tmp_path: Path) -> None:
    data = zipped({"aaaaaa.png": b"1", "bb.png": b"2"})
    data = data.replace(b"aaaaaa.png", "straße".encode()[:7] + b"png").replace(b"bb", b"\x81b")
    assert content(tmp_path, data) == {"straßepng": b"1", "üb.png": b"2"}


def test_a_large_stored_file_is_read_whole(tmp_path: Path) -> None:
    data = bytes(1_500_000)
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("a.bmp", data)
    assert content(tmp_path, target.getvalue()) == {"a.bmp": data}


def test_zip64_is_read(tmp_path: Path) -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive, archive.open("a.png", "w", force_zip64=True) as f:
        f.write(b"1")
    assert content(tmp_path, target.getvalue()) == {"a.png": b"1"}


def test_a_zip_file_is_known_by_its_beginning() -> None:
    assert is_zip(ONE)
    assert is_zip(zipped({}))
    assert not is_zip(b"PK")
