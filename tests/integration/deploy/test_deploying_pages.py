"""docs/deploying-*.md of Compose, Kubernetes and Cloud Run: their commands, paths and figures."""

import re
import shlex
import shutil
import subprocess
from itertools import takewhile
from pathlib import Path

import pytest
import yaml
from compose_build import env_file
from image_files import NAMES, ROOT, image_called, tag
from known_settings import parsed
from kustomize_build import FOLDER, Object, build, documents, of_kind, pod_of

from visiondyno import __version__
from visiondyno.loadtest.pricing import CLOUD_RUN_TIER_1

PAGES = ("compose", "kubernetes", "cloud-run")
MONTH_S = 30 * 86400
_ENDS = {"|", "||", "&&", "&", ";", ">", "<"}


def _text(page: str) -> str:
    return (ROOT / f"docs/deploying-{page}.md").read_text(encoding="utf-8")


def _blocks(page: str) -> list[str]:
    found = re.findall(r"^ *```(?:sh|console)\n(.*?)^ *```", _text(page), re.M | re.S)
    return [re.sub(r" *\\\n *", " ", block) for block in found]


def _lines(page: str) -> list[str]:
    """Command lines of the page's blocks; what a console answers is left out."""
    lines = []
    for block in _blocks(page):
        given = [line.strip() for line in block.splitlines()]
        prompts = [line.removeprefix("$ ") for line in given if line.startswith("$ ")]
        lines += prompts or [line for line in given if line]
    return lines


def _spans(page: str) -> list[str]:
    """Code within the prose and the tables."""
    prose = re.sub(r"^ *```.*?^ *```", "", _text(page), flags=re.M | re.S)
    return [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", prose)]


def _words_after_dyno(line: str) -> list[str] | None:
    # No comment starts at a `#` within a word, and `…` stands for what the reader knows.
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    words = list(lexer)
    if "dyno" not in words:
        return None
    return list(takewhile(lambda word: word not in _ENDS, words[words.index("dyno") + 1 :]))


@pytest.mark.parametrize("page", PAGES)
def test_every_dyno_command_of_the_page_parses(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").touch()
    found = 0
    for line in [*_lines(page), *_spans(page)]:
        words = _words_after_dyno(line) if re.search(r"\bdyno\b", line) else None
        if not words:
            continue
        found += 1
        if len(words) == 1:
            words = [*words, "--help"]
        with _nothing_printed(words):
            parsed(words)
    assert found > 0


def _nothing_printed(words: list[str]) -> object:
    """`--help` ends with `Exit`: the command is there."""
    import contextlib

    from click.exceptions import Exit

    return contextlib.suppress(Exit) if words[-1] == "--help" else contextlib.nullcontext()


@pytest.mark.parametrize("page", PAGES)
def test_every_path_of_the_page_is_there(page: str) -> None:
    paths = set(re.findall(r"(?<![\w/.-])(?:deploy|docs)/[\w./-]*\w", _text(page)))
    made = {"deploy/compose/.env", "deploy/compose/data", "deploy/compose/models"}
    assert len(paths) > 3
    assert {path for path in paths - made if not (ROOT / path).exists()} == set()
    kept = (ROOT / "deploy/compose/.gitignore").read_text(encoding="utf-8").split()
    assert {path.removeprefix("deploy/compose").lstrip("/") for path in made} == {
        line.strip("/") for line in kept
    }


@pytest.mark.parametrize("page", PAGES)
def test_images_of_the_page_have_this_versions_tag(page: str) -> None:
    for reference in re.findall(r"(?:[\w.]+/)?visiondyno-[a-z-]+:[\w.-]+", _text(page)):
        assert image_called(reference) in NAMES
        assert tag(reference) in {__version__, f"{__version__}-cuda"}


def test_the_kustomizations_of_the_page_are_those_that_there_are() -> None:
    applied = {
        words[-1]
        for line in _lines("kubernetes")
        if (words := line.split())[:3] == ["kubectl", "apply", "-k"]
    }
    overlays = {f"deploy/kubernetes/overlays/{path.name}" for path in FOLDER.glob("overlays/*")}
    assert applied == {*overlays, "deploy/kubernetes/loadtest"}
    table = _text("kubernetes").split("## The first time")[0]
    assert set(re.findall(r"^\| `([\w-]+)` \|", table, re.M)) == {Path(o).name for o in overlays}


def test_the_secrets_of_the_page_are_those_that_pods_take() -> None:
    made: dict[str, set[str]] = {}
    for line in _lines("kubernetes"):
        words = line.split()
        if "secret" in words and "generic" in words:
            literals = re.findall(r"--from-literal (\w+)=", line)
            made[words[words.index("generic") + 1]] = set(literals)
    example = documents(FOLDER / "secret.example.yaml")
    assert made == {each["metadata"]["name"]: set(each["stringData"]) for each in example}


def test_the_rule_of_the_page_is_prometheus_rules_in_a_custom_resource() -> None:
    (line,) = [line for line in _lines("kubernetes") if "PrometheusRule" in line]
    command = line.removesuffix("| kubectl apply -f -")
    assert command != line
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, check=True)
    resource = yaml.safe_load(done.stdout)
    assert resource["kind"] == "PrometheusRule"
    rules = ROOT / "deploy/observability/prometheus/visiondyno.rules.yaml"
    assert resource["spec"] == yaml.safe_load(rules.read_text(encoding="utf-8"))


def test_the_first_lines_of_the_page_fill_the_example_of_env(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl isn't installed")
    folder = tmp_path / "deploy/compose"
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "deploy/compose/.env.example", folder)
    script = _blocks("compose")[0].partition("docker compose")[0]
    subprocess.run(["sh", "-ec", script], cwd=tmp_path, check=True)
    before, after = env_file(folder / ".env.example"), env_file(folder / ".env")
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {name for name, value in before.items() if not value}
    for name in changed - {"VISIONDYNO_WEBHOOK_SECRET"}:
        assert re.fullmatch("[0-9a-f]{48}", after[name])
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=", after["VISIONDYNO_WEBHOOK_SECRET"])


def test_what_the_cluster_must_have_is_what_pods_request() -> None:
    rows = re.findall(
        r"^\| (?:`([\w-]+)`[^|]*) \| ([\d.]+) \| ([\d.]+) GiB \| (\d+|–) \|",
        _text("kubernetes"),
        re.M,
    )
    assert [row[0] for row in rows] == ["local-cpu", "gpu", "scale-to-zero"]
    for overlay, cpus, memory, gpus in rows:
        objects = build(FOLDER / "overlays" / overlay)
        least = {
            each["spec"]["scaleTargetRef"]["name"]: each["spec"]["minReplicas"]
            for each in of_kind(objects, "HorizontalPodAutoscaler")
        }
        least |= {
            each["spec"]["scaleTargetRef"]["name"]: each["spec"]["minReplicaCount"]
            for each in of_kind(objects, "ScaledObject")
        }
        lasting = [each for each in objects if pod_of(each) and each["kind"] != "Job"]
        wanted = [_requests(each, least) for each in lasting]
        total = [sum(each[index] for each in wanted) for index in range(3)]
        assert total == pytest.approx([float(cpus), float(memory), float(gpus.replace("–", "0"))])


def _requests(workload: Object, least: dict[str, int]) -> tuple[float, float, float]:
    """Processors, GiB and GPUs of as many pods as there are at least."""
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    pods = workload["spec"].get("replicas", least.get(workload["metadata"]["name"]))
    assert pods is not None
    requests, limits = (container["resources"][key] for key in ("requests", "limits"))
    cpu = requests["cpu"]
    cpus = float(cpu[:-1]) / 1000 if cpu.endswith("m") else float(cpu)
    unit = {"Mi": 1 / 1024, "Gi": 1.0}[requests["memory"][-2:]]
    gpus = float(limits.get("nvidia.com/gpu", 0))
    return pods * cpus, pods * float(requests["memory"][:-2]) * unit, pods * gpus


def test_the_services_beside_the_workers_may_take_what_the_page_says() -> None:
    (stated,) = re.findall(r"At most ([\d.]+) GB of memory for the services", _text("compose"))
    whole = yaml.safe_load((ROOT / "deploy/compose/compose.yaml").read_text(encoding="utf-8"))
    lasting = {
        name: each["deploy"]["resources"]["limits"]["memory"]
        for name, each in whole["services"].items()
        if name not in {"worker", "database-schema"}
    }
    units = {"G": 1.0, "M": 1 / 1024}
    assert sum(float(text[:-1]) * units[text[-1]] for text in lasting.values()) == float(stated)


def test_the_costs_of_the_page_are_of_the_prices_that_load_tests_take() -> None:
    text = _text("cloud-run")
    request, instance = CLOUD_RUN_TIER_1["request"], CLOUD_RUN_TIER_1["instance"]
    assert _row(text, "a vCPU for a second") == [request.usd_per_vcpu_s, instance.usd_per_vcpu_s]
    assert _row(text, "a GiB for a second") == [request.usd_per_gib_s, instance.usd_per_gib_s]
    assert _row(text, "a million requests") == [request.usd_per_million_requests]
    a_second = [2 * each.usd_per_vcpu_s + 2 * each.usd_per_gib_s for each in (request, instance)]
    assert _row(text, "one instance, busy") == [round(3600 * each, 2) for each in a_second]
    assert _row(text, "**30 days without") == [0, round(MONTH_S * a_second[1], 2)]
    assert _row(text, "at most, three") == [round(3 * MONTH_S * each, 2) for each in a_second]
    assert a_second[1] / a_second[0] == pytest.approx(0.75, abs=0.02)


def _row(text: str, beginning: str) -> list[float]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {beginning}")]
    return [float(number) for number in re.findall(r"([\d.]+) USD", line)]
