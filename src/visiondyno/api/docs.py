"""`/docs`: the OpenAPI document as a page. It needs no network and no script."""

import html
import importlib.resources
import json
import re
from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from visiondyno.api.problems import ERRORS_PAGE, error_catalogue

router = APIRouter(include_in_schema=False)

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'self'; base-uri 'none'"
_CSS = """
.op { border: 1px solid var(--line); border-radius: 8px; background: var(--card); margin: 10px 0; }
.op > summary { padding: 10px 14px; cursor: pointer; overflow-wrap: anywhere; }
.op > div { padding: 0 14px 14px; }
.op h4 { margin: 16px 0 4px; }
.what { font-weight: 400; color: var(--muted); margin-left: 0.6em; }
.method { display: inline-block; min-width: 4.2em; font-weight: 700; color: var(--accent); }
.docs pre { white-space: pre-wrap; background: var(--page); padding: 10px; border-radius: 6px; }
.docs table { border-collapse: collapse; width: 100%; }
.docs th, .docs td { text-align: left; vertical-align: top; padding: 4px 12px 4px 0; }
.docs .scroll { overflow-x: auto; }
main.docs { padding-top: 20px; padding-bottom: 40px; }
.docs pre, .docs section > p, .docs > p { margin: 8px 0; }
.docs p { max-width: 90ch; white-space: pre-line; }
"""


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    """Every address, what it takes and what it answers."""
    base = str(request.base_url).rstrip("/")
    return _page("HTTP API", _api_body(request.app.openapi(), base), request)


@router.get(ERRORS_PAGE)
async def errors(request: Request) -> HTMLResponse:
    """What each problem's `code` means."""
    rows = "".join(
        f'<tr id="{code}"><th><code>{code}</code></th><td>{status}</td>'
        f"<td>{_text(meaning)}</td></tr>"
        for code, status, meaning in error_catalogue()
    )
    lead = (
        "<p>An error is a problem document (RFC 9457, <code>application/problem+json</code>): "
        "<code>code</code> is for programs and stays, <code>detail</code> says what, where and the "
        "next step.</p>"
    )
    head = "<tr><th>code</th><th>status</th><th>meaning</th></tr>"
    return _page(
        "Problems", f'{lead}<div class="scroll"><table>{head}{rows}</table></div>', request
    )


def _page(title: str, body: str, request: Request) -> HTMLResponse:
    has_dashboard = getattr(request.app.state, "has_dashboard", True)
    dashboard = ' · <a href="/">Dashboard</a>' if has_dashboard else ""
    templates = importlib.resources.files("visiondyno.report") / "templates"
    style = (templates / "style.css").read_text(encoding="utf-8") + _CSS
    return HTMLResponse(
        f'<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title} · VisionDyno</title><style>{style}</style>"
        f'<div class="top"><h1>{title}</h1><p class="subtitle"><a href="/docs">Addresses</a> · '
        f'<a href="{ERRORS_PAGE}">Problems</a> · <a href="/openapi.json">OpenAPI document</a>'
        f'{dashboard}</p></div><main class="docs">{body}</main></html>',
        headers={"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"},
    )


def _api_body(document: dict[str, Any], base: str) -> str:
    by_tag: dict[str, list[str]] = {}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            tag = operation.get("tags", ["other"])[0]
            by_tag.setdefault(tag, []).append(_operation(path, method, operation, base))
    sections = "".join(
        f"<section><h2>{_text(tag)}</h2>{''.join(operations)}</section>"
        for tag, operations in by_tag.items()
    )
    schemas = "".join(
        f'<details class="op" id="schema-{name}"><summary>{name}</summary>'
        f"<div><p>{_text(schema.get('description', ''))}</p>{_fields(schema)}</div></details>"
        for name, schema in sorted(document["components"]["schemas"].items())
    )
    lead = f"<p>{_text(document['info']['description'])}</p>"
    return f"{lead}{sections}<section><h2>Values</h2>{schemas}</section>"


def _operation(path: str, method: str, operation: dict[str, Any], base: str) -> str:
    parts = [f"<p>{_text(operation['description'])}</p>"]
    if operation.get("parameters"):
        rows = "".join(_parameter(parameter) for parameter in operation["parameters"])
        parts.append(f'<h4>Parameters</h4><div class="scroll"><table>{rows}</table></div>')
    body = operation.get("requestBody", {}).get("content", {})
    for kind, content in body.items():
        parts.append(f"<h4>Body <code>{kind}</code>: {_type(content.get('schema', {}))}</h4>")
        parts.extend(_examples(content))
    rows = "".join(_response(*response) for response in sorted(operation["responses"].items()))
    parts.append(f'<h4>Answers</h4><div class="scroll"><table>{rows}</table></div>')
    parts.append(f"<pre>{html.escape(_curl(base + path, method, operation))}</pre>")
    return (
        f'<details class="op" id="{operation["operationId"]}"><summary>'
        f'<span class="method">{method.upper()}</span> <code>{html.escape(path)}</code> '
        f'<span class="what">{_text(operation["summary"])}</span></summary>'
        f"<div>{''.join(parts)}</div></details>"
    )


def _parameter(parameter: dict[str, Any]) -> str:
    needed = "required" if parameter.get("required") else "optional"
    return (
        f"<tr><th><code>{parameter['name']}</code></th><td>{parameter['in']}, {needed}</td>"
        f"<td>{_type(parameter.get('schema', {}))}</td>"
        f"<td>{_text(parameter.get('description', ''))}</td></tr>"
    )


def _response(status: str, response: dict[str, Any]) -> str:
    kinds = " ".join(
        f"<code>{kind}</code> {_type(content.get('schema', {}))}"
        for kind, content in response.get("content", {}).items()
    )
    return f"<tr><th>{status}</th><td>{_text(response['description'])}</td><td>{kinds}</td></tr>"


def _examples(content: dict[str, Any]) -> Iterator[str]:
    for example in content.get("examples", {}).values():
        shown = json.dumps(example["value"], indent=2)
        yield f"<p>{_text(example.get('summary', 'Example'))}</p><pre>{html.escape(shown)}</pre>"


def _fields(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return (
            f"<p>{', '.join(f'<code>{_text(str(value))}</code>' for value in schema['enum'])}</p>"
        )
    needed = set(schema.get("required", ()))
    rows = "".join(
        f"<tr><th><code>{name}</code></th><td>{'' if name in needed else 'optional'}</td>"
        f"<td>{_type(field)}</td><td>{_text(field.get('description', ''))}</td></tr>"
        for name, field in schema.get("properties", {}).items()
    )
    return f'<div class="scroll"><table>{rows}</table></div>'


def _type(schema: dict[str, Any]) -> str:
    """A schema in a few words, with links to the values it is made of."""
    if "contentSchema" in schema:
        return f"JSON of {_type(schema['contentSchema'])}"
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return f'<a href="#schema-{name}">{name}</a>'
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return " or ".join(_type(one) for one in schema[several])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    words = str(schema.get("const", schema.get("format", schema.get("type", "anything"))))
    limits = ", ".join(
        f"{sign} {schema[key]}"
        for key, sign in (("minimum", "≥"), ("maximum", "≤"), ("pattern", "like"))
        if key in schema
    )
    return _text(f"{words} ({limits})" if limits else words)


def _curl(url: str, method: str, operation: dict[str, Any]) -> str:
    lines = [f"curl -X {method.upper()} {url}"]
    if method == "head":
        lines = [f"curl --head {url}"]
    if operation.get("security"):
        lines.append("-H 'Authorization: Bearer KEY'")
    kinds = operation.get("requestBody", {}).get("content", {})
    if "application/json" in kinds:
        lines.append("-H 'Content-Type: application/json' -d @body.json")
    elif "multipart/form-data" in kinds:
        lines.append("-F name=NAME -F file=@model.onnx")
    elif kinds:
        lines.append("--data-binary @FILE")
    return " \\\n  ".join(lines)


def _text(raw: str) -> str:
    """`raw` escaped, its `code` set as such."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(raw))
