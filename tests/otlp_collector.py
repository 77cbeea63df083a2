"""An OpenTelemetry collector for tests: takes OTLP over HTTP and keeps the spans."""

import gzip
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


class OtlpCollector:
    """Listens on a free port; `url` is what OTEL_EXPORTER_OTLP_ENDPOINT takes."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[dict[str, Any]] = []
        self._come = threading.Condition()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                assert self.path == "/v1/traces"
                assert self.headers["Content-Type"] == "application/x-protobuf"
                collector._take(ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def wait(self, is_enough: Callable[[list[Any]], bool]) -> list[Any]:
        """The spans, once there are enough; pytest's own timeout ends it."""
        with self._come:
            self._come.wait_for(lambda: is_enough(self.spans))
            return list(self.spans)

    def _take(self, request: ExportTraceServiceRequest) -> None:
        with self._come:
            for of_resource in request.resource_spans:
                self.resources.append(attributes_of(of_resource.resource))
                for scope in of_resource.scope_spans:
                    self.spans.extend(scope.spans)
            self._come.notify_all()


def attributes_of(thing: Any) -> dict[str, Any]:
    """Attributes of a span or resource by key."""
    return {
        one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in thing.attributes
    }
