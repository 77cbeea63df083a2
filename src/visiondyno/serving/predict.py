"""`POST /predict`: images in, predictions out.

An ASGI application of its own rather than a route with typed parameters: at thousands of requests a
second the validation of a signature costs more than all the rest of the front.
"""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from visiondyno.api.problems import FieldProblem, problem_response
from visiondyno.errors import SpecError, VisionDynoError
from visiondyno.serving.archive_answers import LINES, answer_in, lines
from visiondyno.serving.archives import Archives
from visiondyno.serving.asgi import unless_gone
from visiondyno.serving.asked import Asked, options_of, read_asked
from visiondyno.serving.config import ServingConfig
from visiondyno.serving.inference import Inference, server_timing
from visiondyno.serving.inputs import Fetch, Inputs, Sent, read_head
from visiondyno.serving.pool import Predicted
from visiondyno.serving.spooled import SpooledFile
from visiondyno.serving.tracked import with_tracks
from visiondyno.serving.video import PredictedVideo, Videos
from visiondyno.serving.wire import Item, Kind, Media
from visiondyno.specs.operations import DEFAULT_CONFIDENCE
from visiondyno.vision.video_form import LOW_SCORE

_MEDIA_TYPES = {
    Media.JSON: b"application/json",
    Media.JPEG: b"image/jpeg",
    Media.PNG: b"image/png",
}
_KEPT = 256
_LONGEST_KEPT = 300

Wishes = tuple[Asked, dict[str, Any]]


class PredictEndpoint:
    """See the module's text."""

    def __init__(self, inference: Inference, config: ServingConfig, fetch: Fetch) -> None:
        self._inference = inference
        self._config = config
        self._inputs = Inputs(config, fetch)
        self._videos = Videos(inference, config)
        self._archives = Archives(inference, config)
        self._wishes: dict[tuple[bytes, str], Wishes] = {}
        self._sets_options = any(
            value is not None for value in (config.conf, config.iou, config.classes or None)
        )
        self._opening = b'{"model":"' + config.model_name.encode() + b'",'

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = read_head(scope)
        try:
            asked, options = await self._wanted(scope["query_string"], head.accept)
            sent = await self._inputs.read(head, receive)
        except (VisionDynoError, HTTPException) as error:
            self._inference.refused(error)
            raise
        try:
            self._check(asked, sent)
            if sent.archive is not None:
                form = answer_in(asked.form, self._opening)
                answering = self._archives.answer(sent.archive, form, options, send)
                await unless_gone(answering, receive, scope)
                return
            if sent.video is not None:
                work = self._predict_video(sent.video, asked, options)
                video = await unless_gone(work, receive, scope)
                await self._answer_video(video, asked, scope, receive, send)
                return
            items = [Item(Kind.IMAGE, image, options) for image in sent.images]
            predicted = await unless_gone(self._inference.predict(items), receive, scope)
        finally:
            sent.close()
        if any(one.answer.status >= 400 for one in predicted):
            await problem_of(predicted, scope["path"])(scope, receive, send)
            return
        if asked.form == "ndjson":
            content = lines(self._opening, b"", [one.answer.body for one in predicted])
            await respond(content, LINES, predicted, send)
            return
        media = predicted[0].answer.media
        content = self.whole(predicted) if media is Media.JSON else predicted[0].answer.body
        await respond(content, _MEDIA_TYPES[media], predicted, send)

    def whole(self, predicted: Sequence[Predicted]) -> bytes:
        """The answer to a request for these predictions, as JSON."""
        bodies = b",".join(one.answer.body for one in predicted)
        return self._opening + b'"predictions":[' + bodies + b"]}"

    def known_wishes(self, query: bytes, accept: str) -> Wishes | None:
        """What such a request wants, if one was here before; most want what others wanted."""
        return self._wishes.get((query, accept))

    async def _wanted(self, query: bytes, accept: str) -> Wishes:
        key = (query, accept)
        found = self._wishes.get(key)
        if found is not None:
            return found
        asked = read_asked(query.decode("latin-1"), accept)
        if asked.needs_model or self._sets_options:
            options = options_of(asked, self._config, await self._inference.pool.described())
        else:
            options = asked.of_items
        if len(query) + len(accept) <= _LONGEST_KEPT:
            if len(self._wishes) >= _KEPT:
                self._wishes.clear()
            self._wishes[key] = asked, options
        return asked, options

    def _check(self, asked: Asked, sent: Sent) -> None:
        """What query and body don't say apart.

        Raises:
            SpecError: they don't fit.
        """
        if sent.video is None and asked.of_video:
            wrong = SpecError(f"'{asked.of_video[0]}' chooses frames of a video; this is none.")
        elif asked.of_items and (sent.video is not None or len(sent.images) > 1):
            wrong = SpecError(
                f"A picture is the answer to one image; leave 'format={asked.form}' (or the Accept "
                "header) away, or send one image, or several in a zip file."
            )
        else:
            return
        self._inference.refused(wrong)
        raise wrong

    async def _predict_video(
        self, video: SpooledFile, asked: Asked, options: dict[str, Any]
    ) -> PredictedVideo:
        if not asked.track:
            return await self._videos.predict(video, asked.frames, options)
        least = options.get("conf", DEFAULT_CONFIDENCE)
        lower = {**options, "conf": min(least, LOW_SCORE)}
        found = await self._videos.predict(video, asked.frames, lower)
        return await asyncio.to_thread(with_tracks, found, asked.frames, least)

    async def _answer_video(
        self, video: PredictedVideo, asked: Asked, scope: Scope, receive: Receive, send: Send
    ) -> None:
        predicted = [frame.predicted for frame in video.frames]
        failed = next((one for one in video.frames if one.predicted.answer.status >= 400), None)
        if failed is not None:
            told = json.loads(failed.predicted.answer.body)
            detail = f"Frame {failed.number} of the video: {told['message']}"
            status = failed.predicted.answer.status
            response = problem_response(scope["path"], status, told["code"], detail)
            await response(scope, receive, send)
            return
        bodies = [
            b'{"frame":%d,"time_s":%b,%b'
            % (frame.number, _seconds(frame.time_s), frame.predicted.answer.body[1:])
            for frame in video.frames
        ]
        said = b'"video":' + to_json(video.said) + b',"notes":' + to_json(video.notes) + b","
        if asked.form == "ndjson":
            await respond(lines(self._opening, said, bodies), LINES, predicted, send)
            return
        content = self._opening + said + b'"predictions":[' + b",".join(bodies) + b"]}"
        await respond(content, _MEDIA_TYPES[Media.JSON], predicted, send)


def _seconds(time_s: float | None) -> bytes:
    return to_json(None if time_s is None else round(time_s, 6))


async def respond(
    content: bytes, media_type: bytes, predicted: Sequence[Predicted], send: Send
) -> None:
    """A 200 with `Server-Timing`."""
    headers = [
        (b"content-type", media_type),
        (b"content-length", str(len(content)).encode()),
    ]
    if predicted:
        headers.append((b"server-timing", server_timing(predicted).encode()))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def problem_of(predicted: Sequence[Predicted], path: str) -> Response:
    """The problem document of the items that have no prediction.

    The whole request fails: a client that reads on would take half of a batch for all of it. The
    document's `errors` names each such image by its place, from 0.
    """
    told = {
        place: json.loads(one.answer.body)
        for place, one in enumerate(predicted)
        if one.answer.status >= 400
    }
    first = min(told, key=lambda place: (-predicted[place].answer.status, place))
    detail, errors = told[first]["message"], None
    if len(predicted) > 1:
        detail = f"Image {first + 1} of {len(predicted)}: {detail}"
        errors = [
            FieldProblem(field=f"images.{place}", message=one["message"])
            for place, one in told.items()
        ]
    status = predicted[first].answer.status
    return problem_response(path, status, told[first]["code"], detail, errors=errors)
