"""Templates and assets: everything the browser is given comes from inside the package."""

import hashlib
import time
from dataclasses import dataclass
from functools import partial
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from visiondyno.dashboard.wording import (
    STATE_TONES,
    STATE_WORDS,
    breakable,
    bytes_text,
    duration_text,
    facts_text,
    folded_json,
    iso_text,
    moment,
    moment_text,
    time_of_day,
)
from visiondyno.report.format import number, plural, title, unit_label

ASSETS = "/dashboard/static"

_FILES: dict[str, tuple[str, str, str]] = {
    # The report's own style sheet: colours, type, tables and dark mode are written once.
    "report.css": ("visiondyno.report", "templates/style.css", "text/css"),
    "dashboard.css": ("visiondyno.dashboard", "static/dashboard.css", "text/css"),
    "dashboard.js": ("visiondyno.dashboard", "static/dashboard.js", "text/javascript"),
    "icon.svg": ("visiondyno.dashboard", "static/icon.svg", "image/svg+xml"),
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file for the browser.

    Attributes:
        content: the bytes.
        media_type: with its character set.
        url: changes with the content, so that a browser may keep the file for ever.
    """

    content: bytes
    media_type: str
    url: str


def load_assets() -> dict[str, Asset]:
    """Every asset by name, read once."""
    found = {}
    for name, (package, path, media_type) in _FILES.items():
        content = resources.files(package).joinpath(path).read_bytes()
        digest = hashlib.sha256(content).hexdigest()[:12]
        found[name] = Asset(content, f"{media_type}; charset=utf-8", f"{ASSETS}/{digest}/{name}")
    return found


class Pages:
    """Renders whole pages and the live regions inside them from the same templates."""

    def __init__(self, assets: dict[str, Asset], *, keys_required: bool, endpoint: str) -> None:
        self._templates = Environment(
            loader=PackageLoader("visiondyno.dashboard"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(
            breakable=breakable,
            clock=moment_text,
            duration=duration_text,
            facts=facts_text,
            folded=folded_json,
            iso=iso_text,
            measure=title,
            number=number,
            plural=plural,
            size=bytes_text,
            time_of_day=time_of_day,
            tone=lambda state: STATE_TONES.get(str(state), "calm"),
            unit=unit_label,
            word=lambda state: STATE_WORDS.get(state, str(state)),
        )
        self._templates.globals.update(
            asset=lambda name: assets[name].url, keys_required=keys_required, endpoint=endpoint
        )

    def page(self, template: str, **context: Any) -> str:
        """A whole page, with times told relative to now."""
        now = time.time()
        return self._templates.get_template(template).render(
            at=now, ago=partial(moment, now=now), **context
        )

    def region(self, template: str, **context: Any) -> str:
        """A part of a page; equal whenever its facts are, for its times are told in full."""
        return self._templates.get_template(template).render(
            at=None, ago=partial(moment, now=None), **context
        )
