"""Builds the kustomizations of deploy/kubernetes: exactly the fields that they use.

https://kubectl.docs.kubernetes.io/references/kustomize/kustomization/; lists are merged as the
API's own types say (`x-kubernetes-patch-merge-key`). What isn't done here is refused, not ignored.
"""

from pathlib import Path
from typing import Any

import yaml
from image_files import ROOT

Object = dict[str, Any]

FOLDER = ROOT / "deploy/kubernetes"
_FIELDS = {
    "apiVersion", "kind", "namespace", "labels", "resources", "patches", "images", "replicas",
}  # fmt: skip
_KEYS = {
    "containers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
}
"""Lists that are merged, and by what."""
_REPLACED = {"metrics", "tolerations"}
"""Lists that are replaced as a whole."""
_OF_THE_CLUSTER = {"Namespace"}


def documents(path: Path) -> list[Object]:
    """The objects of a file."""
    return [each for each in yaml.safe_load_all(path.read_text(encoding="utf-8")) if each]


def identity(each: Object) -> tuple[str, str, str]:
    """What an object is named by in a namespace."""
    return each["apiVersion"], each["kind"], each["metadata"]["name"]


def build(folder: Path) -> list[Object]:
    """The objects that `kubectl kustomize FOLDER` writes."""
    (how,) = documents(folder / "kustomization.yaml")
    assert set(how) <= _FIELDS, f"{folder.name}: {set(how) - _FIELDS}"
    assert how["kind"] == "Kustomization"
    objects: list[Object] = []
    for name in how["resources"]:
        path = (folder / name).resolve()
        assert path.is_relative_to(FOLDER), name
        objects += build(path) if path.is_dir() else documents(path)
    names = [identity(each) for each in objects]
    assert len(names) == len(set(names)), f"{folder.name}: {sorted(names)}"
    for patch in how.get("patches", []):
        assert set(patch) == {"path"}, patch
        # The kustomize in kubectl 1.30 takes no file with several.
        (change,) = documents(folder / patch["path"])
        _patch(objects, change)
    _name_and_label(objects, how)
    for wanted in how.get("replicas", []):
        _scale(objects, wanted)
    for wanted in how.get("images", []):
        _set_image(objects, wanted)
    return objects


def _patch(objects: list[Object], change: Object) -> None:
    found = [each for each in objects if identity(each) == identity(change)]
    assert len(found) == 1, f"{identity(change)} is patched, and there are {len(found)} of it"
    # Custom resources have no merge keys, so a list of theirs would be replaced.
    assert "." not in change["apiVersion"] or ".k8s.io/" in change["apiVersion"]
    found[0].update(_merge(found[0], change))


def _merge(below: Object, above: Object) -> Object:
    result = dict(below)
    for key, value in above.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            result[key] = _merge(result.get(key) or {}, value)
        elif isinstance(value, list) and key in _KEYS:
            result[key] = _merge_list(result.get(key, []), value, _KEYS[key])
        else:
            assert not isinstance(value, list) or key in _REPLACED, (
                f"no patch of ours changes {key}"
            )
            result[key] = value
    return result


def _merge_list(below: list[Object], above: list[Object], key: str) -> list[Object]:
    changes = {each[key]: each for each in above}
    kept = [_merge(each, changes.pop(each[key], {})) for each in below]
    return [*kept, *changes.values()]


def _name_and_label(objects: list[Object], how: Object) -> None:
    for each in objects:
        if "namespace" in how and each["kind"] not in _OF_THE_CLUSTER:
            each["metadata"]["namespace"] = how["namespace"]
        for label in how.get("labels", []):
            assert set(label) == {"pairs"}, label
            each["metadata"].setdefault("labels", {}).update(label["pairs"])


def _scale(objects: list[Object], wanted: Object) -> None:
    found = [
        each
        for each in objects
        if each["kind"] in {"Deployment", "StatefulSet"}
        and each["metadata"]["name"] == wanted["name"]
    ]
    assert len(found) == 1, wanted
    found[0]["spec"]["replicas"] = wanted["count"]


def _set_image(objects: list[Object], wanted: Object) -> None:
    assert set(wanted) <= {"name", "newName", "newTag"}, wanted
    changed = 0
    for container in containers(objects):
        name, _, tag = container["image"].partition(":")
        if name == wanted["name"]:
            tag = wanted.get("newTag", tag)
            container["image"] = f"{wanted.get('newName', name)}:{tag}"
            changed += 1
    assert changed, f"no container has the image {wanted['name']}"


def pod_of(each: Object) -> Object | None:
    """The template of an object's pods, or None where it has none."""
    template: Object | None = each.get("spec", {}).get("template")
    return template


def containers(objects: list[Object]) -> list[Object]:
    """All containers."""
    pods = [pod for each in objects if (pod := pod_of(each)) is not None]
    return [container for pod in pods for container in pod["spec"]["containers"]]


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    """All objects of a kind."""
    return [each for each in objects if each["kind"] == kind]


def one(objects: list[Object], kind: str, name: str) -> Object:
    """The one object of this kind and name."""
    (found,) = (each for each in of_kind(objects, kind) if each["metadata"]["name"] == name)
    return found


def container_of(objects: list[Object], kind: str, name: str) -> Object:
    """The one container of a workload's pods."""
    (found,) = one(objects, kind, name)["spec"]["template"]["spec"]["containers"]
    return dict(found)


def workloads(objects: list[Object]) -> list[Object]:
    """What makes pods."""
    return [each for each in objects if pod_of(each) is not None]


def pod_labels(workload: Object) -> dict[str, str]:
    """Labels of a workload's pods."""
    found: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return found
