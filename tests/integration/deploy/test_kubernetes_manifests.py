"""deploy/kubernetes: every overlay is built and valid, and its objects fit each other."""

import json
import re
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from image_files import (
    dyno_words,
    environment,
    final_stage,
    image_called,
    ports,
    tag,
    user,
    volumes,
)
from known_settings import options_of, serving_of, settings_of
from kustomize_build import (
    FOLDER,
    Object,
    build,
    container_of,
    containers,
    documents,
    of_kind,
    one,
    pod_labels,
    workloads,
)

from visiondyno import __version__

OVERLAYS = ("local-cpu", "gpu", "monitoring", "scale-to-zero", "serve-on-queue")
WITH_LOAD_TEST = "local-cpu and loadtest"
VERSIONS = ("1.30", kubernetes_validate.latest_version())
SCHEMAS = {
    "ScaledObject": "scaled_object.json",
    "ServiceMonitor": "monitors.json",
    "PodMonitor": "monitors.json",
}
SECRETS = {each["metadata"]["name"]: each for each in documents(FOLDER / "secret.example.yaml")}
ROUTES = {"/health", "/ready"}


@pytest.fixture(params=[*OVERLAYS, WITH_LOAD_TEST])
def objects(request: pytest.FixtureRequest) -> list[Object]:
    if request.param == WITH_LOAD_TEST:
        return [*build(FOLDER / "overlays/local-cpu"), *build(FOLDER / "loadtest")]
    return build(FOLDER / "overlays" / request.param)


def _environ(objects: list[Object], container: Object) -> dict[str, str]:
    """What the container sees; a reference that leads nowhere fails the test."""
    ours = image_called(container["image"])
    found = {} if ours is None else environment(ours)
    for source in container.get("envFrom", []):
        if "configMapRef" in source:
            found |= one(objects, "ConfigMap", source["configMapRef"]["name"])["data"]
        else:
            found |= SECRETS[source["secretRef"]["name"]]["stringData"]
    for each in container.get("env", []):
        if "value" in each:
            found[each["name"]] = each["value"]
        else:
            reference = each["valueFrom"]["secretKeyRef"]
            found[each["name"]] = SECRETS[reference["name"]]["stringData"][reference["key"]]
    assert all(isinstance(value, str) for value in found.values())
    return found


def test_every_overlay_is_tested_here() -> None:
    assert {path.name for path in (FOLDER / "overlays").iterdir()} == set(OVERLAYS)
    named: set[Path] = {FOLDER / "secret.example.yaml"}
    for path in FOLDER.rglob("kustomization.yaml"):
        how = yaml.safe_load(path.read_text(encoding="utf-8"))
        named |= {path, *(path.parent / name for name in how["resources"])}
        named |= {path.parent / patch["path"] for patch in how.get("patches", [])}
    assert set(FOLDER.rglob("*.yaml")) <= named


@pytest.mark.parametrize("version", VERSIONS)
def test_each_object_is_valid(objects: list[Object], version: str) -> None:
    for each in [*objects, *SECRETS.values()]:
        if each["kind"] in SCHEMAS:
            path = Path(__file__).parent / "schemas" / SCHEMAS[each["kind"]]
            schema = json.loads(path.read_text(encoding="utf-8"))
            jsonschema.Draft202012Validator(schema).validate(each)
        else:
            kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("Deployment", ("spec", "replica"), 3),
        ("Service", ("spec", "ports"), [{"prot": 80}]),
        ("ScaledObject", ("spec", "maxReplicas"), 3),
        ("ServiceMonitor", ("spec", "podMetricsEndpoints"), [{"port": "http"}]),
    ],
)
def test_what_is_wrong_is_found(kind: str, path: tuple[str, str], value: object) -> None:
    objects = build(FOLDER / "overlays/scale-to-zero")
    each = of_kind(objects, kind)[0]
    each[path[0]][path[1]] = value
    with pytest.raises(jsonschema.ValidationError):
        test_each_object_is_valid([each], VERSIONS[-1])


def test_all_is_in_one_namespace_that_is_restricted(objects: list[Object]) -> None:
    (namespace,) = of_kind(objects, "Namespace")
    name = namespace["metadata"]["name"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for each in objects:
        assert each["metadata"]["labels"]["app.kubernetes.io/part-of"] == "visiondyno"
        assert each is namespace or each["metadata"]["namespace"] == name
    assert {each["metadata"]["namespace"] for each in SECRETS.values()} == {name}


def test_pods_meet_the_restricted_standard(objects: list[Object]) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted."""
    for workload in workloads(objects):
        spec = workload["spec"]["template"]["spec"]
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        for volume in spec.get("volumes", []):
            assert set(volume) - {"name"} <= {"emptyDir", "persistentVolumeClaim"}
            assert len(volume) == 2, volume
        for container in spec["containers"]:
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False
            assert own["capabilities"] == {"drop": ["ALL"]}
            assert own["readOnlyRootFilesystem"] is True


def test_pods_get_nothing_that_they_dont_need(objects: list[Object]) -> None:
    # With service links the cluster's Service called redis sets REDIS_PORT to a URL.
    for workload in workloads(objects):
        spec = workload["spec"]["template"]["spec"]
        assert spec["enableServiceLinks"] is False, workload["metadata"]["name"]
        assert spec["automountServiceAccountToken"] is False, workload["metadata"]["name"]
        if "serviceAccountName" in spec:
            assert one(objects, "ServiceAccount", spec["serviceAccountName"])


def test_containers_of_ours_run_as_their_images_do(objects: list[Object]) -> None:
    for workload in workloads(objects):
        spec = workload["spec"]["template"]["spec"]
        for container in spec["containers"]:
            ours = image_called(container["image"])
            if ours is None:
                assert re.search(r"\d+\.\d+", tag(container["image"]))
                continue
            assert tag(container["image"]).removesuffix("-cuda") == __version__
            uid, gid = (int(part) for part in user(ours).split(":"))
            security = spec["securityContext"]
            assert (security["runAsUser"], security["runAsGroup"]) == (uid, gid)
            assert security["fsGroup"] == gid
            mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert {*volumes(ours), "/tmp"} <= mounted
            assert {port["containerPort"] for port in container.get("ports", [])} <= ports(ours)
            assert "command" not in container


def test_volumes_and_mounts_belong_together(objects: list[Object]) -> None:
    for workload in workloads(objects):
        spec = workload["spec"]["template"]["spec"]
        claims = workload["spec"].get("volumeClaimTemplates", [])
        there = [each["name"] for each in spec.get("volumes", [])]
        there += [each["metadata"]["name"] for each in claims]
        mounted = {m["name"] for c in spec["containers"] for m in c.get("volumeMounts", [])}
        assert sorted(there) == sorted(mounted)
        for volume in spec.get("volumes", []):
            if "persistentVolumeClaim" in volume:
                name = volume["persistentVolumeClaim"]["claimName"]
                assert one(objects, "PersistentVolumeClaim", name)


def test_commands_and_settings_are_known_to_the_programs(
    objects: list[Object], monkeypatch: pytest.MonkeyPatch
) -> None:
    for container in containers(objects):
        environ = _environ(objects, container)
        ours = image_called(container["image"])
        if ours is None:
            continue
        words = dyno_words(ours, container["args"])
        if ours == "serve":
            config = serving_of(words, environ, monkeypatch)
            assert config.model == "visiondyno:street-n"
            assert (config.host, config.port) == ("0.0.0.0", 8080)
            continue
        found = options_of(words)
        if container["name"] == "loadtest":
            (url,) = found["urls"]
            (service,) = (
                e for e in of_kind(objects, "Service") if e["metadata"]["name"] == "serve"
            )
            assert url == f"http://serve:{service['spec']['ports'][0]['port']}/predict"
            assert found["json_out"] == "-"
            assert found["out"].is_relative_to("/tmp")
            continue
        settings = settings_of(environ, monkeypatch)
        if container["name"] == "api":
            # Without it the server wouldn't be ready while there are no workers.
            assert (settings.workers_min, settings.keys_required) == (0, True)
            assert settings.webhook_secret is not None
        if container["name"] != "worker":
            assert settings.database_url is not None
        if container["name"] != "database-schema":
            assert settings.queue_url is not None
            assert settings.blobs_url is not None
        else:
            assert words == ["db", "upgrade"]


def test_workers_know_neither_the_database_nor_its_password(objects: list[Object]) -> None:
    environ = _environ(objects, container_of(objects, "Deployment", "worker"))
    assert not {"VISIONDYNO_DATABASE_URL", "POSTGRES_PASSWORD"} & set(environ)
    serving = _environ(objects, container_of(objects, "Deployment", "serve"))
    assert not {"VISIONDYNO_DATABASE_URL", "VISIONDYNO_REDIS_URL"} & set(serving)


def test_selectors_select_and_ports_are_there(objects: list[Object]) -> None:
    pods = {each["metadata"]["name"]: each for each in workloads(objects)}
    for workload in pods.values():
        if workload["kind"] != "Job":
            chosen = workload["spec"]["selector"]["matchLabels"]
            assert chosen.items() <= pod_labels(workload).items()
        for rule in workload["spec"]["template"]["spec"].get("topologySpreadConstraints", []):
            assert rule["labelSelector"]["matchLabels"].items() <= pod_labels(workload).items()
    for service in of_kind(objects, "Service"):
        chosen = service["spec"]["selector"].items()
        (selected,) = (each for each in pods.values() if chosen <= pod_labels(each).items())
        (container,) = selected["spec"]["template"]["spec"]["containers"]
        there = {port["name"]: port["containerPort"] for port in container["ports"]}
        for port in service["spec"]["ports"]:
            assert there[port["targetPort"]] == port["port"]
    for each in of_kind(objects, "StatefulSet"):
        assert one(objects, "Service", each["spec"]["serviceName"])
    for budget in of_kind(objects, "PodDisruptionBudget"):
        chosen = budget["spec"]["selector"]["matchLabels"].items()
        assert len([each for each in pods.values() if chosen <= pod_labels(each).items()]) == 1
    assert {each["metadata"]["name"] for each in of_kind(objects, "PodDisruptionBudget")} == {
        "api",
        "serve",
        "worker",
    }


def test_probes_ask_what_is_answered(objects: list[Object]) -> None:
    for container in containers(objects):
        there = {port["name"] for port in container.get("ports", [])}
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            probe = container.get(kind, {})
            if "httpGet" in probe:
                assert probe["httpGet"]["path"] in ROUTES
                assert probe["httpGet"]["port"] in there
            if "tcpSocket" in probe:
                assert probe["tcpSocket"]["port"] in there
            if "exec" in probe and (ours := image_called(container["image"])):
                check = final_stage(ours).last("HEALTHCHECK").rest.removeprefix("CMD ")
                assert probe["exec"]["command"] == json.loads(check)


def test_no_restart_is_made_for_what_a_restart_doesnt_mend(objects: list[Object]) -> None:
    assert "livenessProbe" not in container_of(objects, "Deployment", "worker")
    for name in ("api", "serve"):
        container = container_of(objects, "Deployment", name)
        assert container["livenessProbe"]["httpGet"]["path"] == "/health"
    # Jobs are taken while Redis or all workers are away, which /ready tells of.
    api = container_of(objects, "Deployment", "api")
    assert api["readinessProbe"]["httpGet"]["path"] == "/health"
    serve = container_of(objects, "Deployment", "serve")
    assert serve["readinessProbe"]["httpGet"]["path"] == "/ready"
    starting = serve["startupProbe"]
    assert starting["periodSeconds"] * starting["failureThreshold"] >= 300


def test_nobody_is_killed_before_the_drain_has_ended(objects: list[Object]) -> None:
    for name in ("api", "worker", "serve"):
        spec = one(objects, "Deployment", name)["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        slept_s = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {"seconds": 0})
        args = container["args"]
        flag = next((each for each in ("--drain", "--drain-s") if each in args), None)
        drained_s = float(args[args.index(flag) + 1]) if flag else 10.0
        assert spec["terminationGracePeriodSeconds"] > slept_s["seconds"] + drained_s


def test_requests_are_within_limits(objects: list[Object]) -> None:
    for container in containers(objects):
        requests, limits = (container["resources"].get(k, {}) for k in ("requests", "limits"))
        assert {"cpu", "memory"} <= set(requests)
        assert "memory" in limits
        for name in set(requests) & set(limits):
            assert _amount(requests[name]) <= _amount(limits[name]), (container["name"], name)
    for workload in workloads(objects):
        spec = workload["spec"]["template"]["spec"]
        for container in spec["containers"]:
            kept = container["resources"]["limits"].get("ephemeral-storage")
            folders = [each["emptyDir"] for each in spec.get("volumes", []) if "emptyDir" in each]
            if kept is not None:
                assert sum(_amount(each["sizeLimit"]) for each in folders) <= _amount(kept)


def test_a_workers_cache_fits_its_disk(objects: list[Object]) -> None:
    worker = one(objects, "Deployment", "worker")
    home = next(v for v in worker["spec"]["template"]["spec"]["volumes"] if v["name"] == "home")
    cache = one(objects, "ConfigMap", "worker")["data"]["VISIONDYNO_CACHE_BYTES"]
    assert int(cache) < _amount(home["emptyDir"]["sizeLimit"])


def _amount(quantity: str) -> float:
    match = re.fullmatch(r"([0-9.]+)(m|Ki|Mi|Gi|Ti)?", quantity)
    assert match, quantity
    units = {"m": 1e-3, None: 1.0, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
    return float(match[1]) * units[match[2]]


def test_a_load_test_is_not_begun_again_and_its_result_stays_for_a_day() -> None:
    job = one(build(FOLDER / "loadtest"), "Job", "loadtest")["spec"]
    assert job["backoffLimit"] == 0
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    assert job["ttlSecondsAfterFinished"] == 24 * 3600
