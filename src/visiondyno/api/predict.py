"""Predictions of uploaded images: a zip file, or images, and one job for all of them."""

import asyncio
import tempfile
import zipfile
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import IO, Annotated, Any

from fastapi import Path as PathParameter
from fastapi import Request
from pydantic import BaseModel

from visiondyno.api.auth import Owner
from visiondyno.api.problems import problems
from visiondyno.api.routing import Api, IdempotencyKey, guarded_router
from visiondyno.api.uploads import Upload
from visiondyno.datasets.image_archive import JOB_LIMITS, ImageArchive, is_zip
from visiondyno.errors import NotFound, SpecError, StorageFull, TooLarge, UnsupportedMedia
from visiondyno.job import JobError, JobRequest, JobState
from visiondyno.service import Service
from visiondyno.specs.archive import PredictArchiveInput
from visiondyno.specs.operations import parse
from visiondyno.store.records import JobRecord
from visiondyno.vision.announced import is_known_image

router = guarded_router("predictions")

_MOST_FILES = 1000
_BEGIN_BYTES = 16
_BLOCK_BYTES = 1 << 20
_EARLIEST = (1980, 1, 1, 0, 0, 0)
_ANY_BLOB = "sha256:" + "0" * 64
_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["model", "file"],
                    "properties": {
                        "model": {
                            "type": "string",
                            "description": "A model reference. The fields stand before the files.",
                        },
                        "confidence": {
                            "type": "number",
                            "minimum": 0,
                            "maximum": 1,
                            "description": "Lowest score returned; without it 0.25 of a "
                            "detector, any of a classifier.",
                        },
                        "classes": {
                            "type": "string",
                            "description": "Names or ids of those that are returned, as `a,b`.",
                        },
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": "A zip file of images, or images, each in a field "
                            "`file`.",
                        },
                    },
                }
            }
        },
    }
}


class PredictionLinks(BaseModel):
    """Where a prediction can be read and stopped: itself, its events, its cancelling."""

    self: str
    events: str
    cancel: str


class PredictionAccepted(BaseModel):
    """A prediction of images that was asked for; its job has the same id."""

    id: str
    status: JobState
    links: PredictionLinks


class PredictionView(PredictionAccepted):
    """A prediction of images.

    Attributes:
        created_at: seconds since the epoch.
        progress: what the operation said last.
        output: once it is done: `predictions` with a `name` each, or the blob of JSON lines that
            has them, `predictions_file`; `images`, `errors`, `skipped`.
        error: why it failed.
    """

    created_at: float
    progress: dict[str, Any] | None
    output: dict[str, Any] | None
    error: JobError | None


PredictionId = Annotated[
    str,
    PathParameter(pattern=r"^[A-Za-z0-9_.-]{1,128}$", description="The id that asking answered."),
]


@router.post(
    "/api/predict",
    operation_id="submit_prediction",
    status_code=202,
    openapi_extra=_FORM,
    responses=problems(400, 409, 415, 507),
)
async def submit_prediction(
    request: Request, service: Api, owner: Owner, key: IdempotencyKey = None
) -> PredictionAccepted:
    """Predict the images of a zip file, or several images.

    A zip file is refused here for what its list says; a file in it that is no image has an error in
    its place, and the others are predicted.
    """
    fields = ("model", "confidence", "classes")
    upload = Upload(request, "file", fields, _MOST_FILES, "images.zip")
    await upload.open()
    wanted = _wanted(upload.fields)
    with _temporary() as file:
        await _take(upload, file)
        await asyncio.to_thread(_check, file)
        sha256 = await service.blobs.put(_blocks(file), max_bytes=service.settings.max_upload_bytes)
    spec = wanted.model_copy(update={"archive": f"sha256:{sha256}"})
    job = await service.jobs.submit(
        JobRequest(input=spec.model_dump(mode="json")), owner=owner, idempotency_key=key
    )
    return PredictionAccepted(**_facts(job))


@router.get("/api/predict/{prediction_id}", operation_id="get_prediction", responses=problems(404))
async def get_prediction(service: Api, prediction_id: PredictionId) -> PredictionView:
    """A prediction of images: how it stands, and its result once it is done."""
    job = await _prediction(service, prediction_id)
    return PredictionView(
        **_facts(job),
        created_at=job.created_at,
        progress=job.progress,
        output=None if job.answer is None else job.answer.output,
        error=None if job.answer is None else job.answer.error,
    )


async def _prediction(service: Service, prediction_id: str) -> JobRecord:
    job = await service.jobs.get(prediction_id)
    if job.request.input.get("operation") != "predict" or "archive" not in job.request.input:
        raise NotFound(
            f"The job '{prediction_id}' predicts no uploaded images; see /api/jobs/{prediction_id}."
        )
    return job


def _facts(job: JobRecord) -> dict[str, Any]:
    of_job = f"/api/jobs/{job.id}"
    links = PredictionLinks(
        self=f"/api/predict/{job.id}", events=f"{of_job}/events", cancel=f"{of_job}/cancel"
    )
    return {"id": job.id, "status": job.state, "links": links}


def _wanted(fields: dict[str, str]) -> PredictArchiveInput:
    """The job's input, but for the archive, which isn't here yet."""
    given: dict[str, Any] = {**fields, "archive": _ANY_BLOB}
    if "classes" in fields:
        given["classes"] = [one.strip() for one in fields["classes"].split(",") if one.strip()]
    found: PredictArchiveInput = parse(PredictArchiveInput, given, "The form is wrong")
    return found


def _temporary() -> IO[bytes]:
    try:
        return tempfile.NamedTemporaryFile(prefix="visiondyno-upload-")
    except OSError as error:
        raise _full(error) from error


async def _take(upload: Upload, file: IO[bytes]) -> None:
    """Have the zip file, or one of the images that came instead, in `file`."""
    try:
        chunks = upload.chunks()
        begin = await _begin(chunks)
        if is_zip(begin):
            await _write(file, begin, chunks)
            if await upload.next_file():
                raise SpecError("A zip file comes alone; send it in a request of its own.")
        else:
            await _pack(upload, begin, chunks, file)
        await asyncio.to_thread(file.flush)
    except OSError as error:
        raise _full(error) from error


async def _pack(
    upload: Upload, begin: bytes, chunks: AsyncIterator[bytes], file: IO[bytes]
) -> None:
    """Images as the zip file that the job takes: the same images always make the same one."""
    given: set[str] = set()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        while True:
            name = _free(upload.file_name, given)
            if not is_known_image(begin):
                raise UnsupportedMedia(
                    f"'{name:.100}' is neither a zip file nor a JPEG, PNG, WebP or BMP image; "
                    "convert it, or leave it away."
                )
            with archive.open(zipfile.ZipInfo(name, _EARLIEST), "w") as entry:
                await _write(entry, begin, _no_more_than_an_image(name, begin, chunks))
            if not await upload.next_file():
                return
            chunks = upload.chunks()
            begin = await _begin(chunks)


def _free(file_name: str, given: set[str]) -> str:
    """A name in the archive that is no other file's, and that isn't passed over."""
    plain = "".join("_" if c in "\\:/" else c for c in file_name).lstrip(".") or "image"
    name, number = plain, 1
    while name in given:
        number += 1
        name = f"{number}-{plain}"
    given.add(name)
    return name


async def _begin(chunks: AsyncIterator[bytes]) -> bytes:
    """The first bytes, enough to know what it is."""
    begin = b""
    while len(begin) < _BEGIN_BYTES and (chunk := await anext(chunks, b"")):
        begin += chunk
    return begin


async def _write(file: IO[bytes], begin: bytes, chunks: AsyncIterator[bytes]) -> None:
    await asyncio.to_thread(file.write, begin)
    async for chunk in chunks:
        await asyncio.to_thread(file.write, chunk)


async def _no_more_than_an_image(
    name: str, begin: bytes, chunks: AsyncIterator[bytes]
) -> AsyncGenerator[bytes, None]:
    """The chunks, as long as they and the beginning are no more than is taken of one image."""
    size_bytes = len(begin)
    async for chunk in chunks:
        size_bytes += len(chunk)
        if size_bytes > JOB_LIMITS.most_image_bytes:
            raise TooLarge(
                f"'{name:.100}' has more than the {JOB_LIMITS.most_image_bytes / 1e6:g} MB that "
                "are taken of one image. Scale it down first."
            )
        yield chunk


def _check(file: IO[bytes]) -> None:
    with ImageArchive(Path(file.name), JOB_LIMITS):
        file.seek(0)


async def _blocks(file: IO[bytes]) -> AsyncGenerator[bytes, None]:
    while block := await asyncio.to_thread(file.read, _BLOCK_BYTES):
        yield block


def _full(error: OSError) -> StorageFull:
    return StorageFull(
        f"The upload can't be kept while it is read ({error.strerror}); make room in the server's "
        "folder for temporary files (TMPDIR)."
    )
