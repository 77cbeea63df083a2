"""Files out of a `multipart/form-data` body (RFC 7578) as it comes.

The parser is python-multipart's, as for uploads of `dyno up`; here several files come, and what
each is follows from its content.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from visiondyno.api.problems import BadBody
from visiondyno.errors import SpecError, TooLarge
from visiondyno.serving.sniffing import LONGEST_BEGIN_BYTES
from visiondyno.serving.spooled import SpooledFile, SpoolRoom

_LONGEST_NAME = 80

# What is wrong with a body is told to who sent it; in the log anybody could write at will.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)


@dataclass(slots=True)
class FormFile:
    """One file of a form.

    Attributes:
        name: the file's, or the field's where it has none.
        is_named: whether it came with a file name: a plain field has none.
        data: its content, where that isn't in `spooled`.
        spooled: of what goes to a file of its own, as a video does.
    """

    name: str
    is_named: bool
    data: bytearray
    spooled: SpooledFile | None = None


@dataclass(frozen=True, slots=True)
class FormLimits:
    """How much a form may hold: files, and bytes of all that aren't spooled."""

    most_files: int
    most_bytes: int


class FormReader:
    """Feed it the body, then `finish`; `close` deletes what was spooled. May work in a thread."""

    def __init__(
        self,
        content_type: str,
        limits: FormLimits,
        room_for: Callable[[bytes], SpoolRoom | None],
    ) -> None:
        """Needs the Content-Type; `room_for` tells by a file's beginning where it goes.

        Raises:
            BadBody: its boundary is missing, or can't be one.
        """
        boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
        if not boundary:
            raise BadBody("The Content-Type has no boundary; let the HTTP client set it.")
        self._limits = limits
        self._room_for = room_for
        self._files: list[FormFile] = []
        self._field = bytearray()
        self._value = bytearray()
        self._disposition = ""
        self._kept_bytes = 0
        self._ended = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_begin": self._begin_header,
                    "on_header_field": self._take_field,
                    "on_header_value": self._take_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._begin_file,
                    "on_part_data": self._take_data,
                    "on_part_end": self._end_file,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise BadBody(f"The form's boundary can't be one: {error}.") from error

    def feed(self, data: bytes) -> None:
        """The next bytes.

        Raises:
            BadBody: it isn't multipart/form-data.
            SpecError: a part is no file, or a video or zip file isn't the only one.
            TooLarge: it has too many files, or too many bytes.
        """
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise BadBody(f"The body isn't multipart/form-data as it says: {error}.") from error

    def finish(self) -> list[FormFile]:
        """The files, in order.

        Raises:
            BadBody: the body stops before its end.
            SpecError: there is no file.
        """
        if not self._ended:
            raise BadBody("The form stops before its closing boundary; send all of it.")
        if not self._files:
            raise SpecError("The form has no file; send images as its files (curl -F file=@FILE).")
        return self._files

    def close(self) -> None:
        """Delete what was spooled."""
        for file in self._files:
            if file.spooled is not None:
                file.spooled.close()

    def _begin(self) -> None:
        self._disposition = ""

    def _begin_header(self) -> None:
        self._field.clear()
        self._value.clear()

    def _take_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _take_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if bytes(self._field).lower() == b"content-disposition":
            self._disposition = self._value.decode("utf-8", "replace")

    def _begin_file(self) -> None:
        self._check_alone()
        if len(self._files) >= self._limits.most_files:
            raise TooLarge(
                f"The form has more than the {self._limits.most_files} files that one request may "
                "have. Send several requests, or raise --max-images."
            )
        # The parser of headers wants Latin-1, and clients send UTF-8.
        latin = self._disposition.encode().decode("latin-1")
        given = parse_options_header(latin)[1]
        name = given.get(b"filename", given.get(b"name", b"")).decode("utf-8", "replace")
        self._files.append(FormFile(name[:_LONGEST_NAME], b"filename" in given, bytearray()))

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        file = self._files[-1]
        if file.spooled is not None:
            file.spooled.write(memoryview(data)[start:end])
            return
        known = len(file.data) >= LONGEST_BEGIN_BYTES
        file.data += data[start:end]
        self._kept_bytes += end - start
        if not known and len(file.data) >= LONGEST_BEGIN_BYTES:
            self._divert(file)
        if self._kept_bytes > self._limits.most_bytes:
            raise TooLarge(
                f"The form's images have more than the {self._limits.most_bytes / 1e6:g} MB that "
                "one request may have. Send fewer or smaller ones, or raise --max-body-mb."
            )

    def _divert(self, file: FormFile) -> None:
        """What is large by its kind goes to a file of its own."""
        room = self._room_for(bytes(file.data[:LONGEST_BEGIN_BYTES]))
        if room is not None:
            if len(self._files) > 1:
                raise _not_alone(room.what)
            file.spooled = room.take()
            file.spooled.write(bytes(file.data))
            self._kept_bytes -= len(file.data)
            file.data = bytearray()

    def _check_alone(self) -> None:
        """What is large comes alone: or one request could take all the room that there is."""
        for file in self._files:
            if file.spooled is not None:
                raise _not_alone(file.spooled.what)

    def _end_file(self) -> None:
        file = self._files[-1]
        if file.spooled is None and 0 < len(file.data) < LONGEST_BEGIN_BYTES:
            self._divert(file)
        if file.spooled is None and not file.is_named and len(file.data) < LONGEST_BEGIN_BYTES:
            raise SpecError(
                f"The form's field '{file.name}' is no file; files are what is predicted, and "
                "options go into the address (?conf=0.5)."
            )
        if file.spooled is not None:
            file.spooled.flush()

    def _end(self) -> None:
        self._ended = True


def _not_alone(what: str) -> SpecError:
    return SpecError(f"A {what} comes alone; send it in a request of its own.")
