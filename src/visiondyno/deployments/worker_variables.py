"""The environment variables that an endpoint's workers get: read, checked, and shown."""

import ipaddress
import re
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from visiondyno.errors import SpecError

BLOBS_URL = "VISIONDYNO_BLOBS_URL"
BLOBS_KEY = "VISIONDYNO_BLOBS_API_KEY"
HIDDEN = "****"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RUNPOD_SECRET = re.compile(r"\{\{\s*RUNPOD_SECRET_\w+\s*\}\}")
_SHOWN = frozenset(
    {
        BLOBS_URL,
        "VISIONDYNO_CONCURRENCY",
        "VISIONDYNO_PREFETCH",
        "VISIONDYNO_DRAIN_S",
        "VISIONDYNO_REQUIRE_GPU",
        "VISIONDYNO_HOME",
        "RUNPOD_LOG_LEVEL",
        "RUNPOD_INIT_TIMEOUT",
        "AWS_REGION",
    }
)
"""Never a secret; everything else may be one."""
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_ACCOUNT_KEY = "RUNPOD_API_KEY"
_SHORTEST_SECRET = 4
"""Shorter values are in every text; hiding them there would make it unreadable."""


def parse_variables(given: Iterable[str], environ: Mapping[str, str]) -> dict[str, str]:
    """`K=V` as it stands, and `K` with its value from `environ`; of one name the last counts.

    Raises:
        SpecError: a name can't be one, isn't set, or the value can't be given to a process. The
            message holds no value.
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not _NAME.fullmatch(name):
            # The text may be a secret whose name was forgotten.
            raise SpecError(
                "A variable of --env has no name of letters, digits and '_' before its '='; give "
                "NAME=VALUE, or NAME alone for this shell's value."
            )
        if not equals:
            if name not in environ:
                raise SpecError(
                    f"--env {name} takes the value from this shell, where {name} isn't set; set "
                    f"it, or give {name}=VALUE."
                )
            value = environ[name]
        if "\0" in value:
            raise SpecError(f"The value of {name} holds a zero byte; no variable can.")
        if name == _ACCOUNT_KEY:
            raise SpecError(
                f"Workers need no {_ACCOUNT_KEY}, and whoever sends them jobs could read it; "
                "leave it out."
            )
        found[name] = value
    return found


def check_blobs_address(variables: Mapping[str, str]) -> list[str]:
    """Whether a worker in RunPod's cloud may reach its blobs; what else should be known of it.

    Returns:
        Sentences for the user; none where all is well.

    Raises:
        SpecError: the address is one of this machine or its network, or holds a password.
    """
    url = variables.get(BLOBS_URL, "")
    if not url:
        says = (
            f"No {BLOBS_URL}: whatever passes 10 MB is refused. Give --env {BLOBS_URL}=… with a "
            "bucket, or a server's /blobs that RunPod's cloud reaches."
        )
        return [says]
    scheme = _check_blobs_url(url)
    if scheme != "s3":
        return []
    for name in _ENDPOINTS:
        if variables.get(name):
            _check_host(name, urlsplit(variables[name]).hostname or "")
    if "AWS_ACCESS_KEY_ID" in variables:
        return []
    says = (
        "The workers are given no key for the bucket; add --env AWS_ACCESS_KEY_ID --env "
        "AWS_SECRET_ACCESS_KEY, which takes this shell's values."
    )
    return [says]


def shown_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables as they may be shown: values that may be secret are `****`."""
    return {
        name: value if name in _SHOWN or _RUNPOD_SECRET.fullmatch(value) else HIDDEN
        for name, value in sorted(variables.items())
    }


def secret_values(variables: Mapping[str, str]) -> set[str]:
    """The values that no message may repeat."""
    return {
        value
        for name, value in variables.items()
        if name not in _SHOWN and len(value) >= _SHORTEST_SECRET
    }


def without_secrets(text: str, secrets: Iterable[str]) -> str:
    """`text` with each of the secrets hidden, the longest first."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def _check_blobs_url(url: str) -> str:
    """Its scheme."""
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if "@" in parts.netloc or parts.query:
        raise SpecError(
            f"{BLOBS_URL} holds a user name, a password or a query; take it out, and give the key "
            f"apart, as {BLOBS_KEY} or as the bucket's own variables."
        )
    if parts.scheme == "file":
        raise SpecError(
            f"{BLOBS_URL} is a folder of this machine, which no worker in RunPod's cloud sees; "
            f"give --env {BLOBS_URL}=s3://BUCKET/PREFIX, or a server's https://…/blobs."
        )
    if parts.scheme not in {"s3", "gs", "http", "https"} or not parts.netloc:
        raise SpecError(
            f"{BLOBS_URL} is no address of blobs; give s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or "
            "https://SERVER/blobs."
        )
    if parts.scheme in {"http", "https"}:
        _check_host(BLOBS_URL, parts.hostname or "")
    return parts.scheme


def _check_host(variable: str, host: str) -> None:
    try:
        address = ipaddress.ip_address(host)
        is_public = address.is_global
    except ValueError:
        is_public = "." in host and not host.endswith((".local", ".internal", ".localhost"))
    if not is_public:
        raise SpecError(
            f"{variable} names '{host:.100}', which no worker in RunPod's cloud reaches; give an "
            "address on the internet."
        )
