"""What goes into a deployment: GPUs, variables, image names and digests, the records of it."""

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploying import a_checkout
from runpod_rest import GPUS
from visiondyno.deployments import gpu_types
from visiondyno.deployments.docker_image import find_context, source_digest, split_image, tagged
from visiondyno.deployments.record import (
    Deployment,
    PushedImage,
    all_deployments,
    find_deployment,
    find_image,
    keep_deployment,
    keep_image,
    latest,
)
from visiondyno.deployments.worker_variables import (
    check_blobs_address,
    parse_variables,
    secret_values,
    shown_variables,
    without_secrets,
)
from visiondyno.errors import SpecError, StorageFull
from visiondyno.probes.cost import known_prices

ROOT = Path(__file__).resolve().parents[2]
DEPLOYED = Deployment(
    endpoint_id="abc", name="vd", image="u/w:1", gpu="A4000", gpus=("A4000",), workers_min=0,
    workers_max=3, idle_timeout_s=5, execution_timeout_s=300, deployed_at=1.0,
)  # fmt: skip


# ---- GPUs


@pytest.mark.parametrize("gpu", known_prices())
def test_every_priced_gpu_has_types_that_runpod_takes(gpu: str) -> None:
    ids = gpu_types.type_ids([gpu])
    assert ids
    assert set(ids) <= set(GPUS)
    assert gpu_types.gpus_of(ids) == (gpu,)


def test_gpus_are_read_in_order_of_preference() -> None:
    assert gpu_types.parse_gpus("l4, NVIDIA RTX A5000,L4") == ("L4", "A5000")
    assert gpu_types.gpus_of(["NVIDIA L4", "unknown", "NVIDIA RTX A4000"]) == ("L4", "A4000")
    assert gpu_types.dearest(("A4000", "L4", "A5000")) == "L4"


@pytest.mark.parametrize(
    ("text", "says"),
    [("0.4", "is a price"), ("A4000,L4,A40,H100", "names 4"), (",", "names 0"), ("Z80", "table")],
    ids=["price", "four", "none", "unknown"],
)
def test_wrong_gpus_are_a_sentence(text: str, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        gpu_types.parse_gpus(text)


# ---- variables


def test_variables_are_given_whole_or_taken_from_the_shell() -> None:
    given_ones = ["A=1", "B", "A=x=y", "C="]
    assert parse_variables(given_ones, {"B": "from here"}) == {
        "A": "x=y",
        "B": "from here",
        "C": "",
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("=hunter2", "no name"),
        ("a b=hunter2", "no name"),
        ("LOST", "isn't set"),
        ("A=hunter2\0", "zero byte"),
        ("RUNPOD_API_KEY=hunter2", "need no RUNPOD_API_KEY"),
    ],
    ids=["nameless", "space", "unset", "zero", "account-key"],
)
def test_a_wrong_variable_is_a_sentence_without_its_value(text: str, says: str) -> None:
    with pytest.raises(SpecError, match=says) as refused:
        parse_variables([text], {})
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("file:///srv/blobs", "folder of this machine"),
        ("http://127.0.0.1:8000/blobs", "no worker in RunPod's cloud reaches"),
        ("http://localhost/blobs", "reaches"),
        ("https://10.0.0.7/blobs", "reaches"),
        ("https://[::1]/blobs", "reaches"),
        ("https://nas.local/blobs", "reaches"),
        ("https://server/blobs", "reaches"),
        ("https://u:hunter2@blobs.example.com/blobs", "user name"),
        ("https://blobs.example.com/blobs?sig=hunter2", "query"),
        ("ftp://blobs.example.com", "no address"),
        ("https://[hunter2", "no address"),
    ],
)
def test_blobs_that_the_cloud_cant_reach_are_refused(url: str, says: str) -> None:
    with pytest.raises(SpecError, match=says) as refused:
        check_blobs_address({"VISIONDYNO_BLOBS_URL": url})
    assert "hunter2" not in str(refused.value)


def test_what_else_the_workers_need_for_blobs_is_said() -> None:
    url = "VISIONDYNO_BLOBS_URL"
    assert "10 MB" in check_blobs_address({})[0]
    assert "AWS_ACCESS_KEY_ID" in check_blobs_address({url: "s3://b/p"})[0]
    assert check_blobs_address({url: "s3://b/p", "AWS_ACCESS_KEY_ID": "k"}) == []
    assert check_blobs_address({url: "https://vd.example.com/blobs"}) == []
    assert check_blobs_address({url: "gs://b/p"}) == []
    with pytest.raises(SpecError, match=r"AWS_ENDPOINT_URL names '127\.0\.0\.1'"):
        check_blobs_address({url: "s3://b/p", "AWS_ENDPOINT_URL": "http://127.0.0.1:9000"})


@given(value=st.text(min_size=5, max_size=40), around=st.text(max_size=40))
def test_a_variable_of_unknown_meaning_is_hidden_everywhere(value: str, around: str) -> None:
    variables = {"ANY": value, "VISIONDYNO_CONCURRENCY": "2"}
    assert shown_variables(variables)["ANY"] == "****"
    assert shown_variables(variables)["VISIONDYNO_CONCURRENCY"] == "2"
    hidden = without_secrets(f"{around}{value}{around}", secret_values(variables))
    assert hidden == f"{around}{value}{around}".replace(value, "****")


def test_a_reference_to_a_secret_at_runpod_is_no_secret() -> None:
    reference = "{{ RUNPOD_SECRET_bucket }}"
    assert shown_variables({"AWS_SECRET_ACCESS_KEY": reference}) == {
        "AWS_SECRET_ACCESS_KEY": reference
    }


# ---- images


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("docker.io/u/worker", ("docker.io/u/worker", False)),
        ("localhost:5000/worker", ("localhost:5000/worker", False)),
        ("ghcr.io/o/w:v1", ("ghcr.io/o/w", True)),
        (f"u/w@sha256:{'a' * 64}", ("u/w", True)),
    ],
    ids=["plain", "port", "tag", "digest"],
)
def test_an_images_name_is_taken_apart(image: str, expected: tuple[str, bool]) -> None:
    assert split_image(image) == expected


@pytest.mark.parametrize("image", ["", "U/Worker", "u/w:", "u//w x", "-f", "u/w@sha256:1"])
def test_what_cant_be_an_images_name_is_refused(image: str) -> None:
    with pytest.raises(SpecError, match="can't be an image's name"):
        split_image(image)


def test_the_tag_is_the_time_in_utc() -> None:
    assert tagged("u/w", 1_795_357_800.0) == "u/w:20261122-143000"


def test_the_checkout_is_found_from_inside(tmp_path: Path) -> None:
    context = a_checkout(tmp_path / "checkout")
    assert find_context(None, context / "src") == context.resolve()
    assert find_context(context, tmp_path) == context.resolve()
    assert find_context(None, ROOT / "tests") == ROOT
    with pytest.raises(SpecError, match="runs outside of a checkout"):
        find_context(None, tmp_path)
    with pytest.raises(SpecError, match="isn't a checkout"):
        find_context(tmp_path, context)


def test_the_digest_is_of_all_that_decides_the_image_and_of_nothing_else(tmp_path: Path) -> None:
    context = a_checkout(tmp_path)
    digest = source_digest(context)
    (context / "src/__pycache__").mkdir()
    (context / "src/__pycache__/a.pyc").write_bytes(b"x")
    (context / "notes.txt").write_text("x")
    os.utime(context / "src/a.py", (0, time.time()))
    assert source_digest(context) == digest
    others = {source_digest(context, ["A=1"]), source_digest(context, ["A=2"])}
    (context / "src/a.py").rename(context / "src/b.py")
    others.add(source_digest(context))
    (context / "src/b.py").write_text("other")
    others.add(source_digest(context))
    (context / "deploy/runpod/Dockerfile").write_text("FROM other")
    others.add(source_digest(context))
    assert len(others | {digest}) == 6
    (context / "constraints.txt").unlink()
    with pytest.raises(SpecError, match="can't be read"):
        source_digest(context)


# ---- records


def test_deployments_are_found_by_url_and_name_newest_first(tmp_path: Path) -> None:
    assert all_deployments(tmp_path) == []
    assert latest(tmp_path, "vd") is None
    newer = DEPLOYED.model_copy(update={"endpoint_id": "def", "deployed_at": 2.0})
    for deployed in (newer, DEPLOYED):
        keep_deployment(tmp_path, deployed)
    assert all_deployments(tmp_path) == [newer, DEPLOYED]
    assert latest(tmp_path, "vd") == newer
    assert find_deployment(tmp_path, "https://api.runpod.ai/v2/abc") == DEPLOYED


def test_an_image_is_found_by_its_repository(tmp_path: Path) -> None:
    pushed = PushedImage(image="u/w:1", source_digest="d", pushed_at=1.0)
    assert find_image(tmp_path, "u/w") is None
    keep_image(tmp_path, "u/w", pushed)
    assert find_image(tmp_path, "u/w") == pushed
    assert find_image(tmp_path, "u/other") is None
    assert all_deployments(tmp_path) == []


@pytest.mark.parametrize("breaks", ["fsync", "replace"])
def test_a_record_is_whole_or_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breaks: str
) -> None:
    keep_deployment(tmp_path, DEPLOYED)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os if breaks == "fsync" else Path, breaks, full)
        with pytest.raises(StorageFull, match="No space left"):
            keep_deployment(tmp_path, DEPLOYED.model_copy(update={"image": "u/w:2"}))
    assert all_deployments(tmp_path) == [DEPLOYED]
    assert [path.name for path in (tmp_path / "deployments").iterdir()] == ["abc.json"]


def test_a_broken_record_is_a_sentence(tmp_path: Path) -> None:
    keep_deployment(tmp_path, DEPLOYED)
    (tmp_path / "deployments/abc.json").write_text("{")
    with pytest.raises(SpecError, match="deploy again, or remove it"):
        latest(tmp_path, "vd")
