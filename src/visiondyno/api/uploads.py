"""Multipart uploads, parsed while they arrive: a file's bytes go through, none are gathered."""

import contextlib
from collections import deque
from collections.abc import AsyncIterator

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException

from visiondyno.api.problems import BadBody
from visiondyno.errors import SpecError

_FIELD_BYTES = 10_000
_FIELDS = 16
_FILE_NAME_CHARACTERS = 255

_Part = tuple[str, str | None]  # the field's name, and the file's if it is one


class Upload:
    """One `multipart/form-data` body with a file or several, in the order in which it arrives.

    The fields must stand before the first file: they are known when its first byte comes, and
    nothing has to be kept until they are.

        upload = Upload(request, file_field="file", fields=("name",))
        await upload.open()
        upload.fields, upload.file_name
        async for chunk in upload.chunks(): ...

    Of several, `await upload.next_file()` goes on after the chunks of one.
    """

    def __init__(
        self,
        request: Request,
        file_field: str,
        fields: tuple[str, ...],
        most_files: int = 1,
        example: str = "model.onnx",
    ) -> None:
        """Needs no more than the headers; `example` is a file that could be sent.

        Raises:
            HTTPException: 415, the body is of another type.
            BadBody: its boundary is missing.
        """
        self.fields: dict[str, str] = {}
        self.file_name = ""
        self._file_field = file_field
        self._known = fields
        self._body = request.stream()
        self._files_left = most_files
        self._most_files = most_files
        self._curl = f"curl -F {file_field}=@{example}"
        self._wire = _Wire(_boundary(request, self._curl), _FIELDS + most_files - 1)

    async def open(self) -> None:
        """Read to the file's first byte.

        Raises:
            BadBody: it isn't multipart/form-data as announced.
            SpecError: a field is unknown or too long, or there is no file.
        """
        while (part := await self._next_part()) is not None:
            name, file_name = part
            if name == self._file_field and file_name is not None:
                self.file_name = file_name
                self._files_left -= 1
                return
            self._check_field(name, file_name)
            self.fields[name] = await self._read_field(name)
        raise SpecError(
            f"The form has no file in its field '{self._file_field}'; send it so: {self._curl}"
        )

    async def chunks(self) -> AsyncIterator[bytes]:
        """The file's bytes; ends once the form has arrived, or the next of several files may begin.

        Raises:
            BadBody: the body ends early or isn't multipart.
            SpecError: something follows the file.
        """
        async for data in self._part_data():
            yield data
        if self._most_files == 1:
            await self.next_file()

    async def next_file(self) -> bool:
        """Go on to the next file, `file_name` then being its; False: the form has ended.

        Raises:
            BadBody: the body ends early or isn't multipart.
            SpecError: a field follows, or one more file than may.
        """
        part = await self._next_part()
        if part is None:
            return False
        name, file_name = part
        if name != self._file_field or file_name is None or self._most_files == 1:
            raise SpecError(
                f"The field '{name}' follows the file '{self._file_field}'; send it before."
            )
        if not self._files_left:
            raise SpecError(
                f"The form has more than {self._most_files:,} files; send several requests."
            )
        self._files_left -= 1
        self.file_name = file_name
        return True

    async def _next_part(self) -> _Part | None:
        while not self._wire.parts:
            if not await self._read_on():
                return None
        return self._wire.parts.popleft()

    async def _part_data(self) -> AsyncIterator[bytes]:
        """The present part's bytes, to its end."""
        while True:
            while self._wire.data:
                data = self._wire.data.popleft()
                if data is None:
                    return
                yield data
            more = await self._read_on()
            assert more, "a part ends before the form does"

    async def _read_field(self, name: str) -> str:
        value = bytearray()
        async for data in self._part_data():
            value += data
            if len(value) > _FIELD_BYTES:
                raise SpecError(f"The field '{name}' is longer than {_FIELD_BYTES} bytes.")
        return value.decode("utf-8", errors="replace")

    def _check_field(self, name: str, file_name: str | None) -> None:
        if name not in self._known or file_name is not None:
            known = ", ".join((*self._known, self._file_field))
            what = "a file" if file_name is not None else "a field"
            raise SpecError(f"The form has {what} '{name[:100]}'; it takes {known} only.")
        if name in self.fields:
            raise SpecError(f"The form has the field '{name}' twice.")

    async def _read_on(self) -> bool:
        """Parse the next bytes; False at the end of the body."""
        with contextlib.suppress(StopAsyncIteration):
            self._wire.feed(await anext(self._body))
            return True
        if not self._wire.complete:
            raise BadBody("The body ends before its last boundary; send it again.")
        return False


class _Wire:
    """What the parser has found and nobody took yet: parts in `parts`, their bytes in `data`.

    A None in `data` ends a part. A chunk of the body is parsed only when more is wanted, so no
    more than one chunk is kept.
    """

    def __init__(self, boundary: bytes, most_parts: int) -> None:
        self._most_parts = most_parts
        self.parts: deque[_Part] = deque()
        self.data: deque[bytes | None] = deque()
        self.complete = False
        self._headers: dict[str, bytes] = {}
        self._name = bytearray()
        self._value = bytearray()
        self._begun = 0
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._headers.clear,
                    "on_header_field": self._header_field,
                    "on_header_value": self._header_value,
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._headers_finished,
                    "on_part_data": self._part_data,
                    "on_part_end": lambda: self.data.append(None),
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise BadBody(f"The multipart boundary can't be used: {error}.") from error

    def feed(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise BadBody(f"The body isn't multipart/form-data: {error}.") from error

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._name.decode("latin-1").lower()] = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def _headers_finished(self) -> None:
        self._begun += 1
        if self._begun > self._most_parts:
            raise SpecError(f"The form has more than {self._most_parts} parts.")
        encoding = self._headers.get("content-transfer-encoding", b"binary").lower()
        if encoding not in {b"binary", b"8bit", b"7bit"}:
            raise SpecError("The file must be sent as it is, without a transfer encoding.")
        _, options = parse_options_header(self._headers.get("content-disposition", b""))
        if b"name" not in options:
            raise BadBody("A part of the form has no name in its Content-Disposition.")
        file_name = options.get(b"filename")
        self.parts.append(
            (_text(options[b"name"]), None if file_name is None else _base_name(_text(file_name)))
        )

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self.data.append(data[start:end])

    def _end(self) -> None:
        self.complete = True


def _boundary(request: Request, curl: str) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data":
        raise HTTPException(415, f"Send the file as multipart/form-data: {curl} URL")
    boundary = options.get(b"boundary")
    if not boundary:
        raise BadBody("The Content-Type has no boundary; let your HTTP library write it.")
    return boundary


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", errors="replace")


def _base_name(file_name: str) -> str:
    """The name without folders (some browsers send them) and without control characters."""
    base = file_name.replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(c for c in base if c.isprintable())[-_FILE_NAME_CHARACTERS:]
