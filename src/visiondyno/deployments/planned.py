"""What a deployment would ask of RunPod, and what it comes to in RunPod's console."""

from dataclasses import dataclass

from visiondyno.deployments.endpoint import SCALER_VALUE, plain_name
from visiondyno.deployments.gpu_types import gpus_of
from visiondyno.deployments.rest_api import Json, Look, RestCalls
from visiondyno.deployments.worker_variables import shown_variables
from visiondyno.probes.gpu_catalogue import rented_gpus

_NEW_IDS = {
    "/templates": "TEMPLATE_ID",
    "/endpoints": "ENDPOINT_ID",
    "/networkvolumes": "VOLUME_ID",
}


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """A request that would change something.

    Attributes:
        method: HTTP's.
        path: below the API's URL.
        body: with secret values hidden.
    """

    method: str
    path: str
    body: Json


class PlannedCalls:
    """Stands in for the API: reads what is there, and takes note of what would be changed.

    Args:
        reads: answers what only reads; None: nothing can be asked, so lists are empty, and what is
            named by an id counts as there.

    Attributes:
        requests: what would have been sent, in order.
    """

    def __init__(self, reads: RestCalls | None) -> None:
        self._reads = reads
        self.requests: list[PlannedRequest] = []

    def listed(self, path: str) -> list[Json]:
        """All objects at `path`."""
        return [] if self._reads is None else self._reads.listed(path)

    def found(self, path: str) -> Json | None:
        """The object at `path`; None where there is none."""
        if self._reads is None:
            return {"id": path.rpartition("/")[2]}
        return self._reads.found(path)

    def changed(self, path: str, body: Json) -> Json:
        """Takes note of a PATCH."""
        self.requests.append(PlannedRequest("PATCH", path, shown_body(body)))
        return body

    def made(self, path: str, body: Json, look: Look) -> Json:  # noqa: ARG002 - the API's signature
        """Takes note of a POST; the answer's id says where RunPod's will stand."""
        self.requests.append(PlannedRequest("POST", path, shown_body(body)))
        return {**body, "id": _NEW_IDS[path]}


def shown_body(body: Json) -> Json:
    """A request's body as it may be shown."""
    return {**body, "env": shown_variables(body["env"])} if "env" in body else body


def console_settings(template: Json, endpoint: Json) -> list[tuple[str, str]]:
    """The fields of RunPod's console for an endpoint of its own image, in their order, and values.

    Names of fields: https://docs.runpod.io/serverless/endpoints/endpoint-configurations.
    """
    variables = shown_variables(template.get("env") or {})
    timeout_s = (endpoint.get("executionTimeoutMs") or 0) / 1000
    name, marked = plain_name(endpoint)
    flashboot = endpoint.get("flashboot", marked or None)
    return [
        ("Endpoint name", name),
        ("Endpoint type", "Queue based"),
        ("Container image", str(template.get("imageName", ""))),
        ("Container registry credentials", str(template.get("containerRegistryAuthId") or "none")),
        ("Container disk", f"{template.get('containerDiskInGb')} GB"),
        ("Environment variables", "\n".join(f"{k}={v}" for k, v in variables.items()) or "none"),
        ("GPU configuration", _gpus(endpoint.get("gpuTypeIds") or [])),
        ("Active workers", _shown(endpoint.get("workersMin"))),
        ("Max workers", _shown(endpoint.get("workersMax"))),
        ("GPUs per worker", _shown(endpoint.get("gpuCount"))),
        ("Idle timeout", f"{_shown(endpoint.get('idleTimeout'))} s"),
        ("Execution timeout", f"{timeout_s:g} s" if timeout_s else "as it is"),
        ("FlashBoot", "as it is" if flashboot is None else "on" if flashboot else "off"),
        ("Data centers", _centers(endpoint.get("dataCenterIds"))),
        ("Network volume", str(endpoint.get("networkVolumeId") or "none")),
        ("Auto-scaling type", f"Queue delay, {endpoint.get('scalerValue', SCALER_VALUE)} s"),
        ("CUDA versions", _cuda(endpoint)),
    ]


def _gpus(type_ids: list[str]) -> str:
    memory_gb = {gpu.name: gpu.memory_bytes // 10**9 for gpu in rented_gpus()}
    lines = []
    for type_id in type_ids:
        names = gpus_of([type_id])
        lines.append(f"{memory_gb[names[0]]} GB: {type_id}" if names else type_id)
    return "\n".join(lines) or "as it is"


def _cuda(endpoint: Json) -> str:
    if endpoint.get("minCudaVersion"):
        return f"{endpoint['minCudaVersion']} and later"
    return ", ".join(endpoint.get("allowedCudaVersions") or []) or "as it is"


def _centers(ids: list[str] | str | None) -> str:
    return ids if isinstance(ids, str) else ", ".join(ids or []) or "all"


def _shown(value: int | None) -> str:
    return "as it is" if value is None else str(value)
