"""The tests' own kustomize: what it merges, and that it refuses what it doesn't do."""

from pathlib import Path

import kustomize_build
import pytest
import yaml
from kustomize_build import build


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(kustomize_build, "FOLDER", tmp_path.resolve())
    pod = {
        "containers": [
            {"name": "a", "image": "a:1", "env": [{"name": "X", "value": "1"}], "args": ["x"]},
            {"name": "b", "image": "b:1"},
        ]
    }
    workload = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "w"},
        "spec": {"replicas": 3, "template": {"spec": pod}},
    }
    (tmp_path / "w.yaml").write_text(yaml.safe_dump(workload))
    return tmp_path.resolve()


def _kustomization(folder: Path, **fields: object) -> None:
    whole = {"kind": "Kustomization", "resources": ["w.yaml"], **fields}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(whole))


def _patch(folder: Path, spec: object, name: str = "w") -> None:
    change = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": spec,
    }
    (folder / "patch.yaml").write_text(yaml.safe_dump(change))
    _kustomization(folder, patches=[{"path": "patch.yaml"}])


def test_lists_with_a_key_are_merged_and_null_takes_away(folder: Path) -> None:
    env = [{"name": "X", "value": "2"}, {"name": "Y", "value": "3"}]
    containers = [{"name": "a", "env": env}, {"name": "c", "image": "c:1"}]
    _patch(folder, {"replicas": None, "template": {"spec": {"containers": containers}}})
    (found,) = build(folder)
    a, b, c = found["spec"]["template"]["spec"]["containers"]
    assert a == {"name": "a", "image": "a:1", "env": env, "args": ["x"]}
    assert (b["image"], c["image"]) == ("b:1", "c:1")
    assert "replicas" not in found["spec"]


def test_names_labels_images_and_replicas_are_set(folder: Path) -> None:
    _kustomization(
        folder,
        namespace="n",
        labels=[{"pairs": {"k": "v"}}],
        images=[{"name": "b", "newName": "r/b", "newTag": "2"}],
        replicas=[{"name": "w", "count": 5}],
    )
    (found,) = build(folder)
    assert found["metadata"] == {"name": "w", "namespace": "n", "labels": {"k": "v"}}
    assert found["spec"]["replicas"] == 5
    images = [each["image"] for each in found["spec"]["template"]["spec"]["containers"]]
    assert images == ["a:1", "r/b:2"]


@pytest.mark.parametrize(
    "fields",
    [
        {"namePrefix": "x-"},
        {"images": [{"name": "nobody", "newTag": "2"}]},
        {"replicas": [{"name": "nobody", "count": 2}]},
        {"labels": [{"pairs": {"k": "v"}, "includeSelectors": True}]},
        {"resources": ["w.yaml", "w.yaml"]},
    ],
    ids=["field", "image", "replicas", "label", "twice"],
)
def test_what_isnt_done_is_refused(folder: Path, fields: dict[str, object]) -> None:
    _kustomization(folder, **fields)
    with pytest.raises(AssertionError):
        build(folder)


def test_a_patch_must_have_its_object_and_a_list_its_key(folder: Path) -> None:
    _patch(folder, {"replicas": 1}, name="nobody")
    with pytest.raises(AssertionError, match="there are 0 of it"):
        build(folder)
    _patch(folder, {"template": {"spec": {"containers": [{"name": "a", "args": ["y"]}]}}})
    with pytest.raises(AssertionError, match="no patch of ours changes args"):
        build(folder)
