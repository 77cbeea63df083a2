"""Images, videos and zip files out of the body of a request, in every form that is taken."""

import asyncio
import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from pydantic_core import from_json
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from visiondyno.api.problems import BadBody
from visiondyno.datasets.image_archive import is_zip
from visiondyno.errors import SpecError, TooLarge, UnsupportedMedia
from visiondyno.serving.config import ServingConfig
from visiondyno.serving.forms import FormFile, FormLimits, FormReader
from visiondyno.serving.sniffing import LONGEST_BEGIN_BYTES, TAKEN, check_image, is_video
from visiondyno.serving.spooled import SpooledFile, SpoolRoom

_OFF_THE_LOOP_BYTES = 64_000
_BLOCK_BYTES = 512_000
_ENVELOPE_BYTES = 1_000_000
T = TypeVar("T")


class Fetch(Protocol):
    """Gets what URLs name."""

    async def all(self, urls: Sequence[str]) -> list[bytes]:
        """Each one's content, in order."""


@dataclass(slots=True)
class Head:
    """What of a request's headers matters here; "" where it wasn't sent."""

    content_type: str = ""
    accept: str = ""
    encoding: str = ""
    length: int | None = None


@dataclass(slots=True)
class Sent:
    """What came: images, or one video, or one zip file; close it after its use.

    Attributes:
        images: encoded files, each checked as far as that needs no decoder.
        video: not looked into yet.
        archive: a zip file, not looked into yet.
    """

    images: list[bytes] = field(default_factory=list)
    video: SpooledFile | None = None
    archive: SpooledFile | None = None

    def close(self) -> None:
        """Delete what is on the disk."""
        for file in (self.video, self.archive):
            if file is not None:
                file.close()


def read_head(scope: Scope) -> Head:
    """The headers that matter, in one pass: this runs for each request."""
    head = Head()
    for name, value in scope["headers"]:
        if name == b"content-type":
            head.content_type = value.decode("latin-1")
        elif name == b"accept":
            head.accept = value.decode("latin-1")
        elif name == b"content-length":
            # The HTTP parser takes digits only; beyond 18 of them it is too large for anything.
            head.length = int(value[:18]) if value.isdigit() else None
        elif name == b"content-encoding":
            head.encoding = value.decode("latin-1").strip().lower()
    return head


class Inputs:
    """Reads bodies within the limits of a configuration."""

    def __init__(self, config: ServingConfig, fetch: Fetch) -> None:
        self._most_bytes = config.max_body_bytes
        self._most_images = config.max_images
        self._most_pixels = config.max_megapixels * 1e6
        self._videos = SpoolRoom("video", int(config.max_video_mb * 1e6), "--max-video-mb")
        self._archives = SpoolRoom("zip file", int(config.max_zip_mb * 1e6), "--max-zip-mb")
        self._fetch = fetch

    async def read(self, head: Head, receive: Receive) -> Sent:
        """What a request sent.

        Raises:
            ClientDisconnect: the client hung up.
            BadBody: the body is empty, or isn't what it says.
            SpecError, DatasetError, UnsupportedMedia, TooLarge: an image can't be taken.
            UrlRefused, SourceFailed: a URL isn't fetched, or couldn't be.
            RateLimited: too many videos or zip files at once.
        """
        if head.encoding not in ("", "identity"):
            raise UnsupportedMedia(
                f"The body is compressed ({head.encoding:.40}); images are already: send it plain."
            )
        kind = head.content_type.split(";", 1)[0].strip().lower()
        if kind == "multipart/form-data":
            return await self._form(head, receive)
        if kind == "application/json":
            return await self._json(head, receive)
        return await self._file(head, receive)

    async def _file(self, head: Head, receive: Receive) -> Sent:
        """A body that is the file itself."""
        parts: list[bytes] = []
        size, sniffed, more = 0, False, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            more = message.get("more_body", False)
            if not sniffed and (size >= LONGEST_BEGIN_BYTES or not more):
                sniffed = True
                begin = b"".join(parts)
                room = self._room_for(begin[:LONGEST_BEGIN_BYTES])
                if room is not None:
                    return await self._spool(room, head, begin, receive, more=more)
                self._check_length(head.length or 0)
            self._check_length(size)
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        if not data:
            raise BadBody(f"The body is empty. {TAKEN}")
        check_image(data, "The image", self._most_pixels)
        return Sent([data])

    def _room_for(self, begin: bytes) -> SpoolRoom | None:
        """Where a file with this beginning goes, if it isn't kept in memory."""
        if is_video(begin):
            return self._videos
        return self._archives if is_zip(begin) else None

    async def _spool(
        self, room: SpoolRoom, head: Head, begin: bytes, receive: Receive, *, more: bool
    ) -> Sent:
        if (head.length or 0) > room.most_bytes:
            raise room.too_large()
        file = room.take()
        try:
            file.write(begin)
            if more:
                await _in_blocks(receive, file.write)
            await asyncio.to_thread(file.flush)
        except BaseException:
            file.close()
            raise
        return self._spooled(file)

    def _spooled(self, file: SpooledFile) -> Sent:
        is_archive = file.what == self._archives.what
        return Sent(archive=file) if is_archive else Sent(video=file)

    async def _form(self, head: Head, receive: Receive) -> Sent:
        most = max(self._videos.most_bytes, self._archives.most_bytes, self._most_bytes)
        if (head.length or 0) > most + _ENVELOPE_BYTES:
            raise self._too_large()
        limits = FormLimits(self._most_images, self._most_bytes)
        reader = FormReader(head.content_type, limits, self._room_for)
        try:
            await _in_blocks(receive, reader.feed)
            return self._sent(reader.finish())
        except BaseException:
            reader.close()
            raise

    def _sent(self, files: list[FormFile]) -> Sent:
        if files[0].spooled is not None:
            return self._spooled(files[0].spooled)
        images = [bytes(file.data) for file in files]
        self._check_images(images, [f"'{file.name}'" if file.name else "" for file in files])
        return Sent(images)

    async def _json(self, head: Head, receive: Receive) -> Sent:
        self._check_length(head.length or 0)
        parts: list[bytes] = []
        await _each_chunk(receive, parts.append, self._check_length)
        body = b"".join(parts)
        if not body:
            raise BadBody('The body is empty; send {"image": BASE64} or {"url": URL}.')
        key, given = await _off_the_loop(len(body), lambda: json_input(body, self._most_images))
        if key.startswith("url"):
            images = await self._fetch.all(given)
        else:
            images = await _off_the_loop(len(body), lambda: [*map(_decoded, given, _names(given))])
        self._check_images(images, [""] * len(images))
        return Sent(images)

    def _check_images(self, images: list[bytes], names: list[str]) -> None:
        for name, image, called in zip(_names(images), images, names, strict=True):
            shown = f"{name} ({called})" if called else name
            check_image(image, shown, self._most_pixels)

    def _check_length(self, size: int) -> None:
        if size > self._most_bytes:
            raise self._too_large()

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"The body is larger than the {self._most_bytes / 1e6:g} MB that a request may have. "
            "Send fewer or smaller images, or raise --max-body-mb."
        )


def json_input(body: bytes, most_images: int) -> tuple[str, list[str]]:
    """Which of `image`, `images`, `url` and `urls` a body has, and its texts.

    Raises:
        BadBody: it isn't JSON.
        SpecError: it has another form.
        TooLarge: it has too many images.
    """
    try:
        content = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise BadBody(f"The body isn't JSON: {error!s:.200}.") from error
    form = 'send {"image": BASE64}, {"images": […]}, {"url": URL} or {"urls": […]}'
    if not isinstance(content, dict) or len(content) != 1:
        raise SpecError(f"The JSON body must be an object with one key: {form}.")
    ((key, value),) = content.items()
    if key not in ("image", "images", "url", "urls"):
        raise SpecError(f"The JSON body has the key '{key:.80}'; {form}.")
    given: Any = value if key.endswith("s") else [value]
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        sort = "a list of texts" if key.endswith("s") else "a text"
        raise SpecError(f"'{key}' in the JSON body must be {sort}; {form}.")
    if not given:
        raise SpecError(f"'{key}' in the JSON body is empty; give at least one.")
    if len(given) > most_images:
        raise TooLarge(
            f"'{key}' has {len(given)} entries, more than the {most_images} that one request may "
            "have. Send several requests, or raise --max-images."
        )
    return key, given


def _decoded(text: str, name: str) -> bytes:
    """An image of base64, also of a data URL, and broken into lines as `base64` writes it."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise SpecError(
            f"{name} isn't base64 (RFC 4648, section 4); encode the file's bytes with it."
        ) from None


def _names(images: Sequence[object]) -> list[str]:
    """What messages call them: `The image`, or `Image 2 of 3`."""
    if len(images) == 1:
        return ["The image"]
    return [f"Image {number} of {len(images)}" for number in range(1, len(images) + 1)]


async def _each_chunk(
    receive: Receive, take: Callable[[bytes], None], check_size: Callable[[int], None]
) -> None:
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        size += len(chunk)
        check_size(size)
        take(chunk)
        more = message.get("more_body", False)


async def _in_blocks(receive: Receive, take: Callable[[bytes], None]) -> None:
    """The rest of a body in large blocks, each taken in a thread."""
    block = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        block += message.get("body", b"")
        more = message.get("more_body", False)
        if len(block) >= _BLOCK_BYTES or not more:
            await asyncio.to_thread(take, bytes(block))
            block.clear()


async def _off_the_loop(size_bytes: int, work: Callable[[], T]) -> T:
    """`work`, in a thread where so many bytes would hold up other requests."""
    if size_bytes > _OFF_THE_LOOP_BYTES:
        return await asyncio.to_thread(work)
    return work()
