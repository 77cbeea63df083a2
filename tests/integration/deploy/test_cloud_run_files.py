"""deploy/cloud-run: valid by its documentation, and what the image and `dyno serve` take."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from image_files import ROOT, dyno_words, environment, final_stage, ports, user
from known_settings import parsed, serving_of

from visiondyno import __version__

FOLDER = ROOT / "deploy/cloud-run"
SCHEMAS = Path(__file__).parent / "schemas"
SERVICES = ("service.yaml", "service-warm.yaml")
JOB = "loadtest-job.yaml"


def _read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
    return found


def _validate(value: dict[str, Any], schema: str) -> None:
    text = (SCHEMAS / schema).read_text(encoding="utf-8")
    jsonschema.Draft202012Validator(json.loads(text)).validate(value)


def _revision(service: dict[str, Any]) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
    template = service["spec"]["template"]
    (container,) = template["spec"]["containers"]
    return template["metadata"]["annotations"], template["spec"], container


def test_every_file_of_cloud_run_is_tested_here() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {*SERVICES, JOB, "cloudbuild.yaml"}


@pytest.mark.parametrize("name", SERVICES)
def test_the_service_is_what_cloud_run_documents(name: str) -> None:
    service = _read(name)
    _validate(service, "cloud_run_service.json")
    assert sum(each["percent"] for each in service["spec"]["traffic"]) == 100


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("env", [{"name": "PORT", "value": "9000"}]),
        ("image", "REGION-docker.pkg.dev/PROJECT/visiondyno/serve:latest"),
        ("volumes", []),
        ("resources", {"limits": {"cpu": "3", "memory": "2Gi"}}),
    ],
)
def test_what_cloud_run_would_refuse_is_found(key: str, value: object) -> None:
    service = _read("service.yaml")
    _revision(service)[2][key] = value
    with pytest.raises(jsonschema.ValidationError):
        _validate(service, "cloud_run_service.json")


@pytest.mark.parametrize("name", SERVICES)
def test_the_server_takes_its_command_and_settings(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, spec, container = _revision(_read(name))
    (port,) = (each["containerPort"] for each in container["ports"])
    assert {port} == ports("serve")
    environ = {each["name"]: each["value"] for each in container["env"]}
    words = dyno_words("serve", container["args"])
    config = serving_of(words, {**environment("serve"), **environ, "PORT": "9999"}, monkeypatch)
    assert (config.host, config.port) == ("0.0.0.0", 9999)
    assert config.time_limit_s < spec["timeoutSeconds"]
    # Cloud Run gives ten seconds from SIGTERM to SIGKILL.
    assert config.drain_s < 10
    assert spec["containerConcurrency"] <= config.queue
    assert config.replicas_most * (config.threads or 1) <= int(
        container["resources"]["limits"]["cpu"]
    )


@pytest.mark.parametrize("name", SERVICES)
def test_probes_fit_the_limits(name: str) -> None:
    _, _, container = _revision(_read(name))
    assert container["startupProbe"]["httpGet"]["path"] == "/ready"
    assert container["livenessProbe"]["httpGet"]["path"] == "/health"
    for kind in ("startupProbe", "livenessProbe"):
        probe = container[kind]
        assert probe["timeoutSeconds"] <= probe["periodSeconds"]
    starting = container["startupProbe"]
    assert 60 <= starting["periodSeconds"] * starting["failureThreshold"] <= 240


def test_one_scales_to_zero_and_the_other_is_always_warm() -> None:
    cold, warm = (_read(name) for name in SERVICES)
    scale = "autoscaling.knative.dev/minScale"
    throttling = "run.googleapis.com/cpu-throttling"
    assert (_revision(cold)[0][scale], _revision(cold)[0][throttling]) == ("0", "true")
    assert (_revision(warm)[0][scale], _revision(warm)[0][throttling]) == ("1", "false")
    for service in (cold, warm):
        annotations = _revision(service)[0]
        assert annotations["autoscaling.knative.dev/maxScale"] == "3"
        assert annotations["run.googleapis.com/startup-cpu-boost"] == "true"
        # But for these, what is compared is the same.
        del annotations[scale], annotations[throttling]
    assert cold["metadata"].pop("name") != warm["metadata"].pop("name")
    assert cold == warm


def test_what_is_built_is_what_is_deployed() -> None:
    build = _read("cloudbuild.yaml")
    _validate(build, "cloud_build.json")
    (step,) = build["steps"]
    (image,) = build["images"]
    assert f"--tag={image}" in step["args"]
    file = next(each for each in step["args"] if each.startswith("--file="))
    assert (ROOT / file.removeprefix("--file=")).is_file()
    values = {**build["substitutions"], "PROJECT_ID": "PROJECT", "_REGION": "REGION"}
    assert values["_TAG"] == __version__
    named = re.sub(r"\$\{(\w+)\}", lambda match: values[match.group(1)], image)
    assert {_revision(_read(name))[2]["image"] for name in SERVICES} == {named}


def _task(job: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    spec = job["spec"]["template"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    return spec, container


def test_the_load_tests_job_is_what_cloud_run_documents() -> None:
    job = _read(JOB)
    _validate(job, "cloud_run_job.json")
    _task(job)[0]["maxRetry"] = 1
    with pytest.raises(jsonschema.ValidationError):
        _validate(job, "cloud_run_job.json")


def test_the_load_tests_job_runs_once_with_the_command_of_its_image() -> None:
    job = _read(JOB)
    spec, container = _task(job)
    assert (job["spec"]["template"]["spec"]["taskCount"], spec["maxRetries"]) == (1, 0)
    assert container["image"] == _revision(_read("service.yaml"))[2]["image"]
    entry = final_stage("serve").last("ENTRYPOINT").words
    # `dyno serve` is the image's own; what starts it is kept.
    assert [*container["command"], "serve"] == entry
    found = parsed(container["args"]).params
    assert found["urls"] == ("https://HOST/predict",)
    vcpus, memory = (container["resources"]["limits"][key] for key in ("cpu", "memory"))
    assert float(vcpus) >= 1
    assert memory.endswith("Gi")
    served = _revision(_read("service.yaml"))[2]["resources"]["limits"]
    assert found["cloud_run_price"] == (
        f"request:{served['cpu']}:{served['memory'].removesuffix('Gi')}",
    )


def test_the_load_tests_report_goes_where_its_user_may_write() -> None:
    spec, container = _task(_read(JOB))
    (mount,), (volume,) = container["volumeMounts"], spec["volumes"]
    assert mount["name"] == volume["name"]
    assert parsed(container["args"]).params["out"].is_relative_to(mount["mountPath"])
    uid, gid = user("serve").split(":")
    options = volume["csi"]["volumeAttributes"]["mountOptions"]
    assert set(options.split(",")) == {f"uid={uid}", f"gid={gid}"}
