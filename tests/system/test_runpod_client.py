"""The `runpod` package's own clients, pointed at this server."""

import asyncio
import base64
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

from live_api import LiveApi, run_api_operation
from visiondyno import worker
from visiondyno.operations.context import OperationContext


def run_anything(job_input: dict[str, Any], context: OperationContext) -> dict[str, Any]:
    """The shipped operations, and the test suite's."""
    if job_input.get("operation") in worker.OPERATIONS:
        return worker.run(job_input, context)
    return run_api_operation(job_input, context)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    home = tmp_path_factory.mktemp("home")
    with LiveApi(home, run=run_anything, require_keys=True) as live:
        yield live


@pytest.fixture(scope="module")
def runpod(api: LiveApi) -> Iterator[ModuleType]:
    package = pytest.importorskip("runpod", reason="the extra 'runpod' isn't installed")
    kept = package.endpoint_url_base, package.api_key
    package.endpoint_url_base, package.api_key = f"{api.url}/v2", api.make_key("runpod")
    yield package
    package.endpoint_url_base, package.api_key = kept


@pytest.fixture
def endpoint(runpod: ModuleType) -> Iterator[Any]:
    endpoint = runpod.Endpoint("default")
    yield endpoint
    endpoint.rp_client.rp_session.close()


def a_picture() -> str:
    """A JPEG file as base64."""
    pixels = np.full((64, 96, 3), 127, np.uint8)
    return base64.b64encode(cv2.imencode(".jpg", pixels)[1].tobytes()).decode()


def test_a_real_prediction_runs_to_completed(endpoint: Any) -> None:
    job = endpoint.run(
        {
            "input": {
                "operation": "predict",
                "model": "visiondyno:street-n",
                "images": [a_picture()],
            }
        }
    )
    output = job.output(timeout=120)
    assert job.status() == "COMPLETED"
    assert len(output["predictions"]) == 1
    assert set(output["predictions"][0]) >= {"boxes_xyxy", "scores", "classes", "names"}


def test_run_sync_gives_the_output(endpoint: Any) -> None:
    assert endpoint.run_sync({"operation": "echo", "say": "x"}, timeout=60) == {"said": "x"}
    assert endpoint.run_sync({"input": {"operation": "refuse"}}, timeout=60) is None


def test_a_running_job_is_seen_cancelled_and_purged(endpoint: Any) -> None:
    busy = endpoint.run({"operation": "until stopped"})
    waiting = endpoint.run({"operation": "echo", "say": "x"})
    assert busy.status() in ("IN_QUEUE", "IN_PROGRESS")
    assert waiting.status() == "IN_QUEUE"
    health = endpoint.health()
    assert health["jobs"]["inProgress"] + health["jobs"]["inQueue"] == 2
    purged = endpoint.purge_queue()
    assert purged["status"] == "completed"
    assert waiting.status() == "CANCELLED"
    assert busy.cancel() == {"id": busy.job_id, "status": "CANCELLED"}
    assert busy.status() == "CANCELLED"


def test_a_stream_gives_progress_and_output(endpoint: Any) -> None:
    job = endpoint.run({"operation": "echo", "say": "end", "steps": 3})
    told = list(job.stream())
    assert told == [*({"stage": "step", "done": n} for n in range(3)), {"said": "end"}]


def test_a_wrong_key_is_told_as_the_package_tells_it(runpod: ModuleType) -> None:
    stranger = runpod.Endpoint("default", api_key="vd_" + "A" * 43)
    with pytest.raises(RuntimeError, match="401 Unauthorized"):
        stranger.run({"operation": "echo", "say": "x"})
    stranger.rp_client.rp_session.close()


def test_the_asynchronous_client_works_too(runpod: ModuleType) -> None:
    from runpod.http_client import AsyncClientSession

    async def main() -> tuple[Any, str, dict[str, Any]]:
        async with AsyncClientSession() as session:
            endpoint = runpod.AsyncioEndpoint("default", session)
            job = await endpoint.run({"operation": "echo", "say": "later"})
            output = await job.output(timeout=60)
            stopped = await endpoint.run({"operation": "until stopped"})
            cancelled = await stopped.cancel()
            health = await endpoint.health()
            return output, cancelled["status"], health

    output, cancelled, health = asyncio.run(main())
    assert output == {"said": "later"}
    assert cancelled == "CANCELLED"
    assert set(health) == {"jobs", "workers"}
