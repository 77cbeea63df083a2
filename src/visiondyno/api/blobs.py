"""The blob store over HTTP: streamed both ways, verified, with a key."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Path, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from visiondyno.api.problems import problems
from visiondyno.api.routing import Api, guarded_router
from visiondyno.errors import NotFound

router = guarded_router("blobs")

Sha256 = Annotated[
    str,
    Path(
        pattern=r"^[0-9a-f]{64}$",
        description="SHA-256 of the content, hexadecimal.",
        examples=["e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"],
    ),
]
_BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


class BlobStored(BaseModel):
    """A blob that is there now."""

    sha256: str
    size_bytes: int


@router.put(
    "/blobs/{sha256}",
    operation_id="put_blob",
    status_code=201,
    openapi_extra={"requestBody": {"required": True, "content": _BINARY}},
    responses={
        200: {"model": BlobStored, "description": "It was there already."},
        **problems(400, 507),
    },
)
async def put_blob(
    request: Request, response: Response, service: Api, sha256: Sha256
) -> BlobStored:
    """Store the body, which must have this SHA-256. Doing it again changes nothing."""
    there = await service.blobs.has(sha256)
    await service.blobs.put(
        request.stream(),
        expected_sha256=sha256,
        max_bytes=service.settings.max_upload_bytes,
    )
    response.status_code = 200 if there else 201
    return BlobStored(sha256=sha256, size_bytes=await service.blobs.size(sha256))


@router.head(
    "/blobs/{sha256}",
    operation_id="has_blob",
    response_class=Response,
    responses={
        200: {"description": "It is there; Content-Length is its size."},
        **problems(404),
    },
)
async def has_blob(service: Api, sha256: Sha256) -> Response:
    """Whether a blob is there, and its size."""
    if not await service.blobs.has(sha256):
        raise NotFound(f"There is no blob {sha256}; upload it with PUT /blobs/{sha256}.")
    return Response(headers=await _headers(service, sha256))


@router.get(
    "/blobs/{sha256}",
    operation_id="get_blob",
    response_class=StreamingResponse,
    responses={200: {"content": _BINARY}, **problems(404)},
)
async def get_blob(service: Api, sha256: Sha256) -> StreamingResponse:
    """A blob's bytes. One that is damaged breaks off, so that it can't pass for whole."""
    headers = await _headers(service, sha256)
    content = service.blobs.open(sha256)

    async def chunks() -> AsyncIterator[bytes]:
        try:
            async for chunk in content:
                yield chunk
        finally:
            await content.aclose()

    return StreamingResponse(chunks(), headers=headers)


async def _headers(service: Api, sha256: str) -> dict[str, str]:
    return {
        "Content-Length": str(await service.blobs.size(sha256)),
        "Content-Type": "application/octet-stream",
        "Accept-Ranges": "none",  # a part can't be verified
        "ETag": f'"{sha256}"',
        "Cache-Control": "private, max-age=31536000, immutable",
        "X-Content-Type-Options": "nosniff",
    }
