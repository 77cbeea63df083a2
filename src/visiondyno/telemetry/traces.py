"""OpenTelemetry traces: spans of requests and jobs, sent by OTLP over HTTP.

Set up by the standard `OTEL_*` variables alone
(https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/). Without an
endpoint, or without the extra `otel`, every function here does nothing.
"""

import contextlib
import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from visiondyno.telemetry.ids import bound

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, SpanKind

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_NS = 1_000_000_000

_log = logging.getLogger(__name__)

Attribute = str | int | float | bool
Attributes = Mapping[str, Attribute | None]


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a request or job; times are seconds since the epoch."""

    name: str
    started_s: float
    ended_s: float
    attributes: Attributes = field(default_factory=dict)


class RequestSpan:
    """What a request's span is told when its answer is known."""

    def __init__(self, span: "Span | None") -> None:
        self._span = span

    def answered(self, method: str, route: str, status: int, attributes: Attributes) -> None:
        """Name the span after the route; from status 500 on it is an error."""
        if self._span is None:
            return
        from opentelemetry.trace import StatusCode

        self._span.update_name(f"{method} {route}")
        found = {"http.route": route, "http.response.status_code": status, **attributes}
        self._span.set_attributes(_known(found))
        if status >= 500:
            self._span.set_status(StatusCode.ERROR)


class Tracing:
    """Makes spans and sends them. `Tracing(None)` does nothing.

    Safe from any thread; sending is on a thread of its own, and what can't be sent is dropped.
    """

    def __init__(self, provider: "TracerProvider | None") -> None:
        self._provider = provider
        self._tracer = None if provider is None else provider.get_tracer("visiondyno")

    @property
    def is_on(self) -> bool:
        """Whether spans are made at all."""
        return self._tracer is not None

    @contextlib.contextmanager
    def request(
        self, method: str, headers: Mapping[str, str], attributes: Attributes
    ) -> Iterator[RequestSpan]:
        """A server's span around the block, part of the caller's trace where `traceparent` says.

        Within, the trace's id is bound for logs, and `record_stages` adds children.

        Args:
            method: of the request; the span's name until the route is known.
            headers: by lower-case name; W3C trace context is taken from them.
            attributes: by OpenTelemetry's semantic conventions.
        """
        if self._tracer is None:
            yield RequestSpan(None)
            return
        from opentelemetry.trace import SpanKind, use_span

        span = self._tracer.start_span(
            method,
            context=_context_of(headers),
            kind=SpanKind.SERVER,
            attributes=_known({"http.request.method": method, **attributes}),
        )
        trace_id = format(span.get_span_context().trace_id, "032x")
        with use_span(span, end_on_exit=True), bound(trace_id=trace_id):
            yield RequestSpan(span)

    def record_stages(self, stages: Sequence[Stage]) -> None:
        """Children of the current span, after the fact."""
        if self._tracer is not None:
            self._children(stages, None)

    def record_request_span(
        self,
        whole: Stage,
        stages: Sequence[Stage] = (),
        headers: Mapping[str, str] | None = None,
        *,
        is_error: bool = False,
    ) -> None:
        """A server's span after the fact, with its stages as children.

        For what `request` isn't around: gRPC, or a queue.

        Args:
            whole: the request, from its beginning to its answer; the span is called as it is.
            stages: within it.
            headers: with the caller's `traceparent`; None: a child of the current span, or a trace
                of its own.
            is_error: whether it failed by the server's doing.
        """
        if self._tracer is None:
            return
        from opentelemetry.trace import SpanKind

        parent = None if headers is None else _context_of(headers)
        self._record(whole, stages, parent, SpanKind.SERVER, is_error=is_error)

    def record_job(self, whole: Stage, stages: Sequence[Stage], *, is_error: bool) -> None:
        """An ended job's span, part of the trace of the request in whose task its follower began.

        A job that another process accepted, or this one before it was restarted, begins a trace of
        its own.
        """
        if self._tracer is None:
            return
        from opentelemetry.trace import SpanKind

        self._record(whole, stages, None, SpanKind.CONSUMER, is_error=is_error)

    def close(self, within_s: float = 5.0) -> None:
        """Send what is left; spans made later are dropped.

        A collector that doesn't answer is waited for no longer than `within_s`.
        """
        if self._provider is None:
            return
        # The SDK's own timeouts don't bound the last batch: it waits for all retries, 10 s or more.
        closing = threading.Thread(target=self._provider.shutdown, name="close-traces", daemon=True)
        closing.start()
        closing.join(within_s)
        if closing.is_alive():
            _log.warning("The last spans are lost: the collector of traces doesn't answer.")

    def _record(
        self,
        whole: Stage,
        stages: Sequence[Stage],
        parent: "Context | None",
        kind: "SpanKind",
        *,
        is_error: bool,
    ) -> None:
        from opentelemetry.trace import StatusCode, set_span_in_context

        assert self._tracer is not None
        span = self._tracer.start_span(
            whole.name,
            context=parent,
            kind=kind,
            attributes=_known(whole.attributes),
            start_time=_ns(whole.started_s),
        )
        if is_error:
            span.set_status(StatusCode.ERROR)
        self._children(stages, set_span_in_context(span, parent))
        span.end(_ns(whole.ended_s))

    def _children(self, stages: Sequence[Stage], parent: "Context | None") -> None:
        assert self._tracer is not None
        for stage in stages:
            child = self._tracer.start_span(
                stage.name,
                context=parent,
                attributes=_known(stage.attributes),
                start_time=_ns(stage.started_s),
            )
            child.end(_ns(stage.ended_s))


def start_tracing(service_name: str, environ: Mapping[str, str] = os.environ) -> Tracing:
    """Traces as the `OTEL_*` variables say; one that does nothing where they ask for none.

    An endpoint without the extra `otel`, or with another protocol than `http/protobuf`, is said in
    one log line, and no trace is sent.

    Args:
        service_name: `service.name` where OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES have none.
        environ: the variables that decide whether to trace. How to (endpoint, headers, sampler,
            batches), OpenTelemetry's SDK reads from the process's own.
    """
    if not _is_wanted(environ):
        return Tracing(None)
    protocol = next((environ[name] for name in _PROTOCOLS if environ.get(name)), "http/protobuf")
    if protocol != "http/protobuf":
        _log.warning(
            "No traces are sent: OTEL_EXPORTER_OTLP_PROTOCOL is '%s', and only http/protobuf is "
            "spoken here; give the collector's HTTP address, usually on port 4318.",
            protocol,
        )
        return Tracing(None)
    try:
        return Tracing(_provider(service_name, environ))
    except ImportError:
        _log.warning(
            "No traces are sent: OTEL_EXPORTER_OTLP_ENDPOINT is set, but the extra 'otel' isn't "
            "installed. Install it with: pip install 'visiondyno[otel]'"
        )
        return Tracing(None)


def _is_wanted(environ: Mapping[str, str]) -> bool:
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if environ.get("OTEL_TRACES_EXPORTER", "otlp").strip() == "none":
        return False
    return any(environ.get(name) for name in _ENDPOINTS)


def _provider(service_name: str, environ: Mapping[str, str]) -> "TracerProvider":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    from visiondyno import __version__

    named = environ.get("OTEL_SERVICE_NAME") or "service.name=" in environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    attributes = {"service.version": __version__}
    if not named:
        attributes["service.name"] = service_name
    provider = TracerProvider(
        resource=Resource.create(attributes),
        shutdown_on_exit=False,  # whoever starts it closes it, and waits no longer than it may
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _context_of(headers: Mapping[str, str]) -> "Context":
    """The caller's trace, or none: never the context of whoever happens to be current."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract(dict(headers), Context())


def _known(attributes: Attributes) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}


def _ns(seconds: float) -> int:
    return round(seconds * _NS)
