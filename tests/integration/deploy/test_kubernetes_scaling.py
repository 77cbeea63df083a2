"""deploy/kubernetes: what scales, by what, and what Prometheus scrapes for it."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from image_files import image_called, tag
from kustomize_build import (
    FOLDER,
    Object,
    build,
    container_of,
    containers,
    of_kind,
    one,
    pod_labels,
)

from services import binary
from visiondyno.api.metrics import Snapshot, _SnapshotCollector
from visiondyno.job import JobState

OVERLAYS = ("local-cpu", "gpu", "monitoring", "scale-to-zero", "serve-on-queue")


@pytest.fixture(params=OVERLAYS)
def objects(request: pytest.FixtureRequest) -> list[Object]:
    return build(FOLDER / "overlays" / request.param)


def test_autoscalers_have_a_target_that_nobody_else_scales(objects: list[Object]) -> None:
    scaled: list[str] = []
    for each in of_kind(objects, "HorizontalPodAutoscaler") + of_kind(objects, "ScaledObject"):
        reference = each["spec"]["scaleTargetRef"]
        target = one(objects, reference.get("kind", "Deployment"), reference["name"])
        assert "replicas" not in target["spec"]
        scaled.append(reference["name"])
        for metric in each["spec"].get("metrics", []):
            if metric["type"] == "Resource":
                (container,) = target["spec"]["template"]["spec"]["containers"]
                assert metric["resource"]["name"] in container["resources"]["requests"]
    assert len(scaled) == len(set(scaled))
    for each in of_kind(objects, "Deployment"):
        assert ("replicas" in each["spec"]) == (each["metadata"]["name"] not in scaled)


def test_gpus_are_asked_for_where_they_are_used() -> None:
    objects = build(FOLDER / "overlays/gpu")
    for name, image in (("worker", "worker-cuda"), ("serve", "serve")):
        container = container_of(objects, "Deployment", name)
        assert image_called(container["image"]) == image
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert tag(container_of(objects, "Deployment", "serve")["image"]).endswith("-cuda")
    config = one(objects, "ConfigMap", "worker")["data"]
    assert int(config["WORKER_COUNT"]) == 7
    assert 0.95 < 7 * float(config["VISIONDYNO_GPU_MEMORY_FRACTION"]) <= 1.001
    assert one(objects, "ConfigMap", "serve")["data"]["VISIONDYNO_SERVE_DEVICE"] == "cuda"
    for container in containers(build(FOLDER / "overlays/local-cpu")):
        assert "nvidia.com/gpu" not in container["resources"]["limits"]
        assert "/" not in container["image"]


def test_workers_scale_to_zero_by_what_the_api_exports(tmp_path: Path) -> None:
    objects = build(FOLDER / "overlays/scale-to-zero")
    spec = one(objects, "ScaledObject", "worker")["spec"]
    assert spec["minReplicaCount"] == 0
    (trigger,) = spec["triggers"]
    slots = one(objects, "ConfigMap", "worker")["data"]["WORKER_COUNT"]
    assert trigger["metadata"]["threshold"] == slots
    query = trigger["metadata"]["query"]
    assert query.count(f'namespace="{of_kind(objects, "Namespace")[0]["metadata"]["name"]}"') == 2
    rules = {"groups": [{"name": "scaling", "rules": [{"record": "wanted", "expr": query}]}]}
    (tmp_path / "rules.yaml").write_text(json.dumps(rules))
    checked = [binary("promtool"), "check", "rules", str(tmp_path / "rules.yaml")]
    assert subprocess.run(checked, check=False, capture_output=True).returncode == 0
    exported = _exported()
    for name, state in re.findall(r'(visiondyno_\w+)\{[^}]*?(?:state="(\w+)")?\}', query):
        assert (name, state) in exported


def _exported() -> set[tuple[str, str]]:
    """Metrics of the API with their label `state`, when nothing has happened yet."""
    idle = Snapshot(jobs=dict.fromkeys(JobState, 0), oldest_waiting_s=None, workers=[])
    return {
        (sample.name, sample.labels.get("state", ""))
        for family in _SnapshotCollector(idle).collect()
        for sample in family.samples
    }


def test_monitors_select_ports_that_answer_metrics() -> None:
    objects = build(FOLDER / "overlays/monitoring")
    for kind, endpoints, of in (
        ("ServiceMonitor", "endpoints", "Service"),
        ("PodMonitor", "podMetricsEndpoints", "Deployment"),
    ):
        (monitor,) = of_kind(objects, kind)
        chosen = monitor["spec"]["selector"]["matchLabels"].items()
        (target,) = (
            each for each in of_kind(objects, of) if chosen <= _target_labels(each).items()
        )
        named = _target_labels(target).get(monitor["spec"].get("jobLabel", ""))
        # A PodMonitor's job is called NAMESPACE/NAME; alerts go by `visiondyno…`.
        job = named or f"{monitor['metadata']['namespace']}/{monitor['metadata']['name']}"
        assert job.startswith("visiondyno")
        there = (
            target["spec"]["ports"]
            if of == "Service"
            else target["spec"]["template"]["spec"]["containers"][0]["ports"]
        )
        for endpoint in monitor["spec"][endpoints]:
            assert endpoint["port"] in {port["name"] for port in there}
            assert endpoint["path"] in {"/metrics"}


def _target_labels(each: Object) -> dict[str, str]:
    if each["kind"] != "Service":
        return pod_labels(each)
    found: dict[str, str] = each["metadata"]["labels"]
    return found


def test_the_inference_server_scales_by_its_queue() -> None:
    objects = build(FOLDER / "overlays/serve-on-queue")
    (metric,) = one(objects, "HorizontalPodAutoscaler", "serve")["spec"]["metrics"]
    assert metric["type"] == "Pods"
    assert metric["pods"]["metric"]["name"] == "visiondyno_inference_queue_depth"
    assert float(metric["pods"]["target"]["averageValue"]) < 100
