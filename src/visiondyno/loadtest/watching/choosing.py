"""Which watcher a target's spec asks for."""

from collections.abc import Callable
from urllib.parse import urlsplit, urlunsplit

from visiondyno.errors import SpecError
from visiondyno.loadtest.watching.base import Watcher
from visiondyno.loadtest.watching.cgroup import CgroupWatcher
from visiondyno.loadtest.watching.cloud_run import CloudRunWatcher
from visiondyno.loadtest.watching.pid import PidWatcher
from visiondyno.loadtest.watching.prometheus import PrometheusWatcher, public_address
from visiondyno.specs.load_test import (
    Pricing,
    TargetSpec,
    WatchedCgroup,
    WatchedCloudRun,
    WatchedMetrics,
    WatchedProcess,
)


def watcher_for(
    target: TargetSpec, on_progress: Callable[[str], None] | None = None
) -> Watcher | None:
    """A watcher of what the target names; None where it names nothing.

    Args:
        target: its headers go with the question for metrics where they are of the same server.
        on_progress: told in words what is waited for, where that takes minutes.

    Raises:
        MissingExtra: Google's metrics are asked for without the extra `gcp`.
        SpecError: the address of the metrics can't be made of the target's.
    """
    match target.watch:
        case None:
            return None
        case WatchedProcess(pid=pid):
            return PidWatcher(pid)
        case WatchedCgroup(path=path):
            return CgroupWatcher(path)
        case WatchedMetrics(url=url):
            url = url or metrics_url(target.url)
            return PrometheusWatcher(
                url, headers=target.headers if _origin(url) == _origin(target.url) else None
            )
        case WatchedCloudRun():
            vcpus, memory_gib = _allocated(target.pricing)
            return CloudRunWatcher(
                target.watch, vcpus=vcpus, memory_gib=memory_gib, on_progress=on_progress
            )


def _allocated(pricing: Pricing | None) -> tuple[float | None, float | None]:
    """What an instance has, vCPUs and GiB, where the user said so: no default of a price."""
    if pricing is None:
        return None, None
    said = pricing.model_fields_set
    by_vcpu, by_gib = pricing.usd_per_vcpu_s is not None, pricing.usd_per_gib_s is not None
    return (
        pricing.vcpus if by_vcpu or "vcpus" in said else None,
        pricing.memory_gib if by_gib or "memory_gib" in said else None,
    )


def metrics_url(url: str) -> str:
    """`/metrics` of the server that a URL leads to.

    Raises:
        SpecError: it is no http or https URL with a host.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if parts.scheme not in {"http", "https"} or not host:
        raise SpecError(
            f"'{public_address(url)}' is no http:// or https:// address, so it has no /metrics."
        )
    host = f"[{host}]" if ":" in host else host
    return urlunsplit((parts.scheme, f"{host}:{port}" if port else host, "/metrics", "", ""))


def _origin(url: str) -> tuple[str, str | None, int | None]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise SpecError(f"The address '{public_address(url)}' isn't a URL.") from None
    return parts.scheme, parts.hostname, port or {"http": 80, "https": 443}.get(parts.scheme)
