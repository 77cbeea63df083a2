"""`dyno deploy` where something is wrong: a sentence, and nothing twice or half."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploying import BLOBS, IMAGE, Machine, dyno_deploy, refused, well
from runpod_rest import Fault, StandIn
from visiondyno.cli import deploy_runpod
from visiondyno.deployments.docker_image import Docker
from visiondyno.errors import (
    InputError,
    ModelError,
    OperationFailed,
    SpecError,
    TransportDown,
    Unauthorized,
    Unavailable,
)


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
    monkeypatch.setenv("DOCKER_DOWN", "")
    monkeypatch.setenv("DOCKER_LACKS_BUILDX", "1")
    refused(Unavailable, "has no buildx", "--image", IMAGE)
    (tmp_path / "bin/docker").write_bytes(b"\x7fnot a program")
    refused(Unavailable, "docker doesn't answer", "--image", IMAGE)
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
    # What an endpoint has already stays.
    monkeypatch.setenv("VISIONDYNO_BLOBS_URL", "file:///srv/blobs")
    assert dyno_deploy("runpod", "--quick").exception is None
    assert account.template["env"]["VISIONDYNO_BLOBS_URL"] == "https://vd.example.com/blobs"
    # The key isn't given to the workers for somebody else's server.
    dyno_deploy(
        "runpod", "--quick", "--remove-env", "VISIONDYNO_BLOBS_API_KEY",
        "--env", "VISIONDYNO_BLOBS_URL=https://other.example.com/blobs",
    )  # fmt: skip
    assert account.template["env"] == {"VISIONDYNO_BLOBS_URL": "https://other.example.com/blobs"}


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
    gone(str(tmp_path / "bin/docker"))
    gone("612.5")


def test_docker_is_gone_before_an_interrupt_goes_on(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_SLEEPS", "push")

    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Docker(interrupt).push("u/w:1")
    gone("612.5")


def gone(text: str) -> None:
    """No process has it in its command; one that was killed may take a moment to be gone."""
    deadline = time.monotonic() + 20
    while still_running(text) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not still_running(text)


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
