"""The HTTP API over a service, as one FastAPI application."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, ProcessCollector
from starlette.middleware.cors import CORSMiddleware

from visiondyno import __version__
from visiondyno.api import benchmark, blobs, docs, health, jobs, metrics, predict, runpod, submit
from visiondyno.api.edge import Edge
from visiondyno.api.events import JobEventView
from visiondyno.api.gate import Gate
from visiondyno.api.http_metrics import HttpMetrics
from visiondyno.api.job_traces import JobTraces
from visiondyno.api.metrics import JobMetrics
from visiondyno.api.problems import Problem, install_problem_handlers
from visiondyno.service import Service
from visiondyno.telemetry.access import AccessLog
from visiondyno.telemetry.ids import REQUEST_ID_HEADER
from visiondyno.telemetry.traces import Tracing

_DESCRIPTION = """\
Jobs, comparisons and model submissions. `/v2` is RunPod serverless's job API, so their clients \
work against it. Errors are problem documents (RFC 9457). Times are seconds since the epoch \
unless a name says `_ms` or it is RunPod's `delayTime` and `executionTime` (milliseconds)."""

_TAGS = [
    {"name": "jobs (RunPod's API)", "description": "Run operations, as on RunPod serverless."},
    {"name": "comparisons", "description": "Compare models; results are found again by content."},
    {"name": "predictions", "description": "Predict uploaded images, as a zip file or one by one."},
    {"name": "submissions", "description": "Hand in models to evaluation tasks."},
    {"name": "jobs", "description": "Every job of this server, however it was asked for."},
    {"name": "workers", "description": "Who runs the jobs."},
    {"name": "blobs", "description": "Large files by the SHA-256 of their content."},
    {"name": "operations", "description": "For monitoring; no key is needed."},
]


def make_api(
    service: Service,
    clock: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
    access_log: AccessLog | None = None,
    tracing: Tracing | None = None,
) -> FastAPI:
    """The application. It neither starts nor closes the service: whoever composes the server does.

    Args:
        service: what the routes call.
        clock: seconds since the epoch, for the retention of results.
        monotonic: seconds, for the rate limit.
        access_log: gets a line for each request; not closed here.
        tracing: gets a span for each request and each ended job; not closed here.
    """
    app = _DescribedApi(
        title="VisionDyno",
        version=__version__,
        description=_DESCRIPTION,
        openapi_tags=_TAGS,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
    )
    tracing = tracing or Tracing(None)
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    app.state.service = service
    app.state.clock = clock
    app.state.streams = runpod.StreamCursors()
    app.state.metrics = registry
    service.jobs.on_recorded(JobMetrics(registry).ended)
    service.jobs.on_recorded(JobTraces(tracing).ended)
    # `open_router` first: its /submit/health must not be taken for a task.
    for router in (
        runpod.router,
        benchmark.router,
        predict.router,
        submit.open_router,
        submit.router,
        jobs.router,
        blobs.router,
        health.router,
        metrics.router,
        docs.router,
    ):
        app.include_router(router)
    install_problem_handlers(app)
    # Innermost first: the gate, the edge around it, CORS around both so that errors have it.
    app.add_middleware(Gate, service=service, clock=monotonic)
    app.add_middleware(Edge, metrics=HttpMetrics(registry), access_log=access_log, tracing=tracing)
    if service.settings.cors_origins:
        _add_cors(app, service.settings.cors_origins)
    return app


def _add_cors(app: FastAPI, origins: Sequence[str]) -> None:
    app.add_middleware(
        CORSMiddleware,
        allow_origins=list(origins),
        allow_methods=["GET", "HEAD", "POST", "PUT", "DELETE"],
        allow_headers=[
            *("Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID"),
            *(REQUEST_ID_HEADER, "traceparent", "tracestate"),
        ],
        expose_headers=["Retry-After", REQUEST_ID_HEADER],
    )


class _DescribedApi(FastAPI):
    """Its document has each operation's docstring as summary, and what only a reference names.

    That is the problem document, and an event's data.
    """

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            document = super().openapi()
            for item in document["paths"].values():
                for operation in item.values():
                    operation["summary"] = operation["description"].split("\n")[0].rstrip(".")
            schemas = document["components"]["schemas"]
            for model in (Problem, JobEventView):
                schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
                for name, inner in schema.pop("$defs", {}).items():
                    schemas.setdefault(name, inner)
                schemas[model.__name__] = schema
        assert self.openapi_schema is not None, "super().openapi() keeps what it makes"
        return self.openapi_schema
