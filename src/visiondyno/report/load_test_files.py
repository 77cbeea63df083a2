"""Writing a load test in every form, and reading one back."""

import json
from pathlib import Path

from pydantic import ValidationError

from visiondyno.errors import SpecError
from visiondyno.report.load_test import LoadTestResult
from visiondyno.report.load_test_html import load_test_html, spec_yaml
from visiondyno.report.load_test_markdown import load_test_markdown
from visiondyno.specs.operations import describe_validation
from visiondyno.whole_file import write_whole

RECORD = "loadtest.json"
SCHEMA = "visiondyno.loadtest/1"
_STRATEGIES_HEADER = """\
# What --strategies compared: dyno loadtest --strategies {model} --replicas {replicas} \
--idle-timeout {idle_timeout_s:g}s --rate {rate_per_s:g} --duration {steady_s:g}s
# It is no test for --config.
"""
_HEADER = """\
# Repeats this load test: dyno loadtest --config spec.yaml
# What was secret is hidden here; give it again as a flag.
"""


def load_test_json(result: LoadTestResult) -> str:
    """The record as JSON."""
    return result.model_dump_json(indent=1) + "\n"


def write_load_test(result: LoadTestResult, folder: Path) -> dict[str, Path]:
    """Write `loadtest.json`, `.html`, `.md` and `spec.yaml` into a folder that exists.

    Each file appears whole or not at all; one that is there already is replaced.

    Returns:
        The form's name (`json`, `html`, `md`, `yaml`) → its file.

    Raises:
        StorageFull: a file can't be written.
    """
    forms = {
        "json": (RECORD, load_test_json(result)),
        "html": ("loadtest.html", load_test_html(result)),
        "md": ("loadtest.md", load_test_markdown(result)),
        "yaml": ("spec.yaml", _header(result) + spec_yaml(result)),
    }
    written = {}
    for form, (name, text) in forms.items():
        written[form] = folder / name
        write_whole(written[form], text.encode(), "The report", "choose another folder with --out")
    return written


def _header(result: LoadTestResult) -> str:
    return _HEADER if "targets" in result.spec else _STRATEGIES_HEADER.format(**result.spec)


def read_load_test(path: Path) -> LoadTestResult:
    """The load test in a `loadtest.json`, or in the folder that holds one.

    Raises:
        SpecError: no such file, not JSON, or not of schema `visiondyno.loadtest/1`.
    """
    file = path / RECORD if path.is_dir() else path
    try:
        payload = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"{file}: can't be read ({error.strerror or error}).") from error
    except ValueError as error:
        raise SpecError(f"{file}: isn't JSON; give the {RECORD} of a load test.") from error
    schema = payload.get("schema_name") if isinstance(payload, dict) else None
    if schema != SCHEMA:
        found = f"its schema is '{schema}'" if schema else "it names no schema"
        raise SpecError(f"{file}: isn't a record of schema '{SCHEMA}' ({found}).")
    try:
        return LoadTestResult.model_validate(payload)
    except ValidationError as error:
        raise SpecError(f"{file}: {describe_validation(error)}.") from error
