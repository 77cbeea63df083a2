"""Prometheus over running programs, and what dashboards and rules ask of it."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from services import binary, free_port, until

ROOT = Path(__file__).resolve().parents[1]
OBSERVABILITY = ROOT / "deploy" / "observability"
RULES = OBSERVABILITY / "prometheus" / "visiondyno.rules.yaml"
GRAFANA = OBSERVABILITY / "grafana"
SCRAPE = "200ms"
PATIENCE_S = 60.0
"""How long data may take to come; only what never comes takes so long."""

_NAME = re.compile(r"(?<![:\w$\"])((?:visiondyno_|process_)\w+)(?![:\w])")
_SELECTOR = re.compile(r"(?<![:\w])((?:visiondyno_|process_)\w+)\{([^}]*)\}")
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")


@dataclass(frozen=True)
class PanelQuery:
    """One query of a dashboard's panel, with Grafana's variables filled in."""

    panel: str
    expr: str
    legend: str

    @property
    def legend_labels(self) -> set[str]:
        return set(re.findall(r"\{\{(\w+)\}\}", self.legend))


def panel_queries(dashboard: str) -> list[PanelQuery]:
    """Those of a dashboard in `deploy/observability/grafana`."""
    panels = json.loads((GRAFANA / dashboard).read_text())["panels"]
    return [
        PanelQuery(panel["title"], filled_in(target["expr"]), target["legendFormat"])
        for panel in panels
        for target in panel.get("targets", [])
    ]


def filled_in(expr: str) -> str:
    """The query as Grafana sends it, for all servers and models."""
    for variable, value in (("$__rate_interval", "10s"), ("$instance", ".*"), ("$model", ".*")):
        expr = expr.replace(variable, value)
    assert "$" not in expr, expr
    return expr


def metric_names(expr: str) -> set[str]:
    """The metrics of ours that a query names."""
    return set(_NAME.findall(re.sub(r'"[^"]*"', '""', expr)))


def matched_labels(expr: str) -> list[tuple[str, set[str]]]:
    """Each metric with the labels that a selector asks it for."""
    return [(name, set(_MATCHER.findall(inside))) for name, inside in _SELECTOR.findall(expr)]


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus."""

    url: str

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The series that a query gives now; one that is wrong fails the test."""
        answer = httpx.post(f"{self.url}/api/v1/query", data={"query": expr}).json()
        assert answer["status"] == "success", f"{expr}: {answer.get('error')}"
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def get(self, path: str) -> Any:
        """The data that Prometheus' API has there."""
        return httpx.get(f"{self.url}/api/v1/{path}").json()["data"]


def exported(url: str) -> dict[str, set[str]]:
    """Every sample's name that a program exports, with its labels; also those without a sample.

    A family without samples has no labels here.
    """
    found: dict[str, set[str]] = {}
    for line in httpx.get(f"{url}/metrics").text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
            for suffix in suffixes:
                found.setdefault(name + suffix, set())
        elif not line.startswith("#"):
            name, _, labels = line.partition("{")
            found.setdefault(name.split()[0], set()).update(
                re.findall(r'(\w+)="(?:[^"\\]|\\.)*"', labels)
            )
    return found


@contextmanager
def prometheus(folder: Path, targets: dict[str, str]) -> Iterator[Prometheus]:
    """Debian's, on the project's configuration, with other targets and a shorter interval.

    Args:
        folder: for its data.
        targets: URL by name of the file in `targets/`.
    """
    program = binary("prometheus")
    config = yaml.safe_load((OBSERVABILITY / "prometheus.yaml").read_text())
    config["global"] = {"scrape_interval": SCRAPE, "evaluation_interval": SCRAPE}
    config["global"]["scrape_timeout"] = SCRAPE
    config["rule_files"] = [str(OBSERVABILITY / path) for path in config["rule_files"]]
    (folder / "targets").mkdir()
    for name, url in targets.items():
        told = [{"targets": [url.removeprefix("http://")]}]
        (folder / "targets" / f"{name}.yaml").write_text(yaml.safe_dump(told))
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    port = free_port()
    log = folder / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return httpx.get(f"{url}/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    try:
        assert until(answers, process, log), log.read_text()
        yield Prometheus(url)
    finally:
        process.kill()
        process.wait()


def wait_for(what: str, is_so: Any, between: Any = lambda: None) -> Any:
    """The first answer of `is_so` that is true; `between` makes traffic meanwhile."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if found := is_so():
            return found
        between()
        time.sleep(0.1)
    raise AssertionError(f"{what} never came")
