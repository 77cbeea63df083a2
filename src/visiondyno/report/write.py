"""Writing a comparison in every form, and reading one back."""

import json
import os
import tempfile
from pathlib import Path

from pydantic import ValidationError

from visiondyno.errors import SpecError
from visiondyno.report.comparison import Comparison
from visiondyno.report.csv import to_csv
from visiondyno.report.html import to_html
from visiondyno.report.markdown import to_markdown
from visiondyno.report.yaml_spec import dump_spec
from visiondyno.specs.operations import describe_validation

SCHEMA = "visiondyno.comparison/1"


def write_report(comparison: Comparison, out_dir: Path) -> dict[str, Path]:
    """Write `report.html`, `.json`, `.md`, `.csv` and `comparison.yaml` into a folder.

    Each file appears whole or not at all; one that is there already is replaced.

    Returns:
        The form's name (`html`, `json`, `md`, `csv`, `yaml`) → its file.

    Raises:
        SpecError: the folder can't be made or written to.
    """
    forms = {
        "html": ("report.html", to_html(comparison)),
        "json": ("report.json", comparison.to_json() + "\n"),
        "md": ("report.md", to_markdown(comparison)),
        "csv": ("report.csv", to_csv(comparison)),
        "yaml": ("comparison.yaml", dump_spec(comparison.spec)),
    }
    written = {}
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        for form, (name, text) in forms.items():
            written[form] = out_dir / name
            _write_atomically(written[form], text)
    except OSError as error:
        raise SpecError(
            f"The report can't be written to {out_dir} ({error.strerror or error}); choose another "
            "folder with --out."
        ) from error
    return written


def read_report(path: Path) -> Comparison:
    """The comparison in a `report.json` (or in the folder that holds one).

    Raises:
        SpecError: no such file, not JSON, or not of schema `visiondyno.comparison/1`.
    """
    file = path / "report.json" if path.is_dir() else path
    try:
        payload = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"{file}: can't be read ({error.strerror or error}).") from error
    except ValueError as error:
        raise SpecError(
            f"{file}: isn't JSON; give the report.json that a comparison wrote."
        ) from error
    schema = payload.get("schema") if isinstance(payload, dict) else None
    if schema != SCHEMA:
        found = f"its schema is '{schema}'" if schema else "it names no schema"
        raise SpecError(f"{file}: isn't a report of schema '{SCHEMA}' ({found}); make a new one.")
    try:
        return Comparison.model_validate(payload)
    except ValidationError as error:
        raise SpecError(f"{file}: {describe_validation(error)}.") from error


def _write_atomically(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
