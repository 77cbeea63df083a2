"""One endpoint of RunPod with its template and volume: found, made, or changed where need be.

Fields: https://rest.runpod.io/v1/docs (schemas `TemplateCreateInput`, `TemplateUpdateInput`,
`EndpointCreateInput`, `EndpointUpdateInput`, `NetworkVolumeCreateInput`).

A change is sent with all fields, those that aren't to change as they are: the documentation gives
defaults for fields of a change too, and doesn't say whether a missing one is set to it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from visiondyno.deployments.gpu_types import type_ids
from visiondyno.deployments.rest_api import Json, RestCalls
from visiondyno.deployments.worker_variables import BLOBS_URL
from visiondyno.errors import Conflict, NotFound, SpecError

DEFAULT_GPUS = ("A4000",)
DEFAULT_WORKERS = (0, 3)
DEFAULT_IDLE_S = 5
DEFAULT_EXECUTION_S = 300
DEFAULT_DISK_GB = 50
DEFAULT_CUDA = "13.0"
"""What the image's onnxruntime and torch are made for."""
SCALER, SCALER_VALUE = "QUEUE_DELAY", 4

_FLASHBOOT = " -fb"
"""RunPod writes the setting at the end of a name."""
_DATA_CENTER = re.compile(r"[A-Z]{2,4}-[A-Z]{2,4}-\d+")
_TEMPLATES = "/templates?includeEndpointBoundTemplates=true"
_KEPT_OF_TEMPLATE = (
    *("containerRegistryAuthId", "dockerEntrypoint", "dockerStartCmd", "ports", "readme"),
    *("volumeMountPath", "name"),
)
_KEPT_OF_ENDPOINT = (
    *("allowedCudaVersions", "minCudaVersion", "dataCenterIds", "executionTimeoutMs", "gpuCount"),
    *("gpuTypeIds", "idleTimeout", "name", "networkVolumeId", "networkVolumeIds", "scalerType"),
    *("scalerValue", "workersMax", "workersMin"),
)


@dataclass(frozen=True, slots=True)
class Volume:
    """A network volume: one that is there by its id, or one of this size in a data centre.

    Attributes:
        place: the volume's id, or the data centre's.
        size_gb: of a new one.
    """

    place: str
    size_gb: int = 20

    @property
    def is_id(self) -> bool:
        """Whether a volume is named, and not a data centre."""
        return _DATA_CENTER.fullmatch(self.place) is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """How an endpoint is to be. None: as it is, or the default for a new one.

    Attributes:
        name: of the endpoint.
        image: with its tag.
        endpoint_id: of the one to change; None: found by its name.
        recorded_id: of the one that was deployed from here; looked for before the name.
        env: the workers' variables, added to those that are there.
        blobs: their variables for blobs, where nothing else names an address of blobs.
        removed: names of variables to take away.
        gpus: names in the price table, the preferred one first.
        workers: the least and the most.
        idle_timeout_s: that a worker waits for its next job.
        execution_timeout_s: of jobs whose policy has none.
        disk_gb: of a worker's container.
        registry_auth_id: RunPod's id of the credentials for a private image.
        data_centers: RunPod's ids.
        volume: a network volume; it ties the endpoint to its data centre.
        min_cuda: the least CUDA version of the workers' driver.
        flashboot: whether stopped workers are kept for a fast start.
    """

    name: str
    image: str
    endpoint_id: str | None = None
    recorded_id: str | None = None
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    blobs: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    removed: frozenset[str] = frozenset()
    gpus: tuple[str, ...] | None = None
    workers: tuple[int, int] | None = None
    idle_timeout_s: int | None = None
    execution_timeout_s: int | None = None
    disk_gb: int | None = None
    registry_auth_id: str | None = None
    data_centers: tuple[str, ...] | None = None
    volume: Volume | None = None
    min_cuda: str | None = None
    flashboot: bool | None = None


@dataclass(frozen=True, slots=True)
class Deployed:
    """What is there now.

    Attributes:
        endpoint: RunPod's object.
        template: RunPod's object.
        is_new: whether the endpoint was made.
        changes: sentences about what was made or changed; none where all was as wanted.
    """

    endpoint: Json
    template: Json
    is_new: bool
    changes: tuple[str, ...]


def deploy_endpoint(calls: RestCalls, wanted: Wanted) -> Deployed:
    """Have one endpoint as `wanted`: it is changed where it is there, and made where it isn't.

    Whatever an earlier call left undone is gone on with; nothing is made twice.

    Raises:
        Conflict: several endpoints have the name.
        NotFound: no endpoint has the id, or no volume.
        VisionDynoError: as `RunPodRest` says.
    """
    endpoint = find_endpoint(calls, wanted)
    changes: list[str] = []
    volume = _volume(calls, wanted, changes)
    template = _template(calls, wanted, endpoint, changes)
    if endpoint is None:
        body = new_endpoint(wanted, template["id"], volume)
        made = calls.made("/endpoints", body, lambda: find_endpoint(calls, wanted))
        return Deployed(made, template, is_new=True, changes=(*changes, "endpoint made"))
    body = _changed_endpoint(wanted, endpoint, template["id"], volume)
    if _differs(endpoint, body):
        endpoint = {**endpoint, **calls.changed(f"/endpoints/{endpoint['id']}", body)}
        changes.append("endpoint changed")
    return Deployed(endpoint, template, is_new=False, changes=tuple(changes))


def find_endpoint(calls: RestCalls, wanted: Wanted) -> Json | None:
    """The endpoint with the id, else the recorded one, else that of the name; None without any.

    Raises:
        Conflict: several endpoints have the name.
        NotFound: no endpoint has the id.
    """
    if wanted.endpoint_id is not None:
        found = calls.found(f"/endpoints/{wanted.endpoint_id}")
        if found is None:
            raise NotFound(
                f"RunPod has no endpoint {wanted.endpoint_id}; leave --endpoint out to go by the "
                "name, and make one where there is none."
            )
        return found
    if wanted.recorded_id is not None:
        found = calls.found(f"/endpoints/{wanted.recorded_id}")
        if found is not None:
            return found
    named = [one for one in calls.listed("/endpoints") if plain_name(one)[0] == wanted.name]
    if len(named) > 1:
        ids = ", ".join(str(one.get("id")) for one in named)
        raise Conflict(
            f"RunPod has {len(named)} endpoints named '{wanted.name}' ({ids}); say which one with "
            "--endpoint ID."
        )
    return named[0] if named else None


def variables(wanted: Wanted, there: Mapping[str, str]) -> dict[str, str]:
    """All variables of the workers, sorted, where they have `there` now."""
    env = {**there, **wanted.env}
    if BLOBS_URL not in env and BLOBS_URL not in wanted.removed:
        env = {**wanted.blobs, **env}
    return {name: env[name] for name in sorted(env) if name not in wanted.removed}


def new_template(wanted: Wanted, owner: str) -> Json:
    """The body that makes the template of the endpoint named `owner`."""
    body: Json = {
        "name": template_name(owner),
        "imageName": wanted.image,
        "isServerless": True,
        "category": "NVIDIA",
        "containerDiskInGb": wanted.disk_gb or DEFAULT_DISK_GB,
        "volumeInGb": 0,  # a serverless worker has none of its own
        "ports": [],
        "dockerEntrypoint": [],
        "dockerStartCmd": [],
        "env": variables(wanted, {}),
    }
    if wanted.registry_auth_id:
        body["containerRegistryAuthId"] = wanted.registry_auth_id
    return body


def new_endpoint(wanted: Wanted, template_id: str, volume: Json | None = None) -> Json:
    """The body that makes the endpoint."""
    least, most = wanted.workers or DEFAULT_WORKERS
    body: Json = {
        "name": wanted.name,
        "templateId": template_id,
        "computeType": "GPU",
        "gpuTypeIds": type_ids(wanted.gpus or DEFAULT_GPUS),
        "gpuCount": 1,
        "workersMin": least,
        "workersMax": most,
        "idleTimeout": wanted.idle_timeout_s or DEFAULT_IDLE_S,
        "executionTimeoutMs": (wanted.execution_timeout_s or DEFAULT_EXECUTION_S) * 1000,
        "scalerType": SCALER,
        "scalerValue": SCALER_VALUE,
        "flashboot": wanted.flashboot is not False,
        "minCudaVersion": wanted.min_cuda or DEFAULT_CUDA,
    }
    return {**body, **_where(wanted, volume)}


def template_name(name: str) -> str:
    """What the template of the endpoint `name` is called: RunPod has each name once."""
    return f"{name}-worker"


def plain_name(endpoint: Json) -> tuple[str, bool]:
    """The endpoint's name as it was given, and whether RunPod's mark of FlashBoot was on it."""
    name = str(endpoint.get("name") or "")
    return name.removesuffix(_FLASHBOOT), name.endswith(_FLASHBOOT)


def check_volume_fits(wanted: Wanted) -> None:
    """Whether volume and data centres can be had together.

    Raises:
        SpecError: the volume is in another data centre.
    """
    volume, centers = wanted.volume, wanted.data_centers
    if volume is None or volume.is_id or not centers or centers == (volume.place,):
        return
    raise SpecError(
        f"A volume in {volume.place} ties the endpoint to that data centre; leave --data-center "
        "out."
    )


def _volume(calls: RestCalls, wanted: Wanted, changes: list[str]) -> Json | None:
    volume = wanted.volume
    if volume is None:
        return None
    if volume.is_id:
        found = calls.found(f"/networkvolumes/{volume.place}")
        if found is None:
            raise NotFound(
                f"RunPod has no network volume {volume.place}; give the id of one, or a data "
                "centre such as EU-RO-1 for a new one."
            )
        return found

    def look() -> Json | None:
        for one in calls.listed("/networkvolumes"):
            if (one.get("name"), one.get("dataCenterId")) == (wanted.name, volume.place):
                return one
        return None

    there = look()
    if there is not None:
        return there
    body = {"name": wanted.name, "size": volume.size_gb, "dataCenterId": volume.place}
    made = calls.made("/networkvolumes", body, look)
    changes.append(f"volume of {volume.size_gb} GB made in {volume.place}")
    return made


def _template(calls: RestCalls, wanted: Wanted, endpoint: Json | None, changes: list[str]) -> Json:
    owner = wanted.name if endpoint is None else plain_name(endpoint)[0] or wanted.name
    bound_id = None if endpoint is None else endpoint.get("templateId")
    there = _find_template(calls, owner, bound_id)
    if there is None:
        body = new_template(wanted, owner)
        made = calls.made("/templates", body, lambda: _find_template(calls, owner, None))
        changes.append("template made")
        return made
    body = _changed_template(wanted, there)
    if not _differs(there, body):
        return there
    changes.append("template changed")
    return {**there, **calls.changed(f"/templates/{there['id']}", body)}


def _find_template(calls: RestCalls, owner: str, bound_id: str | None) -> Json | None:
    listed = calls.listed(_TEMPLATES)
    bound = next((one for one in listed if bound_id and one.get("id") == bound_id), None)
    name = template_name(owner)
    return bound or next((one for one in listed if one.get("name") == name), None)


def _changed_template(wanted: Wanted, there: Json) -> Json:
    body: Json = {name: there[name] for name in _KEPT_OF_TEMPLATE if there.get(name)}
    body |= {
        "imageName": wanted.image,
        "containerDiskInGb": wanted.disk_gb or there.get("containerDiskInGb") or DEFAULT_DISK_GB,
        "volumeInGb": 0,
        "env": variables(wanted, _object(there.get("env"))),
    }
    if wanted.registry_auth_id:
        body["containerRegistryAuthId"] = wanted.registry_auth_id
    return body


def _changed_endpoint(wanted: Wanted, there: Json, template_id: str, volume: Json | None) -> Json:
    body: Json = {name: there[name] for name in _KEPT_OF_ENDPOINT if there.get(name) is not None}
    if isinstance(body.get("dataCenterIds"), str):  # as RunPod's example shows it
        body["dataCenterIds"] = [part for part in body["dataCenterIds"].split(",") if part]
    body["templateId"] = template_id
    given: Json = {
        "gpuTypeIds": None if wanted.gpus is None else type_ids(wanted.gpus),
        "idleTimeout": wanted.idle_timeout_s,
        "executionTimeoutMs": (wanted.execution_timeout_s or 0) * 1000 or None,
        "minCudaVersion": wanted.min_cuda,
        "flashboot": wanted.flashboot,
    }
    if wanted.workers is not None:
        given |= {"workersMin": wanted.workers[0], "workersMax": wanted.workers[1]}
    body |= {name: value for name, value in given.items() if value is not None}
    body |= _where(wanted, volume)
    return {name: value for name, value in body.items() if value not in ("", [])}


def _where(wanted: Wanted, volume: Json | None) -> Json:
    where: Json = {}
    if wanted.data_centers:
        where["dataCenterIds"] = list(wanted.data_centers)
    if volume is not None:
        where["networkVolumeId"] = volume["id"]
        if volume.get("dataCenterId"):
            where["dataCenterIds"] = [volume["dataCenterId"]]
    return where


def _differs(there: Json, body: Json) -> bool:
    return any(_plain(there.get(name)) != _plain(value) for name, value in body.items())


def _plain(value: Any) -> Any:
    """One form for what RunPod shows in several: a list, also as text; nothing, also as empty."""
    if isinstance(value, list):
        return ",".join(map(str, value)) or None
    return value if value not in ("", {}) else None


def _object(value: Any) -> dict[str, str]:
    return dict(value) if isinstance(value, dict) else {}
