"""Forms as browsers send them, with limits that hold while the body streams in."""

from collections.abc import AsyncGenerator, AsyncIterator

from python_multipart.exceptions import FormParserError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import FormParser, MultiPartException, MultiPartParser
from starlette.requests import Request

from visiondyno.errors import SpecError, StorageFull, TooLarge
from visiondyno.report.format import number

SMALL_BYTES = 200_000
"""Enough for every form without a file."""

_ENVELOPE_BYTES = 100_000
"""What a form adds to the file inside it, at most."""

_FIELDS = 100
_CHUNK_BYTES = 1 << 20


async def read_form(request: Request, max_file_bytes: int | None = None) -> FormData:
    """The fields of a form, and its file where one may be sent (`max_file_bytes` is given).

    A file goes to a temporary file on disk as it arrives, never into memory as a whole.

    Raises:
        TooLarge: more bytes than are taken; the rest isn't read.
        SpecError: it is no form, or a broken one.
        StorageFull: the disk for temporary files is full.
    """
    if max_file_bytes is None:
        limit, what = SMALL_BYTES, "The form"
    else:
        limit, what = max_file_bytes + _ENVELOPE_BYTES, "The file"
    stream = _limited(request, limit, f"{what} is larger than {number(limit / 1e6)} MB.")
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    parser: MultiPartParser | FormParser
    if kind == "multipart/form-data":
        files = 0 if max_file_bytes is None else 1
        parser = MultiPartParser(request.headers, stream, max_files=files, max_fields=_FIELDS)
    else:
        parser = FormParser(request.headers, stream, max_fields=_FIELDS)
    try:
        return await parser.parse()
    except (MultiPartException, FormParserError) as error:
        said = error.message if isinstance(error, MultiPartException) else str(error)
        raise SpecError(f"The form can't be read: {said} Send it from its page again.") from error
    except OSError as error:
        raise StorageFull(
            f"The file couldn't be kept while it arrived: {error.strerror}. Nothing was taken in; "
            "free space in the server's temporary folder and send it again."
        ) from error
    finally:
        await stream.aclose()


def text_of(form: FormData, name: str) -> str:
    """The text of a field, trimmed; empty if it wasn't sent."""
    value = form.get(name, "")
    return value.strip() if isinstance(value, str) else ""


def texts_of(form: FormData, name: str) -> tuple[str, ...]:
    """All values of a field that may be ticked several times."""
    return tuple(value for value in form.getlist(name) if isinstance(value, str))


async def chunks_of(file: UploadFile) -> AsyncIterator[bytes]:
    """The file's bytes, a piece at a time."""
    while chunk := await file.read(_CHUNK_BYTES):
        yield chunk


async def _limited(request: Request, limit: int, message: str) -> AsyncGenerator[bytes, None]:
    told = request.headers.get("content-length", "")
    if told.isdecimal() and int(told) > limit:
        raise TooLarge(message)
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
        if total > limit:
            raise TooLarge(message)
        yield chunk
