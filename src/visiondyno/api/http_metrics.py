"""Counts and times of HTTP requests, for every server of ours."""

from prometheus_client import CollectorRegistry, Counter, Histogram

from visiondyno.api.deferred import Deferred

_BUCKETS_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)
_METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"}


class HttpMetrics:
    """Counts of HTTP requests by route, method and status, and how long they took."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._deferred = Deferred(registry)
        self._requests = Counter(
            "visiondyno_http_requests",
            "HTTP requests answered; status 499: the client hung up.",
            ("method", "route", "status"),
            registry=registry,
        )
        self._seconds = Histogram(
            "visiondyno_http_request_seconds",
            "Time from a request's first byte to its answer's last.",
            ("method", "route"),
            buckets=_BUCKETS_S,
            registry=registry,
        )

    def observe(self, method: str, route: str, status: int, took_s: float) -> None:
        """Count one request. `route` is the template, never the path: paths are without number."""
        self._deferred.later(self._observe, method, route, status, took_s)

    def _observe(self, method: str, route: str, status: int, took_s: float) -> None:
        method = method if method in _METHODS else "other"
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(took_s)
