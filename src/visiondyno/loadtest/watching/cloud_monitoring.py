"""Google Cloud Monitoring's time series, read as a service account (REST, version 3)."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from visiondyno.errors import Forbidden, MissingExtra, NotFound, SpecError, Unavailable
from visiondyno.loadtest.watching.distribution import Distribution, read_distribution
from visiondyno.loopback import past_proxies

if TYPE_CHECKING:
    from google.oauth2.service_account import Credentials

ENDPOINT = "https://monitoring.googleapis.com"
SCOPE = "https://www.googleapis.com/auth/monitoring.read"
PERIOD_S = 60
_KEY_FILE_VARIABLE = "GOOGLE_APPLICATION_CREDENTIALS"
_TIMEOUT_S = 30.0
_ATTEMPTS = 5
_FIRST_PAUSE_S = 2.0
_LONGEST_PAUSE_S = 60.0
_MAY_PASS = frozenset({429, 500, 502, 503, 504})
_MOST_PAGES = 1000


@dataclass(frozen=True, slots=True)
class Point:
    """What a series has for one period.

    Attributes:
        end_s: of the period, seconds since 1970 in UTC.
        value: a number, or a distribution.
    """

    end_s: float
    value: float | Distribution


@dataclass(frozen=True, slots=True)
class Series:
    """One time series.

    Attributes:
        labels: of the metric.
        points: those that hold a value, in the order the API gave them.
    """

    labels: dict[str, str]
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked for, in the API's own words.

    Attributes:
        filter: which series.
        start_s, end_s: the interval, seconds since 1970; periods of 60 s end at `end_s`.
        aligner: makes one point of a period of a series.
        reducer: makes one series of many.
        group_by: labels that are kept apart.
    """

    filter: str
    start_s: float
    end_s: float
    aligner: str
    reducer: str
    group_by: tuple[str, ...] = ()

    def parameters(self) -> list[tuple[str, str]]:
        """As the request has them."""
        return [
            ("filter", self.filter),
            ("interval.startTime", _rfc3339(self.start_s)),
            ("interval.endTime", _rfc3339(self.end_s)),
            ("aggregation.alignmentPeriod", f"{PERIOD_S}s"),
            ("aggregation.perSeriesAligner", self.aligner),
            ("aggregation.crossSeriesReducer", self.reducer),
            *(("aggregation.groupByFields", label) for label in self.group_by),
        ]


class CloudMonitoring:
    """Asks for time series of one project; close it.

    A refusal for want of quota and a failure of the server are asked again, with growing pauses
    and at most 5 times.
    """

    def __init__(
        self,
        project: str,
        credentials: "Credentials",
        *,
        endpoint: str = ENDPOINT,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Asks as the account of `credentials`; `sleep` pauses between attempts."""
        self._project = project
        self._credentials = credentials
        self._endpoint = endpoint
        self._sleep = sleep
        self._client = httpx.AsyncClient(timeout=_TIMEOUT_S, mounts=past_proxies(endpoint))

    async def aclose(self) -> None:
        """Give the connections back."""
        await self._client.aclose()

    async def series(self, query: Query) -> list[Series]:
        """Every series the query finds, over all pages.

        Raises:
            Forbidden: the account isn't known, or may not read metrics of the project.
            NotFound: there is no such project.
            SpecError: the query was refused.
            Unavailable: nothing answered, or not as the API does.
        """
        found: list[Series] = []
        token = ""
        for _ in range(_MOST_PAGES):
            parameters = [*query.parameters(), *([("pageToken", token)] if token else [])]
            page = await self._page(parameters)
            try:
                found += [_series(series) for series in page.get("timeSeries", [])]
                token = str(page.get("nextPageToken", ""))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise Unavailable(
                    f"Google Cloud Monitoring's answer isn't of the form of its API: {error!r}."
                ) from None
            if not token:
                return found
        raise Unavailable(f"Google Cloud Monitoring's answer has over {_MOST_PAGES} pages.")

    async def _page(self, parameters: list[tuple[str, Any]]) -> Mapping[str, Any]:
        url = f"{self._endpoint}/v3/projects/{self._project}/timeSeries"
        pause_s = _FIRST_PAUSE_S
        why = ""
        for attempt in range(_ATTEMPTS):
            if attempt:
                await self._sleep(pause_s)
            headers = {"authorization": f"Bearer {await self._token()}"}
            pause_s = min(_FIRST_PAUSE_S * 2**attempt, _LONGEST_PAUSE_S)
            try:
                answer = await self._client.get(url, params=tuple(parameters), headers=headers)
            except httpx.HTTPError as error:
                why = str(error) or type(error).__name__
                continue
            if answer.status_code == httpx.codes.OK:
                return _json(answer)
            if answer.status_code not in _MAY_PASS:
                raise self._refusal(answer.status_code, _message(answer))
            why = f"status {answer.status_code}: {_message(answer)}"
            pause_s = _asked_pause_s(answer) or pause_s
        raise Unavailable(f"Google Cloud Monitoring gave no answer in {_ATTEMPTS} attempts: {why}.")

    def _refusal(self, status: int, message: str) -> Exception:
        account = self._credentials.service_account_email
        if status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
            return Forbidden(
                f"Google Cloud Monitoring doesn't show {account} the metrics of the project "
                f"'{self._project}' ({message}). Give it the role roles/monitoring.viewer there, "
                "and see that the Monitoring API is enabled."
            )
        if status == httpx.codes.NOT_FOUND:
            return NotFound(
                f"Google Cloud Monitoring knows no project '{self._project}' ({message}); give its "
                "id as `gcloud projects list` shows it."
            )
        return SpecError(f"Google Cloud Monitoring refused the query (status {status}: {message}).")

    async def _token(self) -> str:
        if not self._credentials.valid:
            await asyncio.to_thread(_refresh, self._credentials)
        return str(self._credentials.token)


def load_credentials(credentials_file: str | None) -> "Credentials":
    """The key of a service account that may read metrics.

    Args:
        credentials_file: None: the one that GOOGLE_APPLICATION_CREDENTIALS names. The address that
            gives tokens for it is in the file.

    Raises:
        MissingExtra: google-auth isn't installed.
        SpecError: no key file is named, or it isn't one.
    """
    try:
        from google.auth import exceptions
        from google.oauth2.service_account import Credentials
    except ImportError:
        raise MissingExtra("gcp", "Watching a Cloud Run service") from None
    named = credentials_file or os.environ.get(_KEY_FILE_VARIABLE)
    if not named:
        raise SpecError(
            "Watching a Cloud Run service needs the key file of a service account with the role "
            f"roles/monitoring.viewer; name it in {_KEY_FILE_VARIABLE}."
        )
    try:
        # google-auth declares no types for this, nor below.
        return Credentials.from_service_account_file(  # type: ignore[no-any-return,no-untyped-call]
            str(Path(named).expanduser()), scopes=[SCOPE]
        )
    except OSError as error:
        raise SpecError(f"The key file '{named}' can't be read: {error.strerror}.") from None
    except (ValueError, exceptions.GoogleAuthError) as error:
        raise SpecError(
            f"The file '{named}' is no key of a service account ({error}); make one with "
            "`gcloud iam service-accounts keys create`."
        ) from None


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer as google-auth wants it (google.auth.transport.Response)."""

    status: int
    headers: Mapping[str, str]
    data: bytes


def _refresh(credentials: "Credentials") -> None:
    """Get a token: a JWT signed with the account's key, exchanged at the key file's address."""
    from google.auth import exceptions

    def request(
        url: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **_: object,
    ) -> _Answer:
        try:
            with httpx.Client(timeout=timeout or _TIMEOUT_S, mounts=past_proxies(url)) as client:
                answer = client.request(method, url, content=body, headers=headers)
        except httpx.HTTPError as error:
            raise exceptions.TransportError(error) from error  # type: ignore[no-untyped-call]  # no types
        return _Answer(answer.status_code, answer.headers, answer.content)

    account = credentials.service_account_email
    try:
        credentials.refresh(request)  # type: ignore[no-untyped-call]  # no types
    except exceptions.TransportError as error:
        raise Unavailable(f"Google's server for tokens can't be reached: {error}.") from None
    except exceptions.GoogleAuthError as error:
        raise Forbidden(
            f"Google gave the service account {account} no token ({error.args[0]}); see that its "
            "key wasn't deleted, and that this machine's clock is right."
        ) from None


def _series(told: Mapping[str, Any]) -> Series:
    points = []
    for point in told.get("points", []):
        value = _value(point["value"])
        if value is not None:
            end = datetime.fromisoformat(point["interval"]["endTime"])
            points.append(Point(end.timestamp(), value))
    labels = told.get("metric", {}).get("labels", {})
    return Series({str(name): str(label) for name, label in labels.items()}, tuple(points))


def _value(told: Mapping[str, Any]) -> float | Distribution | None:
    if "distributionValue" in told:
        return read_distribution(told["distributionValue"])
    for kind in ("int64Value", "doubleValue"):
        if kind in told:
            return float(told[kind])
    raise ValueError(f"a point with the value {sorted(told)}")


def _json(answer: httpx.Response) -> Mapping[str, Any]:
    try:
        found = answer.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Unavailable("Google Cloud Monitoring's answer isn't a JSON object.")
    return found


def _message(answer: httpx.Response) -> str:
    """What Google says of a failure, else the beginning of the answer."""
    try:
        return str(answer.json()["error"]["message"])[:300]
    except (ValueError, KeyError, TypeError):
        return answer.text[:100] or "no message"


def _asked_pause_s(answer: httpx.Response) -> float | None:
    """What the server asked to wait, within bounds; None where it didn't."""
    told = answer.headers.get("retry-after", "")
    return min(float(told), _LONGEST_PAUSE_S) if told.isdecimal() else None


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
