"""A thin synchronous client of the server's HTTP API, for the command line."""

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

import httpx

from visiondyno.errors import TransportDown
from visiondyno.executors.server_wire import (
    DEFAULT_URL,
    EventReader,
    Json,
    checked_url,
    connection_error,
    foreign_error,
    job_event,
    key_headers,
    path_part,
    refusal,
)
from visiondyno.executors.workers import WorkerCommand
from visiondyno.job import JobEvent
from visiondyno.loopback import past_proxies

__all__ = ["DEFAULT_URL", "ServerClient"]

_TIMEOUT_S = 30.0
_SILENCE_S = 60.0
"""An event stream that says nothing for so long, not even a ping, is opened anew."""
_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)


class ServerClient:
    """One server. Use it as a context manager, from one thread.

    Every method raises what the server said as the error it was there (`NotFound`, `Unauthorized`,
    `SpecError`, …), `TransportDown` where no server answers, and `Unavailable` where something
    else than VisionDyno's server does.

    Args:
        url: of the server; `http://` is added where no scheme is given.
        api_key: sent as bearer token; None sends none.
        transport: httpx's, for an application in this process.
        sleep: waits so many seconds before an event stream is opened anew.

    Raises:
        SpecError: the URL or the key can't be one.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        api_key: str | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = checked_url(url)
        self._http = httpx.Client(
            base_url=self.url,
            headers=key_headers(api_key),
            timeout=_TIMEOUT_S,
            transport=transport,
            mounts=past_proxies(self.url),
        )
        self._sleep = sleep

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # ---- the server

    def health(self) -> Json:
        """The answer of a server that is alive."""
        return self._json("GET", "/health")

    def readiness(self) -> Json:
        """`ready` and `checks`; a server that isn't ready is no error here."""
        return self._json("GET", "/ready", fine=(503,))

    def queue_status(self) -> Json:
        """Length of the queue, its workers, and the age of the oldest waiting job."""
        return self._json("GET", "/submit/queue/status")

    # ---- RunPod's job API

    def run(self, job_input: Json, endpoint: str = "default") -> Json:
        """Submit a job: `id` and `status`."""
        return self._json("POST", f"/v2/{path_part(endpoint)}/run", body={"input": job_input})

    def status(self, job_id: str, endpoint: str = "default") -> Json:
        """The job's status, and its output or error once it has ended."""
        return self._json("GET", f"/v2/{path_part(endpoint)}/status/{path_part(job_id)}")

    # ---- jobs and workers

    def find_jobs(self, **wanted: str | float | None) -> Json:
        """`jobs`, newest first, and `next_before`: the next page's `before`, None on the last.

        `wanted`: `state`, `kind`, `endpoint`, `limit`, `before` (seconds since the epoch).
        """
        given = {name: value for name, value in wanted.items() if value is not None}
        return self._json("GET", "/api/jobs", params=given)

    def job(self, job_id: str) -> Json:
        """Everything known of a job."""
        return self._json("GET", f"/api/jobs/{path_part(job_id)}")

    def cancel_job(self, job_id: str) -> Json:
        """Stop a job; the job as it is then."""
        return self._json("POST", f"/api/jobs/{path_part(job_id)}/cancel")

    def retry_job(self, job_id: str) -> Json:
        """Start a failed or timed out job again; the job as it is then."""
        return self._json("POST", f"/api/jobs/{path_part(job_id)}/retry")

    def job_logs(self, job_id: str) -> Json:
        """`lines` that the job's operation logged since its last retry."""
        return self._json("GET", f"/api/jobs/{path_part(job_id)}/logs")

    def events(self, job_id: str, after: int = 0) -> Iterator[JobEvent]:
        """The job's events after number `after`, to the terminal one.

        A stream that breaks off is opened anew after the last event, until the server has been
        away for a quarter of a minute.
        """
        failures = 0
        while True:
            down = None
            try:
                for event in self._stream(job_id, after):
                    if event is None:
                        return
                    after, failures = event.number, 0
                    yield event
            except TransportDown as error:
                down = error
            if failures == len(_PAUSES_S):
                raise down or TransportDown(
                    f"{self.url} ends the events of {job_id} again and again before the job's own "
                    "end; look at the server's log."
                )
            self._sleep(_PAUSES_S[failures])
            failures += 1

    def workers(self) -> list[Json]:
        """The workers, by name."""
        found: list[Json] = self._json("GET", "/api/workers")["workers"]
        return found

    def command_worker(self, name: str, command: WorkerCommand) -> Json:
        """Tell a worker to drain, resume or restart."""
        return self._json("POST", f"/api/workers/{path_part(name)}/{command}")

    # ---- the wire

    def _json(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, str | float] | None = None,
        body: Json | None = None,
        fine: tuple[int, ...] = (),
    ) -> Json:
        try:
            response = self._http.request(method, path, params=params, json=body)
        except httpx.RequestError as error:
            raise self._down(error) from error
        if not response.is_success and response.status_code not in fine:
            raise refusal(response)
        try:
            found = response.json()
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise foreign_error(response)
        return found

    def _stream(self, job_id: str, after: int) -> Iterator[JobEvent | None]:
        """Events of one connection; None where there are no more, ever."""
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        timeout = httpx.Timeout(_TIMEOUT_S, read=_SILENCE_S)
        path = f"/api/jobs/{path_part(job_id)}/events"
        try:
            with self._http.stream("GET", path, headers=headers, timeout=timeout) as response:
                if not response.is_success:
                    response.read()
                    raise refusal(response)
                if response.status_code == httpx.codes.NO_CONTENT:
                    yield None
                reader = EventReader()
                for chunk in response.iter_bytes():
                    for data in reader.read(chunk):
                        event = job_event(job_id, data)
                        yield event
                        if event.state.is_terminal:
                            yield None
        except httpx.RequestError as error:
            raise self._down(error) from error

    def _down(self, error: httpx.RequestError) -> TransportDown:
        return connection_error(
            self.url, error, "start one with 'dyno up', or name another with --server"
        )
