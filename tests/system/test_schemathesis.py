"""schemathesis against a real server: its OpenAPI document is true."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from live_api import LiveApi, StaffedApi

EXAMPLES = 5
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "src" / "visiondyno" / "shipped" / "depth-n.onnx"
BLOB = b"a blob"
SPEC = {"models": ["no-such.onnx"], "data": "no-such-folder", "scenarios": ["offline"]}


@dataclass
class Known:
    """What is on the server, and the statuses that each operation answered."""

    url: str
    path: dict[str, str]
    bodies: dict[str, Any] = field(default_factory=dict)
    paths_of: dict[str, dict[str, str]] = field(default_factory=dict)
    answered: dict[str, Counter[int]] = field(default_factory=dict)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    home = tmp_path_factory.mktemp("home")
    with StaffedApi(
        home,
        require_keys=True,
        rate_limit_per_minute=0,
        max_upload_bytes=2_000_000,
    ) as live:
        yield live


def put_there(client: httpx.Client) -> Known:
    """Jobs, comparisons, a submission, a blob and workers, so that ids exist."""

    def job(operation: str) -> str:
        body = {"input": {"operation": operation, "say": "x", "lines": ["x"]}}
        job_id: str = client.post("/v2/default/run", json=body).json()["id"]
        client.get(f"/api/jobs/{job_id}/events")
        return job_id

    def comparison() -> str:
        comparison_id: str = client.post("/api/benchmark", json=SPEC).json()["id"]
        client.get(f"/api/benchmark/{comparison_id}/events")
        return comparison_id

    sha256 = hashlib.sha256(BLOB).hexdigest()
    assert client.put(f"/blobs/{sha256}", content=BLOB).status_code == 201

    def submission() -> str:
        with MODEL.open("rb") as file:
            answer = client.post("/submit/task2", files={"file": (MODEL.name, file)}).json()
        submission_id: str = answer["submission_id"]
        return submission_id

    failed = job("refuse")
    run = {"input": {"operation": "echo", "say": "x"}}
    known = Known(
        url=str(client.base_url).rstrip("/"),
        path={
            "endpoint": "default",
            "job_id": job("log"),
            "comparison_id": comparison(),
            "prediction_id": ask_prediction(client).json()["id"],
            "task": "task2",
            "submission_id": submission(),
            "sha256": sha256,
            "name": "host-1-0",
            "command": "drain",
        },
    )
    known.paths_of = {
        "retry": {"job_id": failed},
        "retry_job": {"job_id": job("refuse")},
        "delete_benchmark": {"comparison_id": comparison()},
        "delete_submission": {"submission_id": submission()},
    }
    known.bodies = {
        "run": run,
        "runsync": run,
        "submit_benchmark": SPEC,
        "put_blob": BLOB,
    }
    return known


def ask_prediction(client: Any, **options: Any) -> Any:
    """Of the first bytes of an image: no more is looked at before the job runs."""
    files = {"file": ("a.png", b"\x89PNG\r\n\x1a\n")}
    return client.post(
        f"{options.pop('url', '')}/api/predict", data={"model": "m"}, files=files, **options
    )


def _authorised(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def call(case: Any, key: str, session: requests.Session) -> int:
    """Send the case; check the answer; its status."""
    response = case.call_and_validate(
        headers=_authorised(key), session=session, checks=CHECKS, timeout=60
    )
    status: int = response.status_code
    return status


def reach(operation: Any, known: Known, key: str, session: requests.Session) -> int:
    """The operation with what is known to be right."""
    name = operation.definition.raw["operationId"]
    parameters = [p for p in known.path if "{" + p + "}" in operation.path]
    path = {p: known.paths_of.get(name, {}).get(p, known.path[p]) for p in parameters}
    if name == "submit_model":  # schemathesis names no file, and a model's name must end in .onnx
        url = f"{known.url}/submit/task2"
        files = {"file": (MODEL.name, MODEL.read_bytes())}
        response = session.post(url, files=files, headers=_authorised(key), timeout=60)
        operation.Case(path_parameters=path).validate_response(response, checks=CHECKS)
        return response.status_code
    if name == "submit_prediction":  # it would send the file before the fields
        response = ask_prediction(session, url=known.url, headers=_authorised(key), timeout=60)
        operation.Case(path_parameters=path).validate_response(response, checks=CHECKS)
        status: int = response.status_code
        return status
    body = {}
    if name in known.bodies:
        media = "application/octet-stream" if name == "put_blob" else "application/json"
        body = {"body": known.bodies[name], "media_type": media}
    return call(operation.Case(path_parameters=path, **body), key, session)


def fuzz(operation: Any, known: Known, key: str, session: requests.Session) -> Counter[int]:
    """The operation with generated data, right and wrong, on known and on unknown ids."""
    seen: Counter[int] = Counter()
    parameters = {p: known.path[p] for p in known.path if "{" + p + "}" in operation.path}
    quiet = settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
        for path in [None, parameters] if parameters else [None]:
            nothing_left = path is not None or not parameters
            if mode is GenerationMode.NEGATIVE and nothing_left and not _has_more(operation):
                continue  # nothing can be wrong

            @quiet
            @given(case=operation.as_strategy(generation_mode=mode, path_parameters=path))
            def one(case: Any) -> None:
                seen[call(case, key, session)] += 1

            one()
    return seen


def _has_more(operation: Any) -> bool:
    """Whether anything but the path can be wrong."""
    return bool(operation.query or operation.headers or operation.body)


@pytest.mark.slow
def test_the_openapi_document_is_true(api: LiveApi) -> None:
    key = api.make_key("schemathesis")
    schema = schemathesis.openapi.from_url(f"{api.url}/openapi.json")
    with api.client(key) as client, requests.Session() as session:
        known = put_there(client)
        for found in schema.get_all_operations():
            operation = found.ok()
            name = operation.definition.raw["operationId"]
            answered = known.answered.setdefault(name, Counter())
            answered[reach(operation, known, key, session)] += 1
            if not name.startswith("delete_"):  # it would take what others need
                answered.update(fuzz(operation, known, key, session))
        assert client.get("/health").status_code == 200
    for name, seen in known.answered.items():
        print(f"{name}: {dict(sorted(seen.items()))}")
    assert len(known.answered) == 36
    unreached = [
        name for name, seen in known.answered.items() if not any(200 <= s < 300 for s in seen)
    ]
    assert not unreached
    assert not [name for name, seen in known.answered.items() if any(s >= 500 for s in seen)]
