"""A zip file of images through the model, one image after the other, each with its own answer.

Neither the archive nor the answer is ever whole in memory: an image is read from the file when it
is its turn, and what came of it is sent before many others are read.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Coroutine, Mapping
from typing import Any

from pydantic_core import to_json
from starlette.requests import ClientDisconnect
from starlette.types import Send

from visiondyno.datasets.image_archive import ArchiveLimits, ImageArchive
from visiondyno.errors import NotReady, RateLimited, VisionDynoError
from visiondyno.serving.ahead import in_order, most_ahead, room_in_queue
from visiondyno.serving.archive_answers import ArchiveAnswer
from visiondyno.serving.config import ServingConfig
from visiondyno.serving.inference import Inference
from visiondyno.serving.sniffing import check_image
from visiondyno.serving.spooled import SpooledFile
from visiondyno.serving.wire import Answer, Item, Kind, Media

PREDICTED_AT_ONCE = 4
"""Archives; further ones wait, on the disk."""

_TOO_MUCH = "Send several zip files, or raise --max-zip-images or --max-zip-unpacked-mb."


class Archives:
    """Predicts zip files, `PREDICTED_AT_ONCE` at a time."""

    def __init__(self, inference: Inference, config: ServingConfig) -> None:
        self._inference = inference
        self._time_limit_s = config.time_limit_s
        self._ahead = most_ahead(config)
        self._most_pixels = config.max_megapixels * 1e6
        self._limits = ArchiveLimits(
            config.max_zip_images,
            int(config.max_zip_unpacked_mb * 1e6),
            config.max_body_bytes,
            _TOO_MUCH,
        )
        self._turns = asyncio.Semaphore(PREDICTED_AT_ONCE)

    async def answer(
        self, file: SpooledFile, form: ArchiveAnswer, options: Mapping[str, Any], send: Send
    ) -> None:
        """Predict the images of a zip file, and send what comes of them as it comes.

        What is wrong with one of them is told at its place, and the others are answered. Until the
        first image's answer nothing is sent, so that a full queue still is a refusal.

        Raises:
            DatasetError, SpecError, TooLarge: the zip file is refused; see `ImageArchive`.
            RateLimited, NotReady: it isn't its turn within the time limit, or its first image is
                refused.
            ClientDisconnect: nobody reads the answer.
        """
        async with self._turn():
            archive = await self._opened(file)
            answers = in_order(self._works(archive, options), self._ahead)
            with archive:
                async with contextlib.aclosing(answers):
                    first = await anext(answers)
                    await self._send(send, _start(form.media_type))
                    await self._send(send, _body(form.begin(archive.names, archive.skipped)))
                    await self._send(send, _body(form.add(archive.names[0], first)))
                    for name in archive.names[1:]:
                        await self._send(send, _body(form.add(name, await anext(answers))))
                    await self._send(send, _body(form.end(), more=False))

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncGenerator[None, None]:
        try:
            async with asyncio.timeout(self._time_limit_s):
                await self._turns.acquire()
        except TimeoutError:
            late = RateLimited(
                f"{PREDICTED_AT_ONCE} other zip files were predicted all the "
                f"{self._time_limit_s:g} s; come again later.",
                retry_after_s=self._time_limit_s,
            )
            self._inference.refused(late)
            raise late from None
        try:
            yield
        finally:
            self._turns.release()

    async def _opened(self, file: SpooledFile) -> ImageArchive:
        try:
            return await asyncio.to_thread(ImageArchive, file.path, self._limits)
        except VisionDynoError as error:
            self._inference.refused(error)
            raise

    async def _works(
        self, archive: ImageArchive, options: Mapping[str, Any]
    ) -> AsyncGenerator[Coroutine[Any, Any, Answer], None]:
        for index in range(len(archive.names)):
            found = await asyncio.to_thread(self._read, archive, index)
            yield self._predict(found, options, is_first=index == 0)

    def _read(self, archive: ImageArchive, index: int) -> bytes | VisionDynoError:
        try:
            image = archive.read(index)
            check_image(image, f"'{archive.names[index]:.200}'", self._most_pixels)
        except VisionDynoError as error:
            # The raised one refers to the image, and to itself by way of the thread's frames.
            return type(error)(error.message)
        return image

    async def _predict(
        self, found: bytes | VisionDynoError, options: Mapping[str, Any], *, is_first: bool
    ) -> Answer:
        if isinstance(found, VisionDynoError):
            self._inference.refused(found)
            return _problem(found)
        try:
            await room_in_queue(self._inference.pool, self._time_limit_s)
            item = Item(Kind.IMAGE, found, dict(options))
            (predicted,) = await self._inference.predict([item])
        except VisionDynoError as error:
            if is_first and isinstance(error, RateLimited | NotReady):
                raise
            return _problem(error)
        return predicted.answer

    async def _send(self, send: Send, message: dict[str, Any]) -> None:
        """Send on; who doesn't read for as long as a request may take isn't waited for."""
        try:
            async with asyncio.timeout(self._time_limit_s):
                await send(message)
        except TimeoutError:
            raise ClientDisconnect from None


def _start(media_type: bytes) -> dict[str, Any]:
    headers = [(b"content-type", media_type)]
    return {"type": "http.response.start", "status": 200, "headers": headers}


def _body(content: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": content, "more_body": more}


def _problem(error: VisionDynoError) -> Answer:
    body = to_json({"code": error.code, "message": error.message})
    return Answer(error.http_status, Media.PROBLEM, body)
