"""What every page of the report package has in common: one file, no network, its own style."""

import base64
import hashlib
import re
from typing import Any

from jinja2 import Environment as Templates
from jinja2 import PackageLoader, StrictUndefined
from markupsafe import Markup

from visiondyno.report.format import bytes_text, number, title, unit_label

_DATE = re.compile(r"(\d{4}-\d\d-\d\d)")


def render_page(template: str, context: dict[str, Any]) -> str:
    """The page of that template with style and script inside.

    Every text from outside is escaped, and a content security policy lets only our own script run
    and nothing be fetched.
    """
    templates = _templates()
    assert templates.loader is not None
    style, script = (
        templates.loader.get_source(templates, name)[0] for name in ("style.css", "script.js")
    )
    return templates.get_template(template).render(
        **context,
        style=Markup(style),  # noqa: S704  # our own file
        script=Markup(script),  # noqa: S704  # our own file
        policy=_policy(script),
    )


def render_piece(template: str, context: dict[str, Any]) -> Markup:
    """What that template makes, for a page of somebody else's; every text in it is escaped."""
    return Markup(_templates().get_template(template).render(**context))  # noqa: S704  # it escapes


def _templates() -> Templates:
    templates = Templates(
        loader=PackageLoader("visiondyno.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(
        number=number, title_of=title, unit=unit_label, size=bytes_text, breakable=breakable
    )
    return templates


def _policy(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def breakable(text: str) -> Markup:
    """A name that may break after a separator, but not inside a word or a date."""
    pieces = []
    for place, part in enumerate(_DATE.split(text)):
        if place % 2:
            pieces.append(Markup('<span class="tight">{}</span>').format(part))
        else:
            pieces.append(Markup("<wbr>").join(re.split(r"(?<=[_\-./@:])", part)))
    return Markup("").join(pieces)
