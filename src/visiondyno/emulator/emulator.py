"""An emulated endpoint at work: its state machine, its clock, its worker processes."""

import asyncio
import math
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit

from visiondyno.emulator.clock import ScaledClock
from visiondyno.emulator.config import EndpointConfig
from visiondyno.emulator.endpoint import Endpoint, JobEnded, Order
from visiondyno.emulator.faults import FaultBook, KillWorkers
from visiondyno.emulator.fleet import KillWorker, StartWorker, TerminateWorker
from visiondyno.emulator.journal import Journal
from visiondyno.emulator.processes import WorkerProcesses
from visiondyno.emulator.quotas import RequestQuotas
from visiondyno.emulator.request_log import RequestLog
from visiondyno.emulator.webhooks import WebhookSender

_LONGEST_TIMER_S = 3600.0


class Emulator:
    """One endpoint with its workers; lives on one event loop, from `start` to `close`.

    Args:
        config: of the endpoint.
        command: what a worker runs: a program that calls `runpod.serverless.start`.
        api_key: what clients must send; None: anything will do.
        speed: how many of the endpoint's seconds pass in one of ours. Timeouts, retention, quotas
            and billing follow its clock. Workers work in our time; they ping once a real second at
            most.
        clock: our seconds.
        log_folder: gets one file for each worker; None: their output goes to standard error.
        environ: added to the workers' environment.
        tell: gets one line for what becomes of each worker and each job.

    Raises:
        SpecError: `speed` isn't above 0.
    """

    def __init__(  # noqa: PLR0913 - each by its name; most have defaults
        self,
        config: EndpointConfig,
        command: Sequence[str],
        *,
        api_key: str | None = None,
        speed: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        log_folder: Path | None = None,
        environ: Mapping[str, str] = MappingProxyType({}),
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.clock = ScaledClock(speed, clock)
        self._ping_s = max(1, math.ceil(self.clock.real_s(config.ping_interval_s)))
        self.config = replace(config, ping_interval_s=self._ping_s * speed)
        self.endpoint = Endpoint(self.config)
        self.api_key = api_key
        self.worker_key = secrets.token_urlsafe(16)
        self.quotas = RequestQuotas(config.quotas)
        self.faults = FaultBook()
        self.requests = RequestLog()
        self.is_closing = False
        self._environ = environ
        self._processes = WorkerProcesses(command, log_folder, self._worker_left)
        self._journal = Journal(tell, log_folder)
        self._webhooks = WebhookSender(self.sleep, self._journal.webhook_failed)
        self._url = ""
        self._timer: asyncio.TimerHandle | None = None
        self._news = asyncio.Event()

    def start(self, url: str) -> None:
        """Begin; `url` is where workers find the server."""
        self._url = url.rstrip("/")
        self.changed()

    def let_go(self) -> None:
        """Answer everyone who waits: the end is near."""
        self.is_closing = True
        self._tell_news()

    async def close(self) -> None:
        """End all workers. Jobs and results are gone."""
        self.let_go()
        if self._timer is not None:
            self._timer.cancel()
        await self.faults.close()
        await self._processes.close()
        await self._webhooks.close()

    # ---- time

    def changed(self) -> None:
        """Do what follows from what happened; to be called after every change of the endpoint."""
        if self.is_closing:
            return
        now_s = self.clock()
        for order in self.endpoint.advance(now_s):
            self._obey(order)
        if self._timer is not None:
            self._timer.cancel()
        wait_s = self.clock.real_s(self.endpoint.next_deadline_s(now_s) - now_s)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(min(_LONGEST_TIMER_S, wait_s), self.changed)
        self._tell_news()

    async def sleep(self, seconds: float) -> None:
        """Wait so many seconds of the endpoint's clock."""
        await asyncio.sleep(self.clock.real_s(seconds))

    async def news(self, timeout_s: float) -> None:
        """Wait until something changes, or for so many of our seconds."""
        try:
            await asyncio.wait_for(self._news.wait(), timeout_s)
        except TimeoutError:
            return

    def kill_busy_workers(self, fault: KillWorkers) -> int:
        """Kill up to so many workers that run jobs; how many."""
        busy = [worker.id for worker in self.endpoint.fleet.alive() if worker.running]
        for worker_id in busy[: fault.count]:
            self._journal.killed(worker_id, "on request")
            self._processes.kill(worker_id)
        return len(busy[: fault.count])

    # ---- within

    def _tell_news(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _obey(self, order: Order) -> None:
        match order:
            case StartWorker(worker_id):
                self._processes.start(worker_id, self._worker_environ(worker_id))
                self._journal.started(worker_id)
            case TerminateWorker(worker_id, why):
                self._journal.terminated(worker_id, why)
                self._processes.terminate(worker_id)
            case KillWorker(worker_id, why):
                self._journal.killed(worker_id, why)
                self._processes.kill(worker_id)
            case JobEnded(status, webhook):
                self._journal.job_ended(status)
                if webhook is not None:
                    self._webhooks.send(webhook, status)

    def _worker_left(self, worker_id: str, code: int) -> None:
        now_s = self.clock()
        self.endpoint.worker_left(worker_id, now_s)
        bill = self.endpoint.bill(now_s).of(worker_id)
        crashes = self.endpoint.fleet.crashes_at_start
        self._journal.left(bill, code, crashes, is_closing=self.is_closing)
        self.changed()

    def _worker_environ(self, worker_id: str) -> dict[str, str]:
        """What a worker on RunPod finds in its environment."""
        base = f"{self._url}/v2/{self.config.endpoint_id}"
        query = f"?gpu={self.config.gpu.replace(' ', '+')}&key={self.worker_key}"
        return {
            "RUNPOD_ENDPOINT_ID": self.config.endpoint_id,
            "RUNPOD_POD_ID": worker_id,
            "RUNPOD_POD_HOSTNAME": worker_id,
            "RUNPOD_AI_API_KEY": self.worker_key,
            "RUNPOD_PING_INTERVAL": str(self._ping_s * 1000),
            "RUNPOD_WEBHOOK_GET_JOB": f"{base}/job-take/$ID{query}",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base}/job-done/$RUNPOD_POD_ID/$ID{query}",
            "RUNPOD_WEBHOOK_POST_STREAM": f"{base}/job-stream/$RUNPOD_POD_ID/$ID{query}",
            "RUNPOD_WEBHOOK_PING": f"{base}/ping/$RUNPOD_POD_ID{query}",
            # They check a data centre's machine: 4 GB of memory, a way into the internet.
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
            **_past_proxies(self._url, os.environ),
            **self._environ,
        }


def _past_proxies(url: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Workers' pings heed `HTTP_PROXY`, and a proxy would look for us on its own machine."""
    told = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    names = ",".join(filter(None, [told, urlsplit(url).hostname]))
    return {"no_proxy": names, "NO_PROXY": names}
