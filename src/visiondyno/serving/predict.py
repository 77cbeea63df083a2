"""`POST /predict`: images in, predictions out.

An ASGI application of its own rather than a route with typed parameters: at thousands of requests a
second the validation of a signature costs more than all the rest of the front.
"""

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from visiondyno.api.limits import LimitedBody
from visiondyno.api.problems import problem_response
from visiondyno.errors import VisionDynoError, error_classes
from visiondyno.serving.asgi import read_body, unless_gone
from visiondyno.serving.config import ServingConfig
from visiondyno.serving.inference import Inference, server_timing
from visiondyno.serving.pool import Predicted
from visiondyno.serving.wire import Answer, Item, Kind, Media

_MEDIA_TYPES = {
    Media.JSON: b"application/json",
    Media.JPEG: b"image/jpeg",
    Media.PNG: b"image/png",
}


class PredictEndpoint:
    """See the module's text."""

    def __init__(self, inference: Inference, config: ServingConfig) -> None:
        self._inference = inference
        self._config = config
        self._opening = b'{"model":"' + config.model_name.encode() + b'","predictions":['

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        limited = LimitedBody(receive, self._config.max_body_bytes)
        limited.check_declared(Headers(scope=scope).get("content-length", ""))
        body = await read_body(limited)
        items = [Item(Kind.IMAGE, body, {})]
        predicted = await unless_gone(self._inference.predict(items), receive)
        failed = next((one.answer for one in predicted if one.answer.status >= 400), None)
        if failed is not None:
            await answer_problem(failed, scope, receive, send)
            return
        media = predicted[0].answer.media
        if media is Media.JSON:
            content = self._opening + b",".join(one.answer.body for one in predicted) + b"]}"
        else:
            content = predicted[0].answer.body
        await respond(content, _MEDIA_TYPES[media], predicted, send)


async def respond(
    content: bytes, media_type: bytes, predicted: Sequence[Predicted], send: Send
) -> None:
    """A 200 with `Server-Timing`."""
    headers = [
        (b"content-type", media_type),
        (b"content-length", str(len(content)).encode()),
        (b"server-timing", server_timing(predicted).encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})


async def answer_problem(answer: Answer, scope: Scope, receive: Receive, send: Send) -> None:
    """The problem document of an item's own error."""
    import json

    told = json.loads(answer.body)
    response = problem_response(scope["path"], answer.status, told["code"], told["message"])
    await response(scope, receive, send)


def error_of(answer: Answer) -> VisionDynoError:
    """The error that a problem answer tells of."""
    import json

    told = json.loads(answer.body)
    kind = error_classes().get(told["code"], VisionDynoError)
    error = kind.__new__(kind)
    Exception.__init__(error, told["message"])
    return error
