"""RunPod's REST API for templates, endpoints and network volumes: https://rest.runpod.io/v1/docs.

Requests that only read or that may be made twice are made again where that may help. What makes
something new is made again only after a look whether the first request made it.
"""

import json
import random
import time
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx
from httpx import codes

from visiondyno import __version__
from visiondyno.deployments.worker_variables import secret_values, without_secrets
from visiondyno.errors import (
    Forbidden,
    NotFound,
    RateLimited,
    SpecError,
    TransportDown,
    Unauthorized,
    Unavailable,
    VisionDynoError,
)
from visiondyno.executors.server_wire import checked_key, checked_url, retry_after_s
from visiondyno.loopback import is_loopback, past_proxies

Json = dict[str, Any]
Look = Callable[[], Json | None]
"""Finds what a request that wasn't answered may have made."""

_TRIES = 5
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 10.0
_LONGEST_WAIT_S = 60.0
_DOUBT_PAUSES_S = (2.0, 4.0, 8.0)
"""Before each look for what an unanswered request made: it may be listed late, and RunPod takes
one name of an endpoint or a volume twice."""
_TIMEOUT = httpx.Timeout(60.0, connect=10.0)
_MAY_PASS = frozenset({408, 425, 500, 502, 503, 504})
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_KEYS_PAGE = "https://www.runpod.io/console/user/settings"
_SAID_CHARACTERS = 300
_REASONS: dict[int, tuple[type[VisionDynoError], str]] = {
    codes.UNAUTHORIZED: (
        Unauthorized,
        f"RunPod doesn't take the key in RUNPOD_API_KEY; make a new one at {_KEYS_PAGE}.",
    ),
    codes.FORBIDDEN: (
        Forbidden,
        f"The key in RUNPOD_API_KEY may not {{what}}; give it all rights at {_KEYS_PAGE}.",
    ),
    codes.NOT_FOUND: (
        NotFound,
        "RunPod's API can't {what}: nothing is there; see that it wasn't removed meanwhile.",
    ),
}


class RestCalls(Protocol):
    """What is asked of the API; `path` begins with a slash, answers are RunPod's own objects."""

    def listed(self, path: str) -> list[Json]:
        """All objects at `path`."""

    def found(self, path: str) -> Json | None:
        """The object at `path`; None where there is none."""

    def changed(self, path: str, body: Json) -> Json:
        """The object at `path` after PATCH with `body`."""

    def made(self, path: str, body: Json, look: Look) -> Json:
        """A new object of `body` at `path`; `look` finds one whose making wasn't answered."""


class RunPodRest:
    """The API over HTTP. Use it as a context manager, from one thread.

    Every call raises `Unauthorized`, `Forbidden`, `RateLimited`, `NotFound`, `SpecError` (RunPod
    refuses the request: its words are in the message, the key and secret variables hidden),
    `TransportDown` (it can't be reached, or goes on answering that it can't serve) and
    `Unavailable` (something else answers).

    Args:
        url: of the API.
        api_key: sent as bearer token, to this URL alone.
        transport: httpx's, for an application in this process.
        sleep: waits so many seconds between tries.

    Raises:
        SpecError: URL or key can't be one, or the key would travel unencrypted.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = checked_rest_url(url)
        key = checked_key(api_key)
        if key is None:
            raise SpecError(f"RUNPOD_API_KEY is empty; make a key at {_KEYS_PAGE}.")
        self._key = key
        self._sleep = sleep
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}", "User-Agent": f"visiondyno/{__version__}"},
            timeout=_TIMEOUT,
            transport=transport,
            mounts=past_proxies(self.url),
        )

    def __enter__(self) -> "RunPodRest":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def listed(self, path: str) -> list[Json]:
        """All objects at `path`."""
        found = self._again("GET", path)
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise self._foreign(path)
        return found

    def found(self, path: str) -> Json | None:
        """The object at `path`; None where there is none."""
        try:
            return self._object(path, self._again("GET", path))
        except NotFound:
            return None

    def changed(self, path: str, body: Json) -> Json:
        """The object at `path` after PATCH with `body`."""
        return self._object(path, self._again("PATCH", path, body))

    def made(self, path: str, body: Json, look: Look) -> Json:
        """A new object of `body` at `path`; `look` finds one whose making wasn't answered."""
        return self._object(path, self._again("POST", path, body, look))

    def _again(
        self, method: str, path: str, body: Json | None = None, look: Look | None = None
    ) -> Any:
        """What the answer holds, or what `look` found in its place."""
        is_in_doubt = False
        for number in range(1, _TRIES + 1):
            try:
                return self._once(method, path, body)
            except _Later as later:
                is_in_doubt = is_in_doubt or later.is_in_doubt
                if number == _TRIES or (later.wait_s or 0.0) > _LONGEST_WAIT_S:
                    raise later.error from later.__cause__
                self._pause(number, later.wait_s)
                made = self._seen(look) if look is not None and is_in_doubt else None
            except SpecError:
                # Of a name that is taken, it may be by what the first request made.
                made = self._seen(look) if look is not None and is_in_doubt else None
                if made is None:
                    raise
            if made is not None:
                return made
        raise AssertionError("the last try raises")

    def _seen(self, look: Look) -> Json | None:
        for pause_s in _DOUBT_PAUSES_S:
            self._sleep(pause_s)
            made = look()
            if made is not None:
                return made
        return None

    def _once(self, method: str, path: str, body: Json | None) -> Any:
        try:
            response = self._http.request(method, path, json=body)
        except httpx.RequestError as error:
            is_sent = not isinstance(error, _NEVER_SENT)
            what = "broke off" if is_sent else "can't be made"
            down = TransportDown(
                f"The connection to RunPod's API at {self.url} {what} ({type(error).__name__}); "
                "see that this machine is online, and run the command again."
            )
            raise _Later(down, is_in_doubt=is_sent) from error
        if response.is_success:
            try:
                return response.json()
            except ValueError:
                return None
        secrets = {self._key, *secret_values((body or {}).get("env") or {})}
        error_told = self._error(method, path, response, secrets)
        if isinstance(error_told, RateLimited):
            raise _Later(error_told, wait_s=error_told.retry_after_s)
        if isinstance(error_told, TransportDown):
            raise _Later(error_told, wait_s=retry_after_s(response), is_in_doubt=True)
        raise error_told

    def _pause(self, number: int, asked_s: float | None) -> None:
        longest_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**number)
        self._sleep((asked_s or 0.0) + random.uniform(0.0, longest_s))  # noqa: S311 - no secret

    def _error(
        self, method: str, path: str, response: httpx.Response, secrets: set[str]
    ) -> VisionDynoError:
        status, what = response.status_code, f"{method} {path}"
        if status in _REASONS:
            kind, message = _REASONS[status]
            return kind(message.format(what=what))
        if status == codes.TOO_MANY_REQUESTS:
            return RateLimited(
                "RunPod asks for fewer requests; wait a minute and run the command again.",
                retry_after_s(response),
            )
        said = _said(response, secrets)
        if status in _MAY_PASS:
            return TransportDown(
                f"RunPod's API answers {status} to {what}{said}; run the command again in a while."
            )
        if response.is_client_error:
            return SpecError(
                f"RunPod refuses {what} ({status}){said}; correct the option that it names."
            )
        return self._foreign(path)

    def _object(self, path: str, found: Any) -> Json:
        if not isinstance(found, dict):
            raise self._foreign(path)
        return found

    def _foreign(self, path: str) -> Unavailable:
        return Unavailable(
            f"{self.url}{path} answers with something that isn't RunPod's API; look at "
            "VISIONDYNO_RUNPOD_REST_URL, and at what stands between here and there."
        )


def checked_rest_url(url: str) -> str:
    """The API's URL without a slash at its end.

    Raises:
        SpecError: it can't be one, or a key sent there would travel unencrypted.
    """
    checked = checked_url(url)
    parts = urlsplit(checked)
    if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
        raise SpecError(
            "VISIONDYNO_RUNPOD_REST_URL isn't encrypted, and the key would be sent there; give an "
            "https:// address."
        )
    return checked


def _said(response: httpx.Response, secrets: set[str]) -> str:
    """The API's own words, shortened, after a colon."""
    try:
        document = response.json()
    except ValueError:
        document = response.text
    if isinstance(document, dict):
        words = (document.get(name) for name in ("message", "error", "detail", "title"))
        document = next(filter(None, words), document)
    text = document if isinstance(document, str) else json.dumps(document)
    clean = " ".join(without_secrets(text, secrets).split())
    return f": {clean[:_SAID_CHARACTERS]}" if clean else ""


class _Later(Exception):
    """A request failed for what may pass; `is_in_doubt`: it may have been carried out."""

    def __init__(
        self, error: VisionDynoError, *, wait_s: float | None = None, is_in_doubt: bool = False
    ) -> None:
        self.error = error
        self.wait_s = wait_s
        self.is_in_doubt = is_in_doubt
        super().__init__(error.message)
