"""The OpenAPI document of an inference server.

`/predict` is described here by hand, since it isn't a typed route (see `predict`); a test holds the
description against a live server.
"""

from typing import Any

from fastapi import FastAPI

from visiondyno.api.problems import Problem, problems
from visiondyno.serving.config import ServingConfig

_DESCRIPTION = """\
Predictions of one model. `POST /predict` takes images in any usual form; `/v2` is the Open \
Inference Protocol (KServe's) beside it. Errors are problem documents (RFC 9457), but those of \
`/v2`. Each answer has `X-Request-Id`, and each prediction `Server-Timing` with the milliseconds \
of its stages."""

_TAGS = [
    {"name": "predict", "description": "Images in, predictions out."},
    {"name": "operations", "description": "For monitoring; no key is needed."},
]
_PREDICT = """\
Predict images, or a video.

The body is an image file itself (whatever its Content-Type; JPEG, PNG, WebP or BMP by its \
content), a form with files, JSON with base64 or URLs, a zip file of images, or a video. Several \
images are answered in their order; where one can't be predicted, none is, and `errors` names it.

Files of a zip are answered each for itself and as they are done, with `name` beside each; what \
isn't an image has `error` in its place. With `format=annotated` the answer is a zip of pictures.

Pixels count as they are stored: an EXIF orientation isn't applied."""

_FORMAT = """\
`jpeg` (`annotated`) or `png`: one image, or each of a zip, with its predictions drawn. `ndjson`: \
a prediction a line, after a line about the answer. Also by `Accept`."""

_NUMBER = {"type": "number"}
_COUNT = {"type": "integer", "minimum": 0}
_PATH_ITEM = "/predict"


def _said(schema: dict[str, Any], text: str) -> dict[str, Any]:
    return {**schema, "description": text}


_DEPTH = {
    "data": _said({"type": "string"}, "Base64 of little-endian float32, row by row."),
    "dtype": {"type": "string", "const": "float32"},
    "shape": _said({"type": "array", "items": _COUNT}, "Height and width."),
    "unit": _said(
        {
            "type": "string",
            "enum": ["metres", "1/metres", "relative_depth", "relative_inverse_depth"],
        },
        "What a value means, by the model's card; relative: up to scale and shift.",
    ),
}
_VIDEO = {
    "width": _COUNT,
    "height": _COUNT,
    "frames_per_second": {"type": ["number", "null"]},
    "frames_announced": {"type": ["integer", "null"]},
}

_ARCHIVE = {
    "files": _said(_COUNT, "That are answered."),
    "skipped": _said(
        {"type": "array", "items": {"type": "string"}},
        "Names of files that were passed over: `__MACOSX`, dot files, `Thumbs.db`, `desktop.ini`.",
    ),
}
_NAME = _said({"type": "string"}, "Of a zip file: the name in it.")
_FILE_ERROR = {
    "name": _NAME,
    "error": {
        "type": "object",
        "description": "Why this file of a zip has no prediction, as a problem has it.",
        "required": ["status", "code", "message"],
        "properties": {
            "status": {"type": "integer"},
            "code": {"type": "string"},
            "message": {"type": "string"},
        },
    },
}


class ServingApi(FastAPI):
    """FastAPI whose document tells of `/predict` too, and of problems."""

    def __init__(self, config: ServingConfig, **options: Any) -> None:
        """`options` of FastAPI."""
        super().__init__(description=_DESCRIPTION, openapi_tags=_TAGS, **options)
        self._config = config

    def openapi(self) -> dict[str, Any]:
        """The document."""
        if self.openapi_schema is None:
            document = super().openapi()
            document["paths"] = {
                _PATH_ITEM: {"post": predict_operation(self._config)},
                **document["paths"],
            }
            for item in document["paths"].values():
                for operation in item.values():
                    operation["summary"] = operation["description"].split("\n")[0].rstrip(".")
            components = document.setdefault("components", {})
            schemas = components.setdefault("schemas", {})
            schemas |= predicted_schemas()
            problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= problem.pop("$defs", {})
            schemas["Problem"] = problem
            if self._config.keys_file is not None:
                key = {"type": "http", "scheme": "bearer", "description": "A line of --keys-file."}
                components["securitySchemes"] = {"ApiKey": key}
        assert self.openapi_schema is not None, "super().openapi() keeps what it makes"
        return self.openapi_schema


def predict_operation(config: ServingConfig) -> dict[str, Any]:
    """`POST /predict` as an operation object."""
    of_keys = (401,) if config.keys_file is not None else (403,)
    refusals = problems(400, *of_keys, 413, 415, 422, 424, 429, 500, 503, 504, 507)
    for status in (429, 503):
        refusals[status]["headers"] = {
            "Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}
        }
    answers: dict[str, Any] = {str(status): told for status, told in refusals.items()}
    answers["408"] = {
        "description": "The request didn't come in time",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
    operation: dict[str, Any] = {
        "tags": ["predict"],
        "operationId": "predict",
        "description": _PREDICT,
        "parameters": _parameters(),
        "requestBody": {"required": True, "content": _bodies(config)},
        "responses": {"200": _answer(), **answers},
    }
    if config.keys_file is not None:
        operation["security"] = [{"ApiKey": []}]
    return operation


def _parameters() -> list[dict[str, Any]]:
    share = {**_NUMBER, "minimum": 0, "maximum": 1}
    count = {"type": "integer", "minimum": 1, "maximum": 10**9}
    said = [
        ("conf", share, "Lowest score that is answered."),
        ("iou", share, "Of two boxes that overlap more, the worse is left out (models with NMS)."),
        (
            "classes",
            {"type": "array", "items": {"type": "string", "minLength": 1}},
            "Names or ids of the classes that are answered, also as `a,b`.",
        ),
        (
            "format",
            {
                "type": "string",
                "enum": ["json", "ndjson", "jpeg", "jpg", "png", "annotated"],
            },
            _FORMAT,
        ),
        ("every", count, "Of a video: each so many-th frame."),
        (
            "fps",
            {**_NUMBER, "minimum": 1e-6, "maximum": 1e6},
            "Of a video: so many frames of each second.",
        ),
        ("start_s", {**_NUMBER, "minimum": 0, "maximum": 1e9}, "Of a video: begin here, seconds."),
        ("end_s", {**_NUMBER, "minimum": 0, "maximum": 1e9}, "Of a video: end here, seconds."),
        ("max_frames", count, "Of a video: stop after so many frames."),
        ("track", {"type": "boolean"}, "Of a video: number the objects that a detector finds."),
    ]
    return [
        {"name": name, "in": "query", "required": False, "schema": schema, "description": text}
        for name, schema, text in said
    ]


def _bodies(config: ServingConfig) -> dict[str, Any]:
    file = {"type": "string", "format": "binary"}
    image = {"type": "string", "contentEncoding": "base64"}
    url = {"type": "string", "format": "uri"}

    def only(name: str, schema: dict[str, Any]) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {name: schema},
            "required": [name],
            "additionalProperties": False,
        }

    def several(of: dict[str, Any]) -> dict[str, Any]:
        return {"type": "array", "items": of, "minItems": 1, "maxItems": config.max_images}

    forms = [only("image", image), only("images", several(image))]
    forms += [only("url", url), only("urls", several(url))]
    examples = {
        "base64": {"summary": "An image as base64", "value": {"image": "/9j/4AAQSkZJRg…"}},
        "url": {
            "summary": "An image by URL, where the server allows its host",
            "value": {"url": "https://example.com/street.jpg"},
        },
    }
    form = only("file", several(file))
    return {
        "image/*": {"schema": file},
        "application/octet-stream": {"schema": file},
        "multipart/form-data": {"schema": {**form, "additionalProperties": True, "required": []}},
        "application/json": {"schema": {"oneOf": forms}, "examples": examples},
        "application/zip": {"schema": file},
        "video/*": {"schema": file},
    }


def _answer() -> dict[str, Any]:
    picture = {"schema": {"type": "string", "format": "binary"}}
    return {
        "description": "The predictions, in the order of the images",
        "headers": {
            "Server-Timing": {
                "description": "Milliseconds of queue, decode, preprocess, inference, postprocess "
                "and total; of several images the slowest of each. Not of a zip file.",
                "schema": {"type": "string"},
            }
        },
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/Predictions"}},
            "application/x-ndjson": {"schema": {"type": "string"}},
            "image/jpeg": picture,
            "image/png": picture,
            "application/zip": picture,
        },
    }


def predicted_schemas() -> dict[str, Any]:
    """The schemas of an answer."""
    answer = {
        "model": _said({"type": "string"}, "The model's name."),
        "predictions": {
            "type": "array",
            "items": {
                "anyOf": [
                    {"$ref": "#/components/schemas/Prediction"},
                    {"$ref": "#/components/schemas/FileError"},
                ]
            },
        },
        "archive": _said({"$ref": "#/components/schemas/Archive"}, "Of a zip file."),
        "video": _said({"$ref": "#/components/schemas/Video"}, "What a video says of itself."),
        "notes": _said(
            {"type": "array", "items": {"type": "string"}},
            "Of a video: where it ends early, and how many frames couldn't be decoded.",
        ),
    }
    size = ["width", "height"]
    return {
        "Predictions": _object(answer, ["model", "predictions"]),
        "Prediction": _object(_prediction(), size),
        "FileError": _object(_FILE_ERROR, list(_FILE_ERROR)),
        "Archive": _object(_ARCHIVE, list(_ARCHIVE)),
        "Depth": _object(_DEPTH, list(_DEPTH)),
        "Video": _object(_VIDEO, list(_VIDEO)),
    }


def _prediction() -> dict[str, Any]:
    shares = {"type": "array", "items": {**_NUMBER, "minimum": 0, "maximum": 1}}
    box = {"type": "array", "items": _NUMBER, "minItems": 4, "maxItems": 4}
    return {
        "boxes_xyxy": _said(
            {"type": "array", "items": box},
            "Of a detector, best first: left, top, right, bottom in pixels of the image.",
        ),
        "scores": _said(shares, "Of each box; of a classifier of its best classes."),
        "classes": _said({"type": "array", "items": _COUNT}, "Their ids."),
        "names": _said({"type": "array", "items": {"type": "string"}}, "Their names."),
        "track_ids": _said(
            {"type": "array", "items": {"type": ["integer", "null"], "minimum": 1}},
            "Of a video with `track`: of each box the number of its object; null: of none.",
        ),
        "depth": _said({"$ref": "#/components/schemas/Depth"}, "Of a depth model."),
        "width": _said(_COUNT, "Of the image, in pixels."),
        "height": _said(_COUNT, "Of the image, in pixels."),
        "name": _NAME,
        "frame": _said(_COUNT, "Of a video: the frame's number, from 0."),
        "time_s": _said(
            {"type": ["number", "null"]}, "Of a video: when the frame is shown; null: not known."
        ),
    }


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties}
