"""Servers of blobs on this machine, for tests: a bucket by the S3 protocol, and `/blobs`."""

import asyncio
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from services import free_port, until
from visiondyno.blobs.folder import FolderBlobs
from visiondyno.errors import VisionDynoError

_BUCKETS = count(1)


@dataclass(frozen=True)
class S3Server:
    """Where it listens."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def new_bucket(self) -> str:
        """Make an empty bucket and return its name."""
        name = f"bucket-{os.getpid()}-{next(_BUCKETS)}"
        with urllib.request.urlopen(urllib.request.Request(f"{self.url}/{name}", method="PUT")):
            return name


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """A server of the S3 protocol, in a process of its own; ended with the block."""
    server = S3Server(free_port())
    log = folder / "s3.log"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(server.port)]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        if not until(lambda: _answers(server.url), process, log):
            pytest.fail(f"The S3 server ended at once:\n{log.read_text(errors='replace')}")
        yield server
    finally:
        process.kill()
        process.wait()


@dataclass
class BlobServer:
    """`HEAD`, `PUT`, `GET /blobs/{sha256}` over a folder, and what goes wrong on the way.

    Attributes:
        blobs: what is stored.
        url: `http://…/blobs`.
        api_key: what clients must send, if anything.
        ranges: whether parts can be asked for.
        statuses: answered instead, once each, to GET and PUT.
        drops: after so many bytes of an answer the connection ends, once for each number.
        lies: sent instead of the blob.
        most_bytes: of a PUT.
        requests: what came: `GET bytes=5-`.
    """

    blobs: FolderBlobs
    url: str = ""
    api_key: str | None = None
    ranges: bool = True
    statuses: list[int] = field(default_factory=list)
    drops: list[int] = field(default_factory=list)
    lies: bytes | None = None
    most_bytes: int | None = None
    requests: list[str] = field(default_factory=list)

    def app(self) -> Starlette:
        route = Route("/blobs/{sha256}", self._answer, methods=["HEAD", "GET", "PUT"])
        return Starlette(routes=[route])

    async def _answer(self, request: Request) -> Response:
        self.requests.append(f"{request.method} {request.headers.get('Range', '')}".strip())
        if self.api_key and request.headers.get("Authorization") != f"Bearer {self.api_key}":
            status = 403 if "Authorization" in request.headers else 401
            return JSONResponse({"detail": "no valid key"}, status)
        if self.statuses and request.method != "HEAD":
            status = self.statuses.pop(0)
            return JSONResponse({"detail": "as told"}, status, {"Retry-After": "7"})
        try:
            return await self._serve(request, request.path_params["sha256"])
        except VisionDynoError as error:
            return JSONResponse({"detail": error.message}, error.http_status)

    async def _serve(self, request: Request, sha256: str) -> Response:
        if request.method == "PUT":
            await self.blobs.put(request.stream(), sha256, self.most_bytes)
            return Response(status_code=201)
        size = await self.blobs.size(sha256)
        if self.lies is not None:
            return Response(self.lies)
        first = int(request.headers.get("Range", "bytes=0-")[6:-1]) if self.ranges else 0
        headers = {"Content-Length": str(size - first)}
        if first:
            headers["Content-Range"] = f"bytes {first}-{size - 1}/{size}"
        if request.method == "HEAD":
            return Response(headers=headers)
        return StreamingResponse(self._body(sha256, first), 206 if first else 200, headers)

    async def _body(self, sha256: str, first: int) -> AsyncIterator[bytes]:
        data = b"".join([chunk async for chunk in self.blobs.open(sha256)])[first:]
        if self.drops:
            yield data[: self.drops.pop(0)]
            raise ConnectionError("the connection ends, as told")
        yield data


@contextmanager
def blob_server(folder: Path) -> Iterator[BlobServer]:
    """A server of blobs in a thread of its own; ended with the block."""
    served = BlobServer(FolderBlobs(folder))
    port = free_port()
    config = uvicorn.Config(served.app(), port=port, log_level="critical", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    served.url = f"http://127.0.0.1:{port}/blobs"
    while not server.started:
        if not thread.is_alive():
            pytest.fail("The server of blobs ended at once")
        thread.join(0.005)
    try:
        yield served
    finally:
        server.should_exit = True
        thread.join()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False
