"""Who may come in, from where a form may be sent, and what a page may load."""

from urllib.parse import SplitResult, urlsplit

from starlette.requests import Request
from starlette.responses import Response

from visiondyno.errors import Forbidden, Unauthorized
from visiondyno.service.keys import KeyService
from visiondyno.store.records import ApiKeyRecord, KeyScope

COOKIE = "visiondyno_key"

_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; frame-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
REPORT_POLICY = "frame-ancestors 'self'"
"""The report carries a stricter policy of its own; it may only stand inside our pages."""


class LoginNeeded(Unauthorized):
    """The page needs an API key and the browser has shown none that holds."""


class Guard:
    """Lets requests in by the API key in the browser's cookie."""

    def __init__(self, keys: KeyService, *, keys_required: bool) -> None:
        self._keys = keys
        self.keys_required = keys_required

    async def admit(self, request: Request, scopes: frozenset[KeyScope]) -> ApiKeyRecord | None:
        """The viewer's key; None where the server needs none.

        Raises:
            LoginNeeded: no key, or one that doesn't hold.
            Forbidden: the key is for something else.
        """
        if not self.keys_required:
            return None
        key = request.cookies.get(COOKIE, "")
        if not key:
            raise LoginNeeded("This server needs an API key; log in with yours.")
        try:
            viewer = await self._keys.check(key)
        except Unauthorized as error:
            raise LoginNeeded(error.message) from error
        if viewer.scope not in scopes:
            raise Forbidden(
                f"The key '{viewer.name}' may hand in models and read boards, and nothing else. "
                "Log in with a key of scope 'all' to see this page."
            )
        return viewer


def check_origin(request: Request) -> None:
    """Refuse a form that another site's page sent (beside SameSite, which some old browsers lack).

    A browser says of every form where it came from, and no page's script can change that.

    Raises:
        Forbidden: it came from elsewhere, or nothing says where from.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        allowed = site == "same-origin"
    else:
        origin = _split(request.headers.get("origin", ""))
        allowed = bool(origin.netloc) and origin.netloc == request.headers.get("host")
    if not allowed:
        raise Forbidden(
            "This form was not sent from this server's own page, so nothing was done. Open the "
            "page here and send it again; programs use the HTTP API."
        )


def protect(response: Response) -> Response:
    """Add the headers that say what a page may load and who may frame it, where none do yet."""
    response.headers.setdefault("Content-Security-Policy", _PAGE_POLICY)
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    # Without a referrer at all, browsers would call a form's origin "null".
    response.headers.setdefault("Referrer-Policy", "same-origin")
    response.headers.setdefault("Cache-Control", "no-store")
    return response


def remember_key(response: Response, key: str, request: Request) -> None:
    """Keep the API key until the browser is closed; scripts can't read it."""
    response.set_cookie(
        COOKIE, key, httponly=True, samesite="strict", secure=request.url.scheme == "https"
    )


def forget_key(response: Response, request: Request) -> None:
    """Log out."""
    response.delete_cookie(
        COOKIE, httponly=True, samesite="strict", secure=request.url.scheme == "https"
    )


def local_path(text: str) -> str:
    """`text` if it is a path of this server, else `/`: a login leads nowhere else."""
    if not text.startswith("/") or text.startswith(("//", "/\\")):
        return "/"
    if any(ord(character) < 0x20 for character in text):
        return "/"
    return text


def path_of(url: str) -> str:
    """The path of an address that came from outside, and may be none: then `/`."""
    return _split(url).path or "/"


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:  # as of "http://["
        return urlsplit("")
