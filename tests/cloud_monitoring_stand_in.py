"""Google's token server and Cloud Monitoring on this machine, for tests: they check what comes."""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

PROJECT = "a-project"
ACCOUNT = "reader@a-project.iam.gserviceaccount.com"
BOUNDS = [0.0, 0.1, 0.2, 0.5, 0.8, 1.0]

Series = list[dict[str, Any]]


@cache
def new_key(_name: str) -> rsa.RSAPrivateKey:
    """A key, for each name another."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@dataclass
class StandIn:
    """What it was asked, and how it answers.

    Attributes:
        series: what there is of a metric (the end of its type) between two moments, seconds since
            1970.
        refusals: statuses answered instead, one after another, to questions for series.
        retry_after: the header that goes with them.
        page_size: series on a page.
        token_status: answered to a question for a token, if not 200.
        raw: an answer instead of all this.
    """

    series: Callable[[str, float, float], Series] = lambda *_: []
    refusals: list[int] = field(default_factory=list)
    retry_after: str | None = None
    page_size: int = 100
    token_status: int = 200
    raw: bytes | None = None
    claims: list[dict[str, Any]] = field(default_factory=list)
    asked: list[dict[str, list[str]]] = field(default_factory=list)
    tokens: int = 0
    url: str = ""
    key_file: Path = Path()
    key: rsa.RSAPrivateKey = field(default_factory=lambda: new_key("the account's"))

    def token(self, body: bytes) -> tuple[int, dict[str, Any]]:
        """RFC 7523: a JWT signed with the account's key for an access token."""
        form = parse_qs(body.decode())
        if form["grant_type"] != ["urn:ietf:params:oauth:grant-type:jwt-bearer"]:
            return 400, {"error": "unsupported_grant_type"}
        head, claims, signature = form["assertion"][0].split(".")
        try:
            self.key.public_key().verify(
                _unpadded(signature),
                f"{head}.{claims}".encode(),
                padding.PKCS1v15(),
                hashes.SHA256(),
            )
        except InvalidSignature:
            return 400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
        self.claims.append(json.loads(_unpadded(claims)))
        if self.token_status != 200:
            return self.token_status, {"error": "invalid_grant", "error_description": "No account."}
        self.tokens += 1
        return 200, {"access_token": f"token-{self.tokens}", "expires_in": 3600}

    def listed(self, path: str, query: str, authorization: str) -> tuple[int, Any]:
        """projects.timeSeries.list."""
        if authorization != f"Bearer token-{self.tokens}":
            return 401, _error(401, "Request had invalid authentication credentials.")
        if path != f"/v3/projects/{PROJECT}/timeSeries":
            return 404, _error(404, "Project not found.")
        if self.refusals:
            status = self.refusals.pop(0)
            return status, _error(status, f"Refused with {status}.")
        asked = parse_qs(query, strict_parsing=True)
        self.asked.append(asked)
        metric = asked["filter"][0].split('"')[1]
        begin, end = (
            datetime.fromisoformat(asked[f"interval.{name}Time"][0]).timestamp()
            for name in ("start", "end")
        )
        found = self.series(metric.removeprefix("run.googleapis.com/container/"), begin, end)
        first = int(asked.get("pageToken", ["0"])[0])
        page: dict[str, Any] = {"timeSeries": found[first : first + self.page_size]}
        if first + self.page_size < len(found):
            page["nextPageToken"] = str(first + self.page_size)
        return 200, page if found else {}

    def write_key(self, path: Path) -> None:
        """A service account's key file as `gcloud` writes it."""
        pem = self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        content = {
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": "1",
            "private_key": pem.decode(),
            "client_email": ACCOUNT,
            "client_id": "1",
            "token_uri": f"{self.url}/token",
        }
        path.write_text(json.dumps(content))
        self.key_file = path


@contextmanager
def cloud_monitoring(folder: Path) -> Iterator[StandIn]:
    """Both servers at one address, and a key file for them."""
    stand_in = StandIn()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(*stand_in.token(body))

        def do_GET(self) -> None:
            if stand_in.raw is not None:
                self._answer(200, None)
                return
            path, _, query = self.path.partition("?")
            self._answer(
                *stand_in.listed(urlsplit(path).path, query, self.headers.get("Authorization", ""))
            )

        def _answer(self, status: int, content: Any) -> None:
            body = stand_in.raw if content is None else json.dumps(content).encode()
            assert body is not None
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if stand_in.retry_after is not None:
                self.send_header("Retry-After", stand_in.retry_after)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=partial(server.serve_forever, 0.01), daemon=True)
    thread.start()
    stand_in.url = f"http://127.0.0.1:{server.server_port}"
    stand_in.write_key(folder / "key.json")
    try:
        yield stand_in
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def distribution_point(end_s: float, values: list[float], bounds: list[float] = BOUNDS) -> dict:
    """One aligned point of a distribution."""
    counts = [0] * (len(bounds) + 1)
    for value in values:
        counts[sum(value >= bound for bound in bounds)] += 1
    return _point(
        end_s,
        {
            "distributionValue": {
                "count": str(len(values)),
                "mean": sum(values) / len(values),
                "bucketOptions": {"explicitBuckets": {"bounds": bounds}},
                "bucketCounts": [str(count) for count in counts],
            }
        },
    )


def number_point(end_s: float, value: int) -> dict:
    """One aligned point of a whole number."""
    return _point(end_s, {"int64Value": str(value)})


def one_series(points: list[dict], kind: str = "DISTRIBUTION", **labels: str) -> dict:
    """A series as the API has it; the newest point first."""
    return {
        "metric": {"type": "run.googleapis.com/container/x", "labels": labels},
        "resource": {"type": "cloud_run_revision", "labels": {"project_id": PROJECT}},
        "metricKind": "DELTA",
        "valueType": kind,
        "points": points[::-1],
    }


def _point(end_s: float, value: dict[str, Any]) -> dict:
    begin, end = (datetime.fromtimestamp(s).astimezone().isoformat() for s in (end_s - 60, end_s))
    return {"interval": {"startTime": begin, "endTime": end}, "value": value}


def _error(code: int, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "status": "X"}}


def _unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
