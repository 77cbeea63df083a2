"""The whole server, API and dashboard, on a free port of this machine, for tests."""

import html
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
from fastapi import FastAPI

from comparison_factory import detector_comparison
from contracts.executor_contract import run_test_operation
from live_api import LiveApi
from visiondyno.executors.base import Executor
from visiondyno.job import JobRequest
from visiondyno.operations.context import OperationContext
from visiondyno.server import make_app
from visiondyno.store.records import JobRecord
from visiondyno.wiring import make_queue_executor


def run_page_operation(job_input: dict[str, Any], context: OperationContext) -> dict[str, Any]:
    """The contract's operations, and a comparison that was measured before."""
    if job_input.get("operation") == "benchmark":
        if "fake:fails" in job_input["models"]:
            return run_test_operation({"operation": "refuse"}, context)
        comparison = detector_comparison().model_dump(mode="json", by_alias=True)
        return {"operation": "benchmark", "comparison": comparison}
    return run_test_operation(job_input, context)


class LiveSite(LiveApi):
    """A server with its dashboard; `browse` gives a client that sends forms as a browser does."""

    def browse(self, **options: Any) -> httpx.Client:
        """A client whose forms come from the server's own pages."""
        headers = {"Origin": self.url, "Accept": "text/html"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, **options)

    def submit(self, **job_input: Any) -> JobRecord:
        """Submit a job."""
        record: JobRecord = self.call(self.service.jobs.submit(JobRequest(input=job_input)))
        return record

    def run_to_end(self, **job_input: Any) -> JobRecord:
        """Submit a job and wait for its end."""
        job = self.submit(**job_input)
        ended: JobRecord = self.call(self.service.jobs.wait(job.id, 50))
        assert ended.state.is_terminal
        return ended

    def _make_app(self) -> FastAPI:
        return make_app(self.service)


class LiveSiteWithWorkers(LiveSite):
    """The same with worker processes of its own, as `dyno up` has them."""

    def _make_executor(self) -> Executor:
        return make_queue_executor(self.settings)


def text_of(page: str) -> str:
    """A page's text without tags, entities resolved, white space collapsed."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


def sse_events(lines: Iterator[str], limit_s: float = 30) -> Iterator[dict[str, Any]]:
    """The events of a stream: `name`, `id`, and `data` as JSON."""
    event: dict[str, Any] = {}
    started_s = time.monotonic()
    for line in lines:
        assert time.monotonic() - started_s < limit_s, "the stream says nothing of interest"
        if not line:
            if "data" in event:
                yield event
            event = {}
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            event["data"] = json.loads(value)
        elif name == "event":
            event["name"] = value
        elif name == "id":
            event["id"] = value
