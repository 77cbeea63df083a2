"""The Dockerfiles: stages, user, health check, what is copied, and versions."""

import json
import re
import tomllib
from pathlib import Path

import click
import pytest
from image_files import (
    DOCKER,
    NAMES,
    ROOT,
    Stage,
    dyno_words,
    environment,
    final_stage,
    ports,
    read_stages,
    tag,
    user,
    volumes,
)
from known_settings import parsed, serving_of, settings_of

from visiondyno import __version__
from visiondyno.errors import SpecError

FILES = {name: DOCKER / f"{name}.Dockerfile" for name in NAMES}


def _constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    return dict(line.split("==") for line in lines)


def _ignored(name: str) -> list[str]:
    lines = Path(f"{FILES[name]}.dockerignore").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _extras(stage: Stage) -> set[str]:
    return set(stage.pairs("ARG")["EXTRAS"].split(","))


def test_every_dockerfile_is_tested_here() -> None:
    assert {path.name for path in DOCKER.glob("*Dockerfile")} == {
        f"{name}.Dockerfile" for name in NAMES
    }


@pytest.mark.parametrize("name", NAMES)
def test_stages_begin_with_exact_tags_or_with_each_other(name: str) -> None:
    known: set[str] = set()
    for stage in read_stages(FILES[name]):
        if stage.base not in known:
            assert re.search(r"\d+\.\d+\.\d+", tag(stage.base)), stage.base
        known.add(stage.name or "")
    assert "build" in known
    final = final_stage(name)
    assert final.name is None
    assert not any("pip" in each.rest for each in final.all("RUN"))


def test_workers_on_a_gpu_run_on_the_same_cuda_as_runpods() -> None:
    (runpods,) = re.findall(
        r"ARG CUDA_IMAGE=(\S+)", (ROOT / "deploy/runpod/Dockerfile").read_text(encoding="utf-8")
    )
    for name in ("worker-cuda", "serve"):
        assert f"ARG CUDA_IMAGE={runpods}\n" in FILES[name].read_text(encoding="utf-8")
    major, minor = re.findall(r"cuda:(\d+)\.(\d+)", runpods)[0]
    assert _constraints()["nvidia-cuda-runtime"].startswith(f"{major}.{minor}.")


def test_the_server_for_a_gpu_is_built_on_cuda() -> None:
    on_gpu = read_stages(FILES["serve"], DEVICE="cuda")
    assert {stage.base for stage in on_gpu[2:]} == {"base-cuda"}
    assert {stage.base for stage in read_stages(FILES["serve"])[2:]} == {"base-cpu"}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_copied_exists_and_is_sent_to_the_builder(name: str) -> None:
    sent = {line[1:] for line in _ignored(name) if line.startswith("!")}
    assert _ignored(name)[0] == "*"
    built: set[str] = set()
    for stage in read_stages(FILES[name]):
        for copy in stage.all("COPY"):
            *sources, _ = copy.words
            if copy.flags:
                assert copy.flags == ("--from=build",)
                assert sources == ["/opt/visiondyno"]
                continue
            built.update(source.removeprefix("./") for source in sources)
            assert all((ROOT / source).exists() for source in sources), copy.rest
    assert built == sent


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_as_nobody_in_particular_on_a_file_system_that_may_be_read_only(name: str) -> None:
    stage = final_stage(name)
    uid, gid = user(name).split(":")
    assert (int(uid), int(gid)) == (10001, 10001)
    assert [each.name for each in stage.instructions].index("USER") > max(
        index for index, each in enumerate(stage.instructions) if each.name in {"RUN", "COPY"}
    )
    home = environment(name)["VISIONDYNO_HOME"]
    assert volumes(name) == {home} == {environment(name)["HOME"]} == {stage.last("WORKDIR").rest}
    made = next(each.rest for each in stage.all("RUN") if "install -d" in each.rest)
    assert f"install -d -o {uid} -g {gid} {home}" in made
    assert f"useradd --uid {uid} --gid {gid} --home-dir {home}" in made


@pytest.mark.parametrize("name", NAMES)
def test_labels_say_what_it_is(name: str) -> None:
    labels = final_stage(name).pairs("LABEL")
    assert labels["org.opencontainers.image.title"] == f"visiondyno-{name}"
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert f"-t visiondyno-{name}:{__version__} ." in FILES[name].read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_extras_are_those_of_the_project(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (build,) = [stage for stage in read_stages(FILES[name]) if stage.name == "build"]
    assert _extras(build) <= set(project["optional-dependencies"])
    pinned = {key.lower().replace("_", "-") for key in _constraints()}
    wanted = {*build.pairs("ARG").get("TORCH", "").split(), "hatchling", "onnxruntime"}
    assert wanted <= pinned
    for run in build.all("RUN"):
        for install in re.findall(r"pip install[^&;]*", run.rest):
            assert "-c constraints.txt" in install or "--no-deps" in install


@pytest.mark.parametrize("name", NAMES)
def test_its_own_command_parses(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = dyno_words(name, None)
    if words[0] == "serve":
        config = serving_of(words, environment(name), monkeypatch)
        assert (config.model, config.host, config.port) == ("visiondyno:street-n", "0.0.0.0", 8080)
        return
    settings = settings_of(environment(name), monkeypatch)
    assert str(settings.home) == "/var/lib/visiondyno"
    assert parsed(words).info_name == words[0]


def test_a_word_that_no_command_has_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for words in (["up", "--wrkers", "3"], ["wrker"], ["db", "upgrad"], ["worker", "--slots", "x"]):
        with pytest.raises((click.UsageError, SpecError)):
            parsed(words)
    with pytest.raises(AssertionError, match="VISIONDYNO_HOSTT"):
        settings_of({"VISIONDYNO_HOSTT": "0.0.0.0"}, monkeypatch)


@pytest.mark.parametrize("name", NAMES)
def test_the_health_check_is_one_that_is_in_the_image(name: str) -> None:
    stage = final_stage(name)
    check = stage.last("HEALTHCHECK")
    assert {flag.split("=")[0] for flag in check.flags} == {
        "--interval",
        "--timeout",
        "--start-period",
        "--retries",
    }
    assert check.rest.startswith("CMD [")
    python, script, *arguments = json.loads(check.rest.removeprefix("CMD "))
    assert python == "python"
    copied = [each.words for each in stage.all("COPY") if not each.flags]
    assert copied == [[f"deploy/docker/{Path(script).name}", "/opt/visiondyno/"]]
    if name in {"api", "serve"}:
        assert {int(arguments[1])} == ports(name)
    else:
        assert arguments == []
        assert ports(name) == set()


@pytest.mark.parametrize("name", NAMES)
def test_sigterm_reaches_the_program(name: str) -> None:
    stage = final_stage(name)
    assert stage.last("STOPSIGNAL").rest == "SIGTERM"
    for part in ("ENTRYPOINT", "CMD"):
        assert stage.last(part).rest.startswith("[")


def test_the_servers_port_is_left_to_whoever_runs_it() -> None:
    assert not {"PORT", "VISIONDYNO_SERVE_PORT"} & set(environment("serve"))
    assert ports("serve") == {8080}
    assert ports("api") == {8000}
