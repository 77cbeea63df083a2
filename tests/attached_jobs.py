"""Jobs with attachments for tests, and a client that is told of a server which isn't there."""

import base64
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visiondyno.blobs.folder import FolderBlobs
from visiondyno.client.attachments import attach
from visiondyno.client.client import Client
from visiondyno.places import Place

ELSEWHERE = Place("http://127.0.0.1:9")


def zipped(members: Mapping[str, bytes | str]) -> bytes:
    """A zip file with these members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def as_text(archive: bytes) -> str:
    """The archive as it stands in a job."""
    return base64.b64encode(archive).decode()


def attached(members: Mapping[str, bytes | str], path: str) -> dict[str, Any]:
    """One attachment."""
    return {"archive": as_text(zipped(members)), "path": path}


def members_of(archive: str | bytes) -> dict[str, bytes]:
    """Name and content of what an archive holds."""
    data = base64.b64decode(archive) if isinstance(archive, str) else archive
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


class ClientElsewhere(Client):
    """Its workers are on a machine that nobody asks; its blobs are in a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(ELSEWHERE, blobs=FolderBlobs(folder))
        self.files_put = 0

    def put_file(self, path: Path, *arguments: Any) -> str:
        self.files_put += 1
        return super().put_file(path, *arguments)


def folder_of(path: Path, name: str) -> dict[str, bytes]:
    """The files below `path` as members of an archive, below `name`."""
    found = sorted(one for one in path.rglob("*") if one.is_file())
    return {f"{name}/{one.relative_to(path).as_posix()}": one.read_bytes() for one in found}


def unpacked(home: Path) -> list[Path]:
    """What a worker keeps of attachments."""
    return sorted((home / "cache" / "entries" / "attachments").glob("*"))


def sent(client: Client, data: str) -> tuple[str, dict[str, bytes]]:
    """Of a job's data the path in the archive, and what is in that."""
    job = attach({"operation": "evaluate", "model": "fake:detection", "data": data}, client)
    assert job["data"] == data
    assert job["model"] == "fake:detection"
    (attachment,) = job["attachments"].values()
    return attachment["path"], members_of(attachment["archive"])
