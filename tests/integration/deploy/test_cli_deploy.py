"""`dyno deploy`: from nothing to an endpoint, again, quickly, and as a plan."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploying import BLOBS, IMAGE, Machine, dyno_deploy, well
from runpod_rest import KEY, StandIn, runpod_rest
from tiny_models import write_detector
from visiondyno.cli.deploy import command as deploy
from visiondyno.cli.deploy_display import Steps
from visiondyno.cli.doctor import command as doctor
from visiondyno.errors import (
    Unauthorized,
)


def test_from_nothing_to_an_endpoint(machine: Machine, account: StandIn) -> None:
    result = well("--image", IMAGE, "--gpu", "A4000,A5000", "--env", "TOKEN=hunter2hunter2")
    build, push = machine.docker
    assert re.fullmatch(
        r"buildx build --load --progress plain --platform linux/amd64 "
        r"-f deploy/runpod/Dockerfile -t docker\.io/u/worker:20261122-1430\d\d \.",
        build,
    )
    assert push == f"push {build.split()[-2]}"
    assert account.template["imageName"] == push.split()[1]
    assert account.template["env"]["TOKEN"] == "hunter2hunter2"
    assert account.endpoint["gpuTypeIds"] == ["NVIDIA RTX A4000", "NVIDIA RTX A5000"]
    assert machine.tried == [{"with_training": True, "sources": machine.checkout / "src"}]
    endpoint_id = account.endpoint["id"]
    lines = result.stdout.splitlines()
    assert f"RUNPOD_ENDPOINT_ID={endpoint_id}" in lines
    assert lines[-1] == f"Next: dyno doctor --endpoint https://api.runpod.ai/v2/{endpoint_id}"
    assert "0.684 USD an hour at most (A5000;" in result.stdout
    assert "none runs while there are no jobs" in result.stdout
    assert re.search(r"✓ Build \d+ s  docker\.io/u/worker:", result.stderr)
    assert "hunter2" not in result.output
    assert KEY not in result.output


def test_what_was_deployed_is_listed(machine: Machine, account: StandIn) -> None:
    assert "Nothing was deployed" in dyno_deploy("list").stdout
    well("--image", IMAGE, "--workers", "1-2")
    (found,) = json.loads(dyno_deploy("list", "--json").stdout)
    assert (found["endpoint_id"], found["gpu"]) == (account.endpoint["id"], "A4000")
    assert (found["workers_min"], found["workers_max"]) == (1, 2)
    assert found["image"] == machine.images()[0]
    text = dyno_deploy("list").stdout
    assert account.endpoint["id"] in text
    assert "0.576" in text


def test_again_it_changes_the_same_endpoint(machine: Machine, account: StandIn) -> None:
    well("--image", IMAGE)
    endpoint_id = account.endpoint["id"]
    account.endpoint["name"] = "renamed in the console"
    result = well("--gpu", "L4")
    assert account.endpoint["id"] == endpoint_id
    assert account.template["imageName"] == machine.images()[1]
    assert "(L4;" in result.stdout
    assert len(machine.images()) == len(set(machine.images())) == 2


def test_one_named_by_its_id_is_recorded_by_its_own_name(
    machine: Machine, account: StandIn
) -> None:
    well("--image", IMAGE)
    first = account.endpoint["id"]
    account.things["endpoints"]["other"] = {**account.endpoint, "id": "other", "name": "mine"}
    well("--quick", "--endpoint", "other")
    (newest, _) = json.loads(dyno_deploy("list", "--json").stdout)
    assert (newest["endpoint_id"], newest["name"]) == ("other", "mine")
    result = well("--quick", "--idle-timeout", "9")
    assert f"RUNPOD_ENDPOINT_ID={first}\n" in result.stdout
    assert account.things["endpoints"]["other"]["idleTimeout"] == 5


def test_what_the_workers_lack_is_said_by_all_that_they_have(
    machine: Machine, account: StandIn
) -> None:
    lacks = "No VISIONDYNO_BLOBS_URL"
    assert lacks in dyno_deploy("runpod", "--image", IMAGE).stderr
    assert lacks in dyno_deploy("runpod", "--quick").stderr
    assert lacks not in well("--quick").stderr
    assert lacks not in dyno_deploy("runpod", "--quick").stderr
    assert lacks not in dyno_deploy("runpod", "--quick", "--dry-run").stderr
    account.template["env"]["VISIONDYNO_BLOBS_URL"] = "file:///srv/blobs"
    assert "folder of this machine" in dyno_deploy("runpod", "--quick").stderr


def test_quick_builds_what_changed_alone(machine: Machine, account: StandIn) -> None:
    well("--image", IMAGE)
    result = well("--quick", "--env", "A=b")
    assert len(machine.images()) == 1
    assert account.template["env"]["A"] == "b"
    assert machine.tried[-1]["with_training"] is False
    assert "Build" not in result.stderr
    well("--quick", "--build-arg", "WORKER_USER=root")
    assert len(machine.images()) == 2
    assert "--build-arg WORKER_USER=root" in machine.docker[-2]


def test_an_image_with_a_tag_needs_no_docker(
    machine: Machine, account: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOCKER_DOWN", "1")
    result = well("--image", f"{IMAGE}:mine")
    assert account.template["imageName"] == f"{IMAGE}:mine"
    assert machine.docker == machine.tried == []
    assert "built elsewhere" in result.stderr


def test_the_gpu_is_chosen_for_a_model(machine: Machine, account: StandIn, tmp_path: Path) -> None:
    path = write_detector(tmp_path / "net.onnx", [[1, 2, 15, 28, 0.9, 0]])
    result = well("--image", IMAGE, "--for", str(path))
    assert account.endpoint["gpuTypeIds"] == ["NVIDIA RTX A4500"]
    assert "The cheapest GPU that holds 4.5 GB is the A4500" in result.stderr


def test_the_doctor_names_the_gpu_for_a_model_too(tmp_path: Path) -> None:
    path = write_detector(tmp_path / "net.onnx", [[1, 2, 15, 28, 0.9, 0]])
    text = CliRunner().invoke(doctor, ["--workers", str(path)]).stdout
    assert "On RunPod: The cheapest GPU that holds 4.5 GB is the A4500 (20 GB)" in text
    found = json.loads(CliRunner().invoke(doctor, ["--workers", str(path), "--json"]).stdout)
    (rented,) = found["rented"]
    assert (rented["name"], rented["needed_bytes"]) == ("A4500", 4_500_000_000)
    text = CliRunner().invoke(doctor, ["--workers", "fake:detection"]).stdout
    assert "On RunPod" not in text


# ---- plans


def test_a_dry_run_changes_nothing_and_shows_all(machine: Machine, account: StandIn) -> None:
    result = well("--image", IMAGE, "--dry-run", "--volume", "EU-RO-1", "--env", "TOKEN=hunter2x")
    assert account.writes == machine.docker == machine.tried == []
    assert list(machine.home.rglob("*.json")) == []
    text = result.stdout
    for path in ("/networkvolumes", "/templates", "/endpoints"):
        assert f"POST {account.url}{path}\n" in text
    assert '"TOKEN": "****"' in text
    assert re.search(r"Execution timeout *│ 300 s", text)
    assert "hunter2" not in result.output
    well("--image", IMAGE)
    result = well("--image", IMAGE, "--dry-run", "--idle-timeout", "9")
    assert f"PATCH {account.url}/endpoints/{account.endpoint['id']}\n" in result.stdout
    assert '"idleTimeout": 9' in result.stdout
    pushed = machine.images()[0]
    result = well("--image", pushed, "--dry-run")
    assert re.search(r"Endpoint name *│ visiondyno  ", result.stdout)
    assert re.search(r"FlashBoot *│ on ", result.stdout)
    assert "nothing would be sent" in well("--image", pushed, "--dry-run").stderr


def test_a_dry_run_needs_neither_image_nor_checkout(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    result = well("--dry-run")
    assert "runs outside of a checkout" in result.stderr
    assert "Without RUNPOD_API_KEY" in result.stderr
    assert "POST https://rest.runpod.io/v1/endpoints\n" in result.stdout


def test_without_a_key_it_ends_with_the_consoles_settings(machine: Machine) -> None:
    result = well("--image", IMAGE)
    assert "for the console" in result.stderr
    (pushed,) = machine.images()
    assert f'"imageName": "{pushed}"' in result.stdout
    assert "FlashBoot" in result.stdout
    assert "RUNPOD_ENDPOINT_ID" not in result.stdout


@settings(
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    variables=st.dictionaries(
        st.from_regex(r"SECRET_[A-Z]{1,8}", fullmatch=True), st.uuids().map(str), min_size=1
    ),
    key=st.uuids().map(str),
)
def test_a_dry_run_prints_no_secret(
    machine: Machine, tmp_path: Path, variables: dict[str, str], key: str
) -> None:
    given_ones = [part for name in variables for part in ("--env", f"{name}={variables[name]}")]
    with runpod_rest() as account:
        environ = {"RUNPOD_API_KEY": key, "VISIONDYNO_RUNPOD_REST_URL": account.url}
        arguments = ["runpod", "--dry-run", "--env", BLOBS, "--image", IMAGE, *given_ones]
        # The key is refused: the message shows it no more than a plan does.
        first = CliRunner().invoke(deploy, arguments, env=environ)
        second = CliRunner().invoke(deploy, arguments, env={"RUNPOD_API_KEY": None})
    assert isinstance(first.exception, Unauthorized)
    assert second.exception is None
    shown = first.output + str(first.exception) + second.output
    assert not any(secret in shown for secret in (*variables.values(), key))


def test_on_a_terminal_the_newest_line_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    steps = Steps(clock=iter([0.0, 132.4]).__next__)
    with steps.step("Build") as step:
        step.tell("")
        step.tell("#7 installing torch")
        step.note = "u/w:1"
    said = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err)
    assert "✓ Build 132 s  u/w:1" in said
