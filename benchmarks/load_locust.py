"""A locustfile: `LOAD_RATE` requests a second of each user (0: as fast as it can), into `LOAD_OUT`.

`LOAD_OUT` gets, as JSON, the number of requests, the processor time from the test's begin to its
end (starting up isn't in it), and with a rate the latency of each request in ms.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

from locust import (  # type: ignore[import-not-found, unused-ignore]
    FastHttpUser,
    HttpUser,
    constant,
    constant_throughput,
    events,
    task,
)

RATE = float(os.environ["LOAD_RATE"])
BEGUN: dict[str, float] = {}
LATENCIES_MS: list[float] = []


class Asking(HttpUser if os.environ["LOAD_USER"] == "HttpUser" else FastHttpUser):  # type: ignore[misc, unused-ignore]
    """Asks for /."""

    wait_time = constant_throughput(RATE) if RATE else constant(0)

    @task  # type: ignore[untyped-decorator, unused-ignore]
    def ask(self) -> None:
        """One request."""
        self.client.get("/")


@events.test_start.add_listener  # type: ignore[untyped-decorator, unused-ignore]
def begin(**_: Any) -> None:
    """Note the processor time so far."""
    BEGUN["cpu_s"] = time.process_time()


@events.test_stop.add_listener  # type: ignore[untyped-decorator, unused-ignore]
def end(environment: Any, **_: Any) -> None:
    """Write what was found."""
    found = {
        "requests": environment.stats.total.num_requests,
        "failures": environment.stats.total.num_failures,
        "cpu_s": time.process_time() - BEGUN["cpu_s"],
        "latencies_ms": LATENCIES_MS,
    }
    Path(os.environ["LOAD_OUT"]).write_text(json.dumps(found))


if RATE:

    @events.request.add_listener  # type: ignore[untyped-decorator, unused-ignore]
    def keep(response_time: float, **_: Any) -> None:
        """Locust's own table rounds latencies."""
        LATENCIES_MS.append(response_time)
