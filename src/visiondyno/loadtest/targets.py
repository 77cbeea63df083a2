"""A target made ready to be asked: its address, and every request as the bytes that are sent."""

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote, urlsplit

from visiondyno import __version__
from visiondyno.errors import SpecError
from visiondyno.specs.load_test import TargetSpec

USER_AGENT = f"visiondyno-loadtest/{__version__}"
IMAGES_PATH = "/predict"
"""Where images go if the URL is a bare host: `dyno serve` takes them there."""

_SCENES = "street:"
MOST_BODIES_BYTES = 1 << 30
"""Of all requests together: they are held in memory, once for each generator process."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LINE_BREAKING = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_NOT_IN_URL = re.compile(r"[\x00-\x20\x7f]")
_OURS = {"content-length", "transfer-encoding"}


@dataclass(frozen=True, slots=True)
class PreparedTarget:
    """What the generator needs to know of a target; it crosses processes.

    Attributes:
        name: for tables.
        url: as asked, without user information.
        host: a name or an address, without brackets.
        port: TCP.
        uses_tls: whether certificates are checked against `host`.
        requests: whole requests, sent in turn; at least one.
        answers_head: the answers have no body, whatever their headers say.
        closes: each request has a connection of its own (`Connection: close` was given).
        expect_status: which answers are good; None: 200 to 299.
        expect_json_key: a good answer is a JSON object with this key.
    """

    name: str
    url: str
    host: str
    port: int
    uses_tls: bool
    requests: tuple[bytes, ...]
    answers_head: bool = False
    closes: bool = False
    expect_status: frozenset[int] | None = None
    expect_json_key: str | None = None


def prepare_target(spec: TargetSpec) -> PreparedTarget:
    """Read the bodies and write the requests.

    Raises:
        SpecError: the URL, a header, or a file can't be used; says which and why.
    """
    parts, host, port = _address(spec.url)
    bodies = list(_bodies(spec))
    method = spec.method or ("GET" if bodies == [(None, b"")] else "POST")
    path = quote(parts.path, safe="/%:@!$&'()*+,;=~") or (IMAGES_PATH if spec.images else "/")
    query = f"?{quote(parts.query, safe='/%:@!$&()*+,;=?~')}" if parts.query else ""
    headers = _headers(spec, parts, host, port)
    requests = tuple(
        _request(f"{method} {path}{query} HTTP/1.1", headers, kind, body, method)
        for kind, body in bodies
    )
    shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return PreparedTarget(
        name=spec.name or parts.netloc.rpartition("@")[2] + (path if path != "/" else ""),
        url=shown,
        host=host,
        port=port,
        uses_tls=parts.scheme == "https",
        requests=requests,
        answers_head=method == "HEAD",
        closes=headers.get("connection", ("", ""))[1].lower() == "close",
        expect_status=None if spec.expect_status is None else frozenset(spec.expect_status),
        expect_json_key=spec.expect_json_key,
    )


def _address(url: str) -> tuple[SplitResult, str, int]:
    shown = _NOT_IN_URL.sub("?", url.rpartition("@")[2])
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port
        if host and not host.isascii():
            host = host.encode("idna").decode("ascii")
    except (ValueError, UnicodeError) as error:
        raise SpecError(f"The URL '{shown}' can't be one: {error}.") from error
    if _NOT_IN_URL.search(url):
        raise SpecError(f"The URL '{shown}' has a space or a control character; write %20.")
    if parts.scheme not in {"http", "https"} or not host:
        raise SpecError(
            f"The URL '{shown}' isn't http:// or https:// with a host; give one like "
            "http://127.0.0.1:8080/predict."
        )
    return parts, host, port or (443 if parts.scheme == "https" else 80)


def _headers(
    spec: TargetSpec, parts: SplitResult, host: str, port: int
) -> dict[str, tuple[str, str]]:
    """(name, value) by name in lower case: our own, and over them the user's."""
    bracketed = f"[{host}]" if ":" in host else host
    is_default = port == (443 if parts.scheme == "https" else 80)
    ours = {
        "Host": bracketed if is_default else f"{bracketed}:{port}",
        "User-Agent": USER_AGENT,
        "Accept": "*/*",
    }
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        ours["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode("ascii")
    headers = {name.lower(): (name, value) for name, value in ours.items()}
    for name, value in spec.headers.items():
        headers[name.lower()] = (name, _checked_header(name, value))
    return headers


def _checked_header(name: str, value: str) -> str:
    shown = _LINE_BREAKING.sub("?", name)
    if not _TOKEN.fullmatch(name):
        raise SpecError(f"'{shown}' can't be the name of a header; use letters, digits and '-'.")
    if name.lower() in _OURS:
        raise SpecError(f"The header '{name}' is made from the body; leave it out.")
    # The value may be a secret: it isn't shown.
    if _LINE_BREAKING.search(value):
        raise SpecError(f"The header '{name}' has a line break or a control character; remove it.")
    try:
        value.encode("latin-1")
    except UnicodeEncodeError as error:
        raise SpecError(
            f"The header '{name}' has characters outside Latin-1, which HTTP can't carry; "
            "encode the value."
        ) from error
    return value.strip()


def _request(
    line: str, headers: dict[str, tuple[str, str]], kind: str | None, body: bytes, method: str
) -> bytes:
    lines = [line, *(f"{name}: {value}" for name, value in headers.values())]
    if kind and "content-type" not in headers:
        lines.append(f"Content-Type: {kind}")
    if body or method in {"POST", "PUT", "PATCH"}:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def _bodies(spec: TargetSpec) -> Iterator[tuple[str | None, bytes]]:
    """(content type, body) of each request."""
    if spec.images:
        total = 0
        for path in image_files(spec.images):
            body = _read(path, "image")
            total += len(body)
            if total > MOST_BODIES_BYTES:
                raise SpecError(
                    f"The images are more than {MOST_BODIES_BYTES >> 20} MiB together, and they "
                    "are held in memory; give fewer of them."
                )
            yield _image_type(path, body), body
    elif spec.body_file is not None:
        yield "application/octet-stream", _read(Path(spec.body_file), "body")
    elif spec.json_body is not None:
        try:
            yield "application/json", json.dumps(spec.json_body, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise SpecError(f"The JSON body can't be written as JSON: {error}.") from error
    else:
        yield None, b""


def image_files(names: tuple[str, ...]) -> Iterator[Path]:
    """Files as given; of folders the images in them, in order of name; built-in street scenes.

    Args:
        names: files, folders, or a part of the built-in street scenes, such as `street:val:4`.

    Raises:
        SpecError: a folder can't be read, or holds no image.
        DatasetError: there are no such scenes.
    """
    for name in names:
        path = Path(name).expanduser()
        if name.startswith(_SCENES) and not path.exists():
            from visiondyno.datasets.registry import open_dataset

            scenes = open_dataset(name)
            yield from (Path(scenes.sample(index).path) for index in range(len(scenes)))
            continue
        if not path.is_dir():
            yield path
            continue
        try:
            found = [entry for entry in sorted(path.iterdir()) if _is_image(entry)]
        except OSError as error:
            raise SpecError(f"The folder {path} can't be read: {error.strerror}.") from error
        if not found:
            raise SpecError(f"The folder {path} has no JPEG, PNG, WebP or BMP image in it.")
        yield from found


def _is_image(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return _type_of(file.read(16)) is not None


def _read(path: Path, what: str) -> bytes:
    try:
        if path.stat().st_size > MOST_BODIES_BYTES:
            raise SpecError(f"The {what} {path} is over {MOST_BODIES_BYTES >> 20} MiB.")
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or "it can't be read"
        raise SpecError(f"The {what} {path} can't be read: {reason}.") from error


def _image_type(path: Path, content: bytes) -> str:
    found = _type_of(content[:16])
    if found is None:
        raise SpecError(
            f"{path} is no JPEG, PNG, WebP or BMP image; send other files as a body file."
        )
    return found


def _type_of(start: bytes) -> str | None:
    """Media type by the first 16 bytes (WHATWG MIME Sniffing, section 6.1)."""
    if start.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if start[:4] == b"RIFF" and start[8:14] == b"WEBPVP":
        return "image/webp"
    return "image/bmp" if start.startswith(b"BM") else None
