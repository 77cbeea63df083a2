"""`dyno deploy`: a stand-in for docker that keeps what it was told, and one for RunPod's API.

The worker is tried for real, under the emulated endpoint, in `test_deploy_handler.py`.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runpod_rest import KEY, Fault, StandIn, runpod_rest
from tiny_models import write_detector
from visiondyno.cli import deploy_runpod
from visiondyno.cli.deploy import command as deploy
from visiondyno.cli.deploy_display import Steps
from visiondyno.cli.doctor import command as doctor
from visiondyno.errors import (
    InputError,
    ModelError,
    OperationFailed,
    SpecError,
    TransportDown,
    Unauthorized,
    Unavailable,
)

ROOT = Path(__file__).resolve().parents[2]
BLOBS = "VISIONDYNO_BLOBS_URL=https://vd.example.com/blobs"
IMAGE = "docker.io/u/worker"
DOCKER = """#!/bin/sh
echo "$*" >> "$DOCKER_LOG"
case "$1" in
  version) [ -z "$DOCKER_DOWN" ] && echo 28.0 && exit 0; echo "no daemon" >&2; exit 1;;
esac
echo "step of $1"
[ "$DOCKER_SLEEPS" = "$1" ] && sleep 612.5
if [ "$DOCKER_FAILS" = "$1" ]; then echo "the reason of $1" >&2; exit 7; fi
exit 0
"""


class Machine:
    """This machine: its home, its docker, and what it is told."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.log = folder / "docker.log"
        self.tried: list[dict[str, Any]] = []

    @property
    def docker(self) -> list[str]:
        """What docker was told, without looks at its version."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in lines if not line.startswith("version")]

    def images(self) -> list[str]:
        """What was pushed."""
        return [line.split()[1] for line in self.docker if line.startswith("push")]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine(tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/docker").write_text(DOCKER)
    (tmp_path / "bin/docker").chmod(0o755)
    for name in ("RUNPOD_API_KEY", "VISIONDYNO_BLOBS_URL", "VISIONDYNO_BLOBS_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_LOG", str(found.log))
    monkeypatch.setenv("VISIONDYNO_HOME", str(found.home))
    monkeypatch.chdir(ROOT)

    def tried(**how: Any) -> list[str]:
        found.tried.append(how)
        return ["predict"]

    monkeypatch.setattr(deploy_runpod, "try_handler", tried)
    # Each deployment another second, so that no two images have one tag.
    seconds = iter(range(1_795_357_800, 1_795_400_000))
    clock = SimpleNamespace(time=lambda: float(next(seconds)))
    monkeypatch.setattr(deploy_runpod, "time", clock)
    return found


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with runpod_rest() as found:
        monkeypatch.setenv("VISIONDYNO_RUNPOD_REST_URL", found.url)
        monkeypatch.setenv("RUNPOD_API_KEY", KEY)
        yield found


def dyno_deploy(*arguments: str) -> Result:
    return CliRunner().invoke(deploy, list(arguments))


def well(*arguments: str) -> Result:
    """A deployment that succeeds."""
    result = dyno_deploy("runpod", "--env", BLOBS, *arguments)
    assert result.exception is None, (result.exception, result.stderr)
    return result


def refused(kind: type[BaseException], says: str, *arguments: str) -> Result:
    """One that ends with this error."""
    result = dyno_deploy("runpod", "--env", BLOBS, *arguments)
    assert isinstance(result.exception, kind), result.exception
    assert re.search(says, str(result.exception)), result.exception
    return result


def test_from_nothing_to_an_endpoint(machine: Machine, account: StandIn) -> None:
    result = well("--image", IMAGE, "--gpu", "A4000,A5000", "--env", "TOKEN=hunter2hunter2")
    build, push = machine.docker
    assert re.fullmatch(
        r"build --progress plain --platform linux/amd64 -f deploy/runpod/Dockerfile -t "
        r"docker\.io/u/worker:20261122-1430\d\d \.",
        build,
    )
    assert push == f"push {build.split()[-2]}"
    assert account.template["imageName"] == push.split()[1]
    assert account.template["env"]["TOKEN"] == "hunter2hunter2"
    assert account.endpoint["gpuTypeIds"] == ["NVIDIA RTX A4000", "NVIDIA RTX A5000"]
    assert machine.tried == [{"with_training": True, "sources": ROOT / "src"}]
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


# ---- failures


@pytest.mark.parametrize("step", ["build", "push"])
def test_dockers_failure_is_told_with_its_last_words(
    machine: Machine, account: StandIn, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    monkeypatch.setenv("DOCKER_FAILS", step)
    result = refused(OperationFailed, f"'docker {step}' ended with code 7", "--image", IMAGE)
    assert f"the reason of {step}" in result.stderr
    assert f"✗ {step.title()}" in result.stderr
    assert account.writes == []
    monkeypatch.setenv("DOCKER_FAILS", "")
    well("--image", IMAGE)
    assert len(account.things["endpoints"]) == 1


def test_after_a_failure_of_runpod_quick_goes_on(machine: Machine, account: StandIn) -> None:
    account.faults.append(Fault("POST", "endpoints", 400, says="no GPUs left"))
    result = refused(SpecError, "no GPUs left", "--image", IMAGE)
    assert "with --quick it isn't built again" in result.stderr
    well("--image", IMAGE, "--quick")
    assert len(machine.images()) == 1
    assert len(account.things["endpoints"]) == len(account.things["templates"]) == 1


def test_a_wrong_key_is_known_before_anything_is_built(
    machine: Machine, account: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", "rpa_WRONG")
    refused(Unauthorized, "make a new one", "--image", IMAGE)
    assert machine.docker == []


def test_a_broken_worker_stops_it_before_anything_is_built(
    machine: Machine, account: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(**_: object) -> list[str]:
        raise OperationFailed("It fails.", traceback="the worker's last words")

    monkeypatch.setattr(deploy_runpod, "try_handler", broken)
    result = refused(OperationFailed, "It fails", "--image", IMAGE)
    assert "the worker's last words" in result.stderr
    assert machine.docker == account.writes == []
    assert "left out" in well("--image", IMAGE, "--skip-test").stderr


def test_without_docker_it_says_what_to_do(
    machine: Machine, account: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_DOWN", "1")
    refused(Unavailable, "no daemon", "--image", IMAGE)
    monkeypatch.setenv("PATH", str(tmp_path))
    refused(Unavailable, "isn't on the PATH", "--image", IMAGE)


def test_an_endpoint_of_unknown_gpus_keeps_the_price_that_was_recorded(
    machine: Machine, account: StandIn
) -> None:
    well("--image", IMAGE, "--gpu", "L4")
    account.endpoint["gpuTypeIds"] = ["NVIDIA GeForce RTX 5090"]
    assert "(L4;" in well("--quick").stdout
    next((machine.home / "deployments").glob("*.json")).unlink()
    refused(SpecError, "no price is known", "--image", IMAGE, "--quick")
    del account.endpoint["workersMax"]
    refused(Unavailable, "lacks what is to be recorded", "--image", IMAGE, "--quick", "--gpu", "L4")


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ([], SpecError, "Nothing says where the image goes"),
        (["--image", "worker"], SpecError, "names no user"),
        (["--image", "A B"], SpecError, "can't be an image's name"),
        (["--image", IMAGE, "--gpu", "Z80"], SpecError, "isn't in the table"),
        (["--image", IMAGE, "--gpu", "L4", "--for", "x"], SpecError, "leave one out"),
        (["--for", "fake:detection"], SpecError, "no file"),
        (["--for", "lost.onnx"], ModelError, "lost.onnx"),
        (["--image", IMAGE, "--name", "a/b"], SpecError, "--name is"),
        (["--image", IMAGE, "--endpoint", "../x"], SpecError, "--endpoint is"),
        (["--image", IMAGE, "--volume", "a b"], SpecError, "--volume is"),
        (["--image", IMAGE, "--min-cuda", "13"], SpecError, "--min-cuda is"),
        (["--image", IMAGE, "--context", "/nowhere"], SpecError, "isn't a checkout"),
        (["--image", IMAGE, "--env", "VISIONDYNO_BLOBS_URL=file:///x"], SpecError, "folder of"),
        (
            ["--image", IMAGE, "--volume", "EU-RO-1", "--data-center", "US-KS-2"],
            SpecError,
            "leave --data-center",
        ),
    ],
    ids=str,
)
def test_bad_input_is_a_sentence_and_changes_nothing(
    machine: Machine, account: StandIn, options: list[str], kind: type[InputError], says: str
) -> None:
    refused(kind, says, *options)
    assert machine.docker == account.writes == []


def test_this_machines_own_blobs_are_refused_for_the_cloud(
    machine: Machine, account: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISIONDYNO_BLOBS_URL", "http://127.0.0.1:8000/blobs")
    result = dyno_deploy("runpod", "--image", IMAGE)
    assert "no worker in RunPod's cloud reaches" in str(result.exception)
    monkeypatch.setenv("VISIONDYNO_BLOBS_URL", "https://vd.example.com/blobs")
    monkeypatch.setenv("VISIONDYNO_BLOBS_API_KEY", "vd_hunter2")
    result = dyno_deploy("runpod", "--image", IMAGE)
    assert account.template["env"] == {
        "VISIONDYNO_BLOBS_URL": "https://vd.example.com/blobs",
        "VISIONDYNO_BLOBS_API_KEY": "vd_hunter2",
    }
    assert "hunter2" not in result.output
    # The key isn't given to the workers for somebody else's server.
    dyno_deploy(
        "runpod", "--quick", "--remove-env", "VISIONDYNO_BLOBS_API_KEY",
        "--env", "VISIONDYNO_BLOBS_URL=https://other.example.com/blobs",
    )  # fmt: skip
    assert account.template["env"] == {"VISIONDYNO_BLOBS_URL": "https://other.example.com/blobs"}


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


def test_an_interrupt_ends_docker(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_SLEEPS", "build")
    program = "from visiondyno.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "deploy", "runpod", "--env", BLOBS, "--image", IMAGE,
         "--skip-test"],
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while not machine.docker and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "✗ Build" in said
    assert not still_running(str(tmp_path / "bin/docker"))
    assert not still_running("612.5")


def still_running(text: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return [line for line in found if text in line]


def test_a_network_that_is_down_is_a_sentence(
    machine: Machine, account: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISIONDYNO_RUNPOD_REST_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setattr("visiondyno.deployments.rest_api._FIRST_PAUSE_S", 0.0)
    refused(TransportDown, "see that this machine is online", "--image", IMAGE)


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
