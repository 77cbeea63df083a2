"""A server on this machine that answers as the Hugging Face Hub does, for tests.

It plays what `huggingface_hub` asks for a download: the model's files, their tree, and each file.
"""

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
_LARGE_BYTES = 1000


@dataclass
class PublishedModel:
    """A repository on the server.

    Attributes:
        files: content by name; those above 1000 bytes are announced as large files are.
        announced: of files whose announced SHA-256 isn't that of their content.
        gated: given only to those whose token is `granted`.
        drops: after so many bytes of a large file the connection ends, once for each number.
    """

    files: dict[str, bytes]
    announced: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    drops: list[int] = field(default_factory=list)

    def sha256(self, name: str) -> str:
        return self.announced.get(name) or hashlib.sha256(self.files[name]).hexdigest()

    def entry(self, name: str, key: str) -> dict[str, Any]:
        data = self.files[name]
        blob_id = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        entry: dict[str, Any] = {key: name, "size": len(data)}
        entry["oid" if key == "path" else "blobId"] = blob_id
        if len(data) > _LARGE_BYTES:
            entry["lfs"] = {"size": len(data), "pointerSize": 134}
            entry["lfs"]["oid" if key == "path" else "sha256"] = self.sha256(name)
        return {"type": "file", **entry} if key == "path" else entry


class HubServer:
    """Serves `models` by name at `url`; `asked` has every request's method and path."""

    def __init__(self) -> None:
        self.models: dict[str, PublishedModel] = {}
        self.asked: list[str] = []
        self.failing = False
        self._server = ThreadingHTTPServer(
            ("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self})
        )
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.hub.asked.append(f"{self.command} {path}")
        name = "/".join(path.removeprefix("api/models/").split("/")[:2])
        model = self.hub.models.get(name)
        if self.hub.failing:
            self._refuse(503, "")
        elif model is None:
            self._refuse(401, "RepoNotFound")
        elif model.gated and self.headers.get("Authorization") != "Bearer granted":
            self._refuse(403, "GatedRepo")
        elif path.startswith("api/models/"):
            self._describe(path, name, model)
        else:
            self._send_file(path, model)

    def _describe(self, path: str, name: str, model: PublishedModel) -> None:
        rest = path.removeprefix(f"api/models/{name}").strip("/").split("/")
        if rest[0] == "revision" and rest[1] not in ("main", COMMIT):
            self._refuse(404, "RevisionNotFound")
        elif rest[0] == "tree":
            self._json([model.entry(one, "path") for one in model.files])
        else:
            siblings = [model.entry(one, "rfilename") for one in model.files]
            self._json({"id": name, "sha": COMMIT, "siblings": siblings, "private": False})

    def _send_file(self, path: str, model: PublishedModel) -> None:
        name = path.split("/", 4)[4]
        if name not in model.files:
            self._refuse(404, "EntryNotFound")
            return
        data = model.files[name]
        start = int((self.headers.get("Range") or "bytes=0-")[6:].split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        is_large = len(data) > _LARGE_BYTES
        plain = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        self.send_header("ETag", f'"{model.sha256(name) if is_large else plain}"')
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        if is_large and model.drops:
            self.wfile.write(data[start : start + model.drops.pop(0)])
            self.close_connection = True
            return
        self.wfile.write(data[start:])

    def _json(self, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass
