"""deploy/compose: valid, its parts fit each other, the images and the programs' settings."""

import base64
import json
import os
import re
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from compose_build import Missing, env_file, interpolated, merged, read, variables_of
from image_files import ROOT, dyno_words, environment, image_called, ports, tag, volumes
from known_settings import options_of, serving_of, settings_of

from services import binary, free_port, until
from visiondyno import __version__

FOLDER = ROOT / "deploy/compose"
SCHEMA = json.loads((Path(__file__).parent / "schemas/compose.json").read_text(encoding="utf-8"))
OVERRIDES = ("compose.cpu.yaml", "compose.serve.yaml")
FORMS = [
    ("compose.yaml", *chosen)
    for count in range(len(OVERRIDES) + 1)
    for chosen in combinations(OVERRIDES, count)
]
SECRETS = {
    "POSTGRES_PASSWORD": "p0stgres",
    "REDIS_PASSWORD": "r3dis",
    "GRAFANA_PASSWORD": "gr4fana",
    "VISIONDYNO_WEBHOOK_SECRET": "whsec_" + base64.b64encode(b"x" * 32).decode(),
}


def _project(form: tuple[str, ...], **variables: str) -> dict[str, Any]:
    whole = merged(*(read(FOLDER / name) for name in form))
    found: dict[str, Any] = interpolated(whole, {**SECRETS, **variables})
    return found


def _ours(project: dict[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    named = (
        (name, image_called(each["image"]), each) for name, each in project["services"].items()
    )
    return {name: (image, each) for name, image, each in named if image is not None}


@pytest.fixture(params=FORMS, ids="+".join)
def project(request: pytest.FixtureRequest) -> dict[str, Any]:
    return _project(request.param)


def test_every_file_is_tested_here() -> None:
    assert {path.name for path in FOLDER.glob("compose*.yaml")} == {"compose.yaml", *OVERRIDES}


def test_it_is_what_the_specification_says(project: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(SCHEMA).validate(project)


def test_the_schema_refuses_what_compose_would(project: dict[str, Any]) -> None:
    validator = jsonschema.Draft202012Validator(SCHEMA)
    for key, value in (("replicas", 3), ("stop_grace_period", "30"), ("ports", ["8000"])):
        wrong = merged(project, {"services": {"api": {key: value}}})
        assert not validator.is_valid(wrong), key


def test_what_services_name_is_there(project: dict[str, Any]) -> None:
    for name, each in project["services"].items():
        assert set(each["networks"]) <= set(project["networks"]), name
        assert set(each.get("secrets", [])) <= set(project["secrets"]), name
        for other, how in each.get("depends_on", {}).items():
            needed = project["services"][other]
            if how["condition"] == "service_healthy":
                assert "healthcheck" in needed or image_called(needed["image"]), other
            else:
                assert needed["restart"].startswith("on-failure"), other
        for volume in each.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                made = source in {"./data", "./models"}
                assert made or (FOLDER / source).exists(), volume
            else:
                assert source in project["volumes"], volume
    used = {v.split(":")[0] for s in project["services"].values() for v in s.get("volumes", [])}
    assert set(project["volumes"]) <= used
    assert {secret["environment"] for secret in project["secrets"].values()} <= set(SECRETS)


def test_every_image_has_its_tag_and_ours_are_built(project: dict[str, Any]) -> None:
    for name, each in project["services"].items():
        assert re.search(r"\d+\.\d+", tag(each["image"])), name
        ours = image_called(each["image"])
        assert ("build" in each) == (ours is not None)
        if ours is not None:
            assert tag(each["image"]) == __version__
            assert (FOLDER / each["build"]["context"]).resolve() == ROOT
            assert each["build"]["dockerfile"] == f"deploy/docker/{ours}.Dockerfile"


def test_commands_and_settings_are_known(
    project: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, (image, each) in _ours(project).items():
        environ = {
            **environment(image),
            **{key: str(value) for key, value in each.get("environment", {}).items()},
        }
        words = dyno_words(image, each.get("command"))
        if image == "serve":
            serving_of(words, environ, monkeypatch)
            continue
        settings = settings_of(environ, monkeypatch)
        options_of(words)
        if name == "database-schema":
            assert settings.database_url == "postgresql://dyno:p0stgres@postgres:5432/dyno"
        else:
            assert settings.queue_url == "redis://:r3dis@redis:6379/0"
            assert settings.blobs_url == "file:///var/lib/visiondyno-blobs"


def test_server_and_workers_share_the_stores_and_the_blobs(project: dict[str, Any]) -> None:
    api, worker = project["services"]["api"], project["services"]["worker"]
    for key in ("VISIONDYNO_REDIS_URL", "VISIONDYNO_BLOBS_URL"):
        assert api["environment"][key] == worker["environment"][key]
    folder = api["environment"]["VISIONDYNO_BLOBS_URL"].removeprefix("file://")
    assert f"blobs:{folder}" in api["volumes"]
    assert f"blobs:{folder}" in worker["volumes"]
    assert "VISIONDYNO_DATABASE_URL" not in worker["environment"]


def test_containers_of_ours_are_confined(project: dict[str, Any]) -> None:
    for name, (image, each) in _ours(project).items():
        assert each["read_only"] is True, name
        assert each["cap_drop"] == ["ALL"], name
        assert each["security_opt"] == ["no-new-privileges:true"], name
        assert each["tmpfs"] == ["/tmp"], name
        if each["restart"] == "unless-stopped":
            mounted = {volume.split(":")[1] for volume in each["volumes"]}
            assert volumes(image) <= mounted, name
        for port in each.get("ports", []):
            address, _, inside = port.split(":")
            assert address == "127.0.0.1"
            assert int(inside) in ports(image)


def test_nobody_is_killed_while_it_drains(project: dict[str, Any]) -> None:
    worker = project["services"]["worker"]
    drain_s = options_of(worker["command"])["drain_s"]
    assert int(worker["stop_grace_period"].removesuffix("s")) > drain_s
    serve = project["services"].get("serve")
    if serve is not None:
        drain_s = float(serve["command"][serve["command"].index("--drain-s") + 1])
        assert int(serve["stop_grace_period"].removesuffix("s")) > drain_s


def test_stores_are_out_of_reach(project: dict[str, Any]) -> None:
    assert project["networks"]["inside"] == {"internal": True}
    for name in ("redis", "postgres", "worker", "database-schema"):
        each = project["services"][name]
        assert each["networks"] == ["inside"]
        assert "ports" not in each


def test_seven_workers_share_one_gpu() -> None:
    worker = _project(("compose.yaml",))["services"]["worker"]
    share = float(worker["environment"]["VISIONDYNO_GPU_MEMORY_FRACTION"])
    assert worker["deploy"]["replicas"] == 7
    assert 0.95 < 7 * share <= 1.001
    (device,) = worker["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "device_ids": ["0"], "capabilities": ["gpu"]}


def test_without_a_gpu_none_is_asked_for() -> None:
    worker = _project(("compose.yaml", "compose.cpu.yaml"))["services"]["worker"]
    assert worker["image"].startswith("visiondyno-worker-cpu:")
    assert worker["deploy"]["replicas"] == 2
    assert "reservations" not in worker["deploy"]["resources"]
    assert "VISIONDYNO_GPU_MEMORY_FRACTION" not in worker["environment"]


@pytest.mark.parametrize("name", sorted(set(SECRETS) - {"GRAFANA_PASSWORD"}))
def test_what_must_be_set_is_asked_for_by_name(name: str) -> None:
    with pytest.raises(Missing, match=f"Set {name} in .env"):
        _project(("compose.yaml",), **{name: ""})


def test_the_example_of_env_has_every_variable_with_its_default() -> None:
    example = env_file(FOLDER / ".env.example")
    wanted: dict[str, str | None] = dict.fromkeys(SECRETS)
    for name in ("compose.yaml", *OVERRIDES):
        wanted |= variables_of(FOLDER / name)
    assert set(example) == set(wanted)
    for name, default in wanted.items():
        assert example[name] == (default or ""), name
    assert ".env" in (FOLDER / ".gitignore").read_text(encoding="utf-8").split()


def test_prometheus_takes_its_configuration_and_finds_the_programs() -> None:
    path = FOLDER / "prometheus.yaml"
    checked = subprocess.run(
        [binary("promtool"), "check", "config", path], check=False, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stderr
    project = _project(FORMS[-1])
    scraped = {
        (job["dns_sd_configs"][0]["names"][0], job["dns_sd_configs"][0]["port"])
        for job in yaml.safe_load(path.read_text(encoding="utf-8"))["scrape_configs"]
        if "dns_sd_configs" in job
    }
    served = {(name, port) for name, (image, _) in _ours(project).items() for port in ports(image)}
    assert scraped == served - {("database-schema", 8000)}
    arguments = project["services"]["prometheus"]["command"]
    mounted = {volume.split(":")[1]: volume.split(":")[0] for volume in _volumes("prometheus")}
    config = arguments[0].removeprefix("--config.file=")
    assert mounted[config] == "./prometheus.yaml"
    assert arguments[1].removeprefix("--storage.tsdb.path=") in mounted


def _volumes(service: str) -> list[str]:
    found: list[str] = _project(("compose.yaml",))["services"][service]["volumes"]
    return found


def test_grafana_finds_prometheus_and_the_dashboards() -> None:
    services = _project(("compose.yaml",))["services"]
    mounted = {v.split(":")[1]: FOLDER / v.split(":")[0] for v in services["grafana"]["volumes"]}
    provisioning = "/etc/grafana/provisioning"
    source_file = mounted[f"{provisioning}/datasources/prometheus.yaml"]
    (source,) = yaml.safe_load(source_file.read_text(encoding="utf-8"))["datasources"]
    inside = services["prometheus"]["ports"][0].split(":")[2]
    environ = services["grafana"]["environment"]
    assert environ[source["url"].removeprefix("$")] == f"http://prometheus:{inside}"
    board_file = mounted[f"{provisioning}/dashboards/visiondyno.yaml"]
    (provider,) = yaml.safe_load(board_file.read_text(encoding="utf-8"))["providers"]
    folders = [f for path, f in mounted.items() if path.startswith(provider["options"]["path"])]
    assert [sorted(folder.glob("*.json")) != [] for folder in folders] == [True]


def test_redis_takes_its_command(tmp_path: Path) -> None:
    redis = _project(("compose.yaml",))["services"]["redis"]
    port = str(free_port())
    script = redis["command"][0].replace(
        "exec redis-server", f"exec {binary('redis-server')} --port {port}"
    )
    environ = {**os.environ, **redis["environment"], "PORT": port}
    how, check = redis["healthcheck"]["test"]
    assert how == "CMD-SHELL"
    check = check.replace("redis-cli", f"{binary('redis-cli')} -p {port}")

    def answers(command: str, environ: dict[str, str]) -> bool:
        done = subprocess.run(
            ["sh", "-c", command], check=False, env=environ, stdout=subprocess.DEVNULL
        )
        return done.returncode == 0

    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*redis["entrypoint"], script], cwd=tmp_path, env=environ, stdout=output
        )
    try:
        assert until(lambda: answers(check, environ), process, log)
        assert not answers(check, {**environ, "REDISCLI_AUTH": "wrong"})
        policy = check.replace("ping", "config get maxmemory-policy").replace("PONG", "noeviction")
        assert answers(policy, environ)
    finally:
        process.terminate()
        process.wait()
