"""The list of a zip file from elsewhere, judged whole before anything in the file is read."""

import io
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO, Self

from visiondyno.errors import DatasetError, VisionDynoError

_ENTRY_BYTES = 300
"""Of an entry in the list with a long name and all that may stand beside it."""
_LEAST_LIST_BYTES = 2**20
_LOCAL_HEADER_BYTES = 30
_LENGTHS_AT = 26
"""In an entry's own header: lengths of its name, and of what stands between that and the data."""

_PACKED_TIMES, _PACKED_MORE_BYTES = 2, 2**16
"""More than any packer makes of a file."""

_ENCRYPTED = 1

_ELSEWHERE = frozenset("\\:\0")


@dataclass(frozen=True, slots=True)
class ZipEntry:
    """A plain file in a zip file.

    Attributes:
        name: relative, with `/` between its parts; it leads nowhere outside.
        info: of the list.
    """

    name: str
    info: zipfile.ZipInfo

    @property
    def size_bytes(self) -> int:
        """Unpacked, as it announces itself."""
        return self.info.file_size


class ZipList:
    """A zip file whose every entry is a plain file or a folder, inside, named once, in the open.

    Entries that share bytes are refused: so a small file can't unpack to one many times over.
    """

    def __init__(
        self,
        path: Path,
        most_files: int,
        called: object = None,
        methods: Collection[int] | None = None,
        too_many: VisionDynoError | None = None,
    ) -> None:
        """Open it and judge its list.

        Args:
            path: of the file.
            most_files: folders count too.
            called: what messages call it; None: its path.
            methods: of compression (numbers of the format) that are read; None: all that can be.
            too_many: is raised where there are more files; None: a `DatasetError` that says so.

        Raises:
            DatasetError: it is refused.
            zipfile.BadZipFile, ValueError, struct.error, OverflowError, NotImplementedError: it is
                damaged, no zip file, or of a kind that can't be read.
        """
        self._called = path if called is None else called
        self._too_many = too_many or too_many_files(self._called, most_files)
        self._file = _ListLimitedFile(path, most_files, self._too_many)
        try:
            self._zip = zipfile.ZipFile(self._file)
            self._file.has_list = True
            self._check_room(most_files)
            self.entries = self._checked(methods)
        except BaseException:
            self._file.close()
            raise

    def open(self, entry: ZipEntry) -> IO[bytes]:
        """Its content. Reading may raise what `__init__` may, `zlib.error` and `EOFError` too."""
        return self._zip.open(entry.info)

    def read(self, entry: ZipEntry) -> bytes:
        """Its content, stored or deflated; it takes the memory that the list announces, no more.

        What `open` gives unpacks up to a gigabyte at a time, whatever the list says.

        Raises:
            NotImplementedError: it is compressed in another way.
            zipfile.BadZipFile, ValueError, zlib.error, EOFError, struct.error: it is damaged, or
                not what the list says.
        """
        info = entry.info
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise NotImplementedError(f"compressed by method {info.compress_type}")
        if info.compress_size > _PACKED_TIMES * info.file_size + _PACKED_MORE_BYTES:
            raise zipfile.BadZipFile("it is packed into far more than it holds")
        with self.open(entry):
            pass  # its own header was compared with the list
        self._file.seek(info.header_offset + _LENGTHS_AT)
        self._file.seek(sum(struct.unpack("<HH", self._file.read(4))), os.SEEK_CUR)
        content = self._file.read(info.compress_size)
        if info.compress_type == zipfile.ZIP_DEFLATED:
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, info.file_size + 1)
        if len(content) != info.file_size or zlib.crc32(content) != info.CRC:
            raise zipfile.BadZipFile("its length or checksum isn't what the list says")
        return content

    def close(self) -> None:
        """Let go of the file."""
        self._zip.close()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _checked(self, methods: Collection[int] | None) -> list[ZipEntry]:
        entries: list[ZipEntry] = []
        seen: set[str] = set()
        for info in self._zip.infolist():
            name = inside(self._called, _text(info)).as_posix()
            if info.is_dir():
                continue
            # Archives from systems without modes have 0 here.
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
                raise not_a_file(self._called, name)
            if info.flag_bits & _ENCRYPTED:
                raise DatasetError(f"{self._called} can't be unpacked: {name:.100} is encrypted")
            if methods is not None and info.compress_type not in methods:
                raise DatasetError(
                    f"{self._called} can't be unpacked: '{name:.100}' in it is compressed in a way "
                    f"(method {info.compress_type}) that isn't read here; make it with 'deflate'"
                )
            if name in seen:
                raise twice(self._called, name)
            seen.add(name)
            entries.append(ZipEntry(name, info))
        return entries

    def _check_room(self, most_files: int) -> None:
        """Refuse too many entries, and those that reach into the next one, or into the list."""
        if len(self._zip.filelist) > most_files:
            raise self._too_many
        infos = sorted(self._zip.filelist, key=lambda info: info.header_offset)
        ends = [info.header_offset for info in infos[1:]] + [self._zip.start_dir]
        if infos and infos[0].header_offset < 0:
            raise zipfile.BadZipFile("an entry lies before its beginning")
        for info, end in zip(infos, ends, strict=False):
            if info.header_offset + _LOCAL_HEADER_BYTES + info.compress_size > end:
                raise DatasetError(
                    f"{self._called} isn't unpacked: '{info.filename:.100}' and what follows it "
                    "share bytes"
                )


class _ListLimitedFile(io.FileIO):
    """A file whose list of entries is never read whole where it is too long for so many."""

    def __init__(self, path: Path, most_files: int, too_many: VisionDynoError) -> None:
        super().__init__(path, "rb")
        self.has_list = False
        self._too_many = too_many
        self._longest_bytes = max(most_files * _ENTRY_BYTES, _LEAST_LIST_BYTES)

    def read(self, size: int | None = -1, /) -> bytes:
        if not self.has_list and size is not None and size > self._longest_bytes:
            raise self._too_many
        found = super().read(-1 if size is None else size)
        assert found is not None, "a plain file blocks until it has bytes"
        return found


def inside(called: object, name: str) -> PurePosixPath:
    """The name as a path.

    Raises:
        DatasetError: it is absolute, leads out of the archive's folder, or may do so elsewhere.
    """
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts:
        raise DatasetError(
            f"{called} isn't unpacked: '{name:.100}' in it would lie outside its folder"
        )
    if _ELSEWHERE & set(name):
        raise DatasetError(
            f"{called} isn't unpacked: '{name:.100}' in it would lie outside its folder on some "
            "systems, for its '\\' or ':'; rename it, and pack with '/' between folders"
        )
    return path


def not_a_file(called: object, name: str) -> DatasetError:
    """The refusal of an entry of another kind."""
    return DatasetError(
        f"{called} isn't unpacked: '{name:.100}' in it is a link or a device, not a file"
    )


def too_many_files(called: object, most_files: int) -> DatasetError:
    """The refusal of an archive with more entries."""
    return DatasetError(f"{called} holds more than {most_files:,} files")


def twice(called: object, name: str) -> DatasetError:
    """The refusal of a name that two entries have."""
    return DatasetError(f"{called} isn't unpacked: '{name:.100}' stands in it twice")


def _text(info: zipfile.ZipInfo) -> str:
    """The name; UTF-8 where it is that without saying so, as of archives made on a Mac."""
    if info.flag_bits & 0x800:
        return info.filename
    try:
        return info.filename.encode("cp437").decode()
    except UnicodeError:
        return info.filename
