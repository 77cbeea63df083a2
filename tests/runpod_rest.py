"""A stand-in for RunPod's REST API: strict about bodies, with a state, and faults on request.

Schemas are the documented ones (https://rest.runpod.io/v1/openapi.json): an unknown field, a wrong
type, a value outside its list or range, or a missing required field is refused with 400.
"""

import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Json = dict[str, Any]

KEY = "rpa_TESTKEY0123456789"
CUDA = ("13.0", "12.9", "12.8", "12.7", "12.6", "12.5", "12.4", "12.3", "12.2", "12.1", "12.0")
CENTERS = ("EU-RO-1", "CA-MTL-1", "EU-SE-1", "US-IL-1", "US-KS-2", "US-CA-2", "EU-NL-1", "US-TX-4")
GPUS = (
    "NVIDIA GeForce RTX 4090", "NVIDIA A40", "NVIDIA RTX A5000", "NVIDIA GeForce RTX 5090",
    "NVIDIA H100 80GB HBM3", "NVIDIA GeForce RTX 3090", "NVIDIA RTX A4500", "NVIDIA L40S",
    "NVIDIA H200", "NVIDIA L4", "NVIDIA RTX 6000 Ada Generation", "NVIDIA A100-SXM4-80GB",
    "NVIDIA RTX 4000 Ada Generation", "NVIDIA RTX A6000", "NVIDIA A100 80GB PCIe",
    "NVIDIA RTX 2000 Ada Generation", "NVIDIA RTX A4000", "NVIDIA H100 PCIe", "NVIDIA H100 NVL",
    "NVIDIA RTX PRO 6000 Blackwell Server Edition", "NVIDIA L40", "NVIDIA B200",
    "NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "NVIDIA GeForce RTX 3080 Ti",
)  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """What a field takes."""

    type: type
    among: tuple[str, ...] = ()
    least: int | None = None
    most: int | None = None

    def takes(self, value: Any) -> bool:
        if self.type is list:
            known = self.among or None
            return isinstance(value, list) and all(
                isinstance(one, str) and (known is None or one in known) for one in value
            )
        if not isinstance(value, self.type) or (self.type is int and isinstance(value, bool)):
            return False
        if self.type is dict:
            return all(isinstance(one, str) for one in value.values())
        if self.type is int:
            return self._is_in_range(value)
        return not self.among or value in self.among

    def _is_in_range(self, value: int) -> bool:
        return (self.least is None or value >= self.least) and (
            self.most is None or value <= self.most
        )


_TEMPLATE_CHANGE = {
    "containerDiskInGb": Kind(int),
    "containerRegistryAuthId": Kind(str),
    "dockerEntrypoint": Kind(list),
    "dockerStartCmd": Kind(list),
    "env": Kind(dict),
    "imageName": Kind(str),
    "isPublic": Kind(bool),
    "name": Kind(str),
    "ports": Kind(list),
    "readme": Kind(str),
    "volumeInGb": Kind(int),
    "volumeMountPath": Kind(str),
}
_ENDPOINT_CHANGE = {
    "allowedCudaVersions": Kind(list, CUDA),
    "dataCenterIds": Kind(list, CENTERS),
    "executionTimeoutMs": Kind(int),
    "flashboot": Kind(bool),
    "gpuCount": Kind(int, least=1),
    "gpuTypeIds": Kind(list, GPUS),
    "idleTimeout": Kind(int, least=1, most=3600),
    "minCudaVersion": Kind(str, CUDA),
    "name": Kind(str),
    "networkVolumeId": Kind(str),
    "networkVolumeIds": Kind(list),
    "scalerType": Kind(str, ("QUEUE_DELAY", "REQUEST_COUNT")),
    "scalerValue": Kind(int, least=1),
    "templateId": Kind(str),
    "workersMax": Kind(int, least=0),
    "workersMin": Kind(int, least=0),
}
SCHEMAS: dict[tuple[str, str], tuple[dict[str, Kind], tuple[str, ...]]] = {
    ("POST", "templates"): (
        {
            **_TEMPLATE_CHANGE,
            "category": Kind(str, ("NVIDIA", "AMD", "CPU")),
            "isServerless": Kind(bool),
        },
        ("name", "imageName"),
    ),
    ("PATCH", "templates"): (_TEMPLATE_CHANGE, ()),
    ("POST", "endpoints"): (
        {**_ENDPOINT_CHANGE, "computeType": Kind(str, ("GPU", "CPU"))},
        ("templateId",),
    ),
    ("PATCH", "endpoints"): (_ENDPOINT_CHANGE, ()),
    ("POST", "networkvolumes"): (
        {
            "dataCenterId": Kind(str, CENTERS),
            "name": Kind(str),
            "size": Kind(int, least=0, most=4000),
        },
        ("name", "size", "dataCenterId"),
    ),
}


@dataclass
class Fault:
    """What happens to the next request of this kind; `after`: it is carried out first.

    `status` 0 breaks the connection off without an answer. What was made `after` all isn't in the
    next `lists_late` lists.
    """

    method: str
    collection: str
    status: int
    after: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    says: str = ""
    lists_late: int = 0


class StandIn:
    """The account of one user: `templates`, `endpoints` and `networkvolumes` by id."""

    def __init__(self) -> None:
        self.things: dict[str, dict[str, Json]] = {
            "templates": {}, "endpoints": {}, "networkvolumes": {},
        }  # fmt: skip
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, Json | None]] = []
        self.url = ""
        self.lists_late = 0
        self._numbers = itertools.count(1)

    @property
    def writes(self) -> list[tuple[str, str]]:
        """Method and path of what was to change something."""
        return [(method, path) for method, path, _ in self.requests if method != "GET"]

    @property
    def endpoint(self) -> Json:
        """The only endpoint."""
        (found,) = self.things["endpoints"].values()
        return found

    @property
    def template(self) -> Json:
        """The only template."""
        (found,) = self.things["templates"].values()
        return found

    def answer(self, method: str, target: str, body: Json | None) -> tuple[int, Any]:
        """Status and document."""
        parts = urlsplit(target)
        collection, _, thing_id = parts.path.removeprefix("/v1/").partition("/")
        things = self.things.get(collection)
        if things is None:
            return 404, {"error": "not found"}
        if method == "GET":
            return self._read(collection, thing_id, parse_qs(parts.query))
        problem = _problem(method, collection, body)
        if problem:
            return 400, {"error": problem}
        assert body is not None
        if method == "PATCH":
            if thing_id not in things:
                return 404, {"error": "not found"}
            things[thing_id].update(body)
            return 200, things[thing_id]
        return self._make(collection, body)

    def _read(self, collection: str, thing_id: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        things = self.things[collection]
        if thing_id:
            return (200, _shown(things[thing_id])) if thing_id in things else (404, {"error": "no"})
        found = list(things.values())
        if self.lists_late and found:
            self.lists_late -= 1
            return 200, [_shown(one) for one in found[:-1]]
        if collection == "templates" and query.get("includeEndpointBoundTemplates") != ["true"]:
            bound = {one["templateId"] for one in self.things["endpoints"].values()}
            found = [one for one in found if one["id"] not in bound]
        return 200, [_shown(one) for one in found]

    def _make(self, collection: str, body: Json) -> tuple[int, Any]:
        things = self.things[collection]
        if collection == "templates":
            if any(one["name"] == body["name"] for one in things.values()):
                return 400, {"error": "Template name must be unique."}
            if body.get("isServerless") and body.get("volumeInGb", 20):
                return 400, {"error": "serverless templates have no volume"}
        if collection == "endpoints" and body["templateId"] not in self.things["templates"]:
            return 400, {"error": "template not found"}
        made = {**body, "id": f"{collection[0]}{next(self._numbers):07d}"}
        things[made["id"]] = made
        return 200, _shown(made)


def _shown(thing: Json) -> Json:
    """As RunPod shows it: no `flashboot`, but a mark at the end of the name."""
    shown = {name: value for name, value in thing.items() if name != "flashboot"}
    if thing.get("flashboot"):
        shown["name"] = f"{str(thing['name']).removesuffix(' -fb')} -fb"
    return shown


def _problem(method: str, collection: str, body: Json | None) -> str:
    schema, required = SCHEMAS[method, collection]
    if not isinstance(body, dict):
        return "a body is required"
    for name, value in body.items():
        if name not in schema:
            return f"unknown field {name}"
        if not schema[name].takes(value):
            return f"wrong value of {name}: {value!r}"
    missing = [name for name in required if name not in body]
    return f"missing {missing}" if missing else ""


class _Handler(BaseHTTPRequestHandler):
    state: StandIn

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PATCH(self) -> None:
        self._answer()

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        self.state.requests.append((self.command, self.path, body))
        if self.headers.get("Authorization") != f"Bearer {KEY}":
            self._send(401, {"error": "unauthorized"})
            return
        fault = self._fault()
        if fault is None:
            self._send(*self.state.answer(self.command, self.path, body))
            return
        if fault.after:
            self.state.answer(self.command, self.path, body)
            self.state.lists_late = fault.lists_late
        if fault.status:
            said = fault.says or json.dumps(body)
            self._send(fault.status, {"message": said}, fault.headers)
        else:
            self.close_connection = True

    def _fault(self) -> Fault | None:
        for fault in self.state.faults:
            if fault.method == self.command and f"/v1/{fault.collection}" in self.path:
                self.state.faults.remove(fault)
                return fault
        return None

    def _send(self, status: int, document: Any, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def runpod_rest() -> Iterator[StandIn]:
    """One on a free port."""
    state = StandIn()
    handler = type("Handler", (_Handler,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
