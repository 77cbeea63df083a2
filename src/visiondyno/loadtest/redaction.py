"""What must not reach a record, a page or the terminal: credentials in headers, URLs, messages."""

import json
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

from visiondyno.errors import SpecError
from visiondyno.specs.load_test import LoadTestSpec, TargetSpec

HIDDEN = "(hidden)"
"""What stands in a record where a secret stood."""

_SECRET_NAME = re.compile(
    r"authorization|cookie|token|secret|passw|api[-_]?key|(?:^|[-_])(?:key|auth|sig|signature|"
    r"credential|code|session)(?:$|[-_])|x-amz-|x-goog-",
    re.IGNORECASE,
)
_SHORTEST = 4
"""A secret shorter than this isn't looked for in messages: it would match everywhere."""


def is_secret_name(name: str) -> bool:
    """Whether a header or query parameter of this name is taken for a secret."""
    return _SECRET_NAME.search(name) is not None


def public_url(url: str) -> str:
    """A URL without user information, fragment and the values of secret query parameters."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    pieces = [_public_pair(piece) for piece in parts.query.split("&")] if parts.query else []
    return urlunsplit((parts.scheme, place, parts.path, "&".join(pieces), ""))


def public_headers(headers: dict[str, str]) -> dict[str, str]:
    """Headers with secret values hidden."""
    return {name: HIDDEN if is_secret_name(name) else value for name, value in headers.items()}


def public_spec(spec: LoadTestSpec) -> dict[str, Any]:
    """A spec as JSON with `HIDDEN` where a secret stood; `require_secrets` asks for it again."""
    fields: dict[str, Any] = spec.model_dump(mode="json")
    for target in fields["targets"]:
        target["url"] = _marked_url(target["url"])
        target["headers"] = public_headers(target["headers"])
        target["json_body"] = _public_json(target["json_body"])
        watch = target["watch"] or {}
        if watch.get("url"):
            watch["url"] = _marked_url(watch["url"])
    return fields


def require_secrets(targets: Iterable[TargetSpec]) -> None:
    """Refuse a spec that was read back from a record, where its secrets had been hidden.

    Raises:
        SpecError: a header, URL or JSON body holds `HIDDEN`; names it.
    """
    for target in targets:
        for name, value in target.headers.items():
            if value == HIDDEN:
                raise SpecError(
                    f"The header '{name}' of {public_url(target.url)} was hidden when this spec "
                    f"was written; give it again with --header '{name}: …'."
                )
        watched = getattr(target.watch, "url", None) or ""
        for url in (target.url, watched):
            if HIDDEN in unquote(url):
                raise SpecError(
                    f"A part of the URL {public_url(url)} was hidden when this spec was written; "
                    "give the whole URL again."
                )
        if HIDDEN in json.dumps(target.json_body):
            raise SpecError(
                f"A part of the JSON body for {public_url(target.url)} was hidden when this spec "
                "was written; give it again with --json."
            )


def secrets_of(target: TargetSpec) -> frozenset[str]:
    """The values that must not show up anywhere."""
    parts = urlsplit(target.url)
    found = {value for name, value in target.headers.items() if is_secret_name(name)}
    # Of "Bearer abc" the second word alone is a secret too.
    found |= {word for value in found for word in value.split()[1:]}
    found |= {
        value
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
        if is_secret_name(name)
    }
    if "@" in parts.netloc:
        info = parts.netloc.rpartition("@")[0]
        found |= {info, *info.split(":")}
    shown = {unquote(value) for value in found} | found
    return frozenset(value for value in shown if len(value) >= _SHORTEST)


def without_secrets(text: str, secrets: Iterable[str]) -> str:
    """A message in which no secret stands any more."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def _marked_url(url: str) -> str:
    """The public URL, with a mark where user information stood."""
    shown, parts = urlsplit(public_url(url)), urlsplit(url)
    if "@" in parts.netloc:
        shown = shown._replace(netloc=f"{quote(HIDDEN)}@{shown.netloc}")
    return shown.geturl()


def _public_json(value: Any) -> Any:
    """A JSON value with the texts and numbers hidden that have a secret name."""
    if isinstance(value, list):
        return [_public_json(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        name: HIDDEN
        if is_secret_name(name) and not isinstance(part, dict | list | bool | None)
        else _public_json(part)
        for name, part in value.items()
    }


def _public_pair(piece: str) -> str:
    name, equals, _ = piece.partition("=")
    return f"{name}={quote(HIDDEN)}" if equals and is_secret_name(unquote(name)) else piece
