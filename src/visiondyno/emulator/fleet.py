"""The workers of an emulated endpoint: how many, since when, and what they are told."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from visiondyno.emulator.billing import Bill, make_bill
from visiondyno.emulator.config import EndpointConfig
from visiondyno.emulator.records import Json, Worker, WorkerState
from visiondyno.executors.scaling import ScaleLimits, processes_to_start, processes_to_stop

_LONGEST_BACKOFF_S = 60.0
_HEARD_SHARE = 0.1
"""A ping this share of an interval after a job was to be stopped may know of it."""


@dataclass(frozen=True, slots=True)
class StartWorker:
    """Start a process under this id."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class TerminateWorker:
    """Ask the process to end (SIGTERM) and answer its polls."""

    worker_id: str
    why: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class KillWorker:
    """End the process and all that it started (SIGKILL)."""

    worker_id: str
    why: str = field(default="", compare=False)


WorkerOrder = StartWorker | TerminateWorker | KillWorker


class Fleet:
    """All workers there are and were.

    Attributes:
        crashes_at_start: workers in a row that ended before they asked for a job. RunPod waits
            longer and longer before it starts the next one; so does this.
    """

    def __init__(self, config: EndpointConfig, new_id: Callable[[], str]) -> None:
        self._config = config
        self._new_id = new_id
        self._limits = ScaleLimits(config.workers_min, config.workers_max, config.idle_timeout_s)
        self._workers: dict[str, Worker] = {}
        self._start_after_s = float("-inf")
        self.crashes_at_start = 0

    def alive(self) -> list[Worker]:
        """Those that aren't gone, in the order of their starts."""
        return [worker for worker in self._workers.values() if worker.is_alive]

    def find(self, worker_id: str) -> Worker | None:
        """The worker, unless it is gone or never was."""
        worker = self._workers.get(worker_id)
        return worker if worker is not None and worker.is_alive else None

    # ---- what workers say

    def heard_ping(self, worker: Worker, job_ids: Collection[str], now_s: float) -> None:
        """It lives, and has these jobs; one that it was to stop and hasn't any more is stopped."""
        worker.seen_s = now_s
        heard_s = now_s - _HEARD_SHARE * self._config.ping_interval_s
        for job_id, since_s in list(worker.stopping.items()):
            if job_id not in job_ids and since_s <= heard_s:
                self.let_go(worker, job_id, now_s)

    def asks_for_jobs(self, worker: Worker, now_s: float, *, says_busy: bool) -> bool:
        """Note that it asks; whether it may have jobs. One that isn't busy has none of before."""
        worker.seen_s = now_s
        if worker.state is WorkerState.STARTING:
            worker.state, worker.idle_since_s = WorkerState.READY, now_s
            self.crashes_at_start = 0
        if not says_busy:
            for job_id in list(worker.running):
                self.let_go(worker, job_id, now_s)
        return worker.state is WorkerState.READY

    def give(self, worker: Worker, job_ids: Collection[str]) -> None:
        """It has these jobs now."""
        if job_ids:
            worker.running.update(job_ids)
            worker.idle_since_s = float("inf")

    def let_go(self, worker: Worker, job_id: str, now_s: float) -> None:
        """It has this job no more."""
        worker.stopping.pop(job_id, None)
        if job_id in worker.to_stop:
            worker.to_stop.remove(job_id)
        if job_id in worker.running:
            worker.running.discard(job_id)
            if not worker.running:
                worker.idle_since_s = now_s

    # ---- what workers are told

    def stop_job(self, job_id: str, now_s: float) -> None:
        """Whoever has the job is to stop it."""
        for worker in self.alive():
            if job_id in worker.running and job_id not in worker.stopping:
                worker.to_stop.append(job_id)
                worker.stopping[job_id] = now_s

    def jobs_to_stop(self, worker: Worker) -> list[str]:
        """What it is to stop and wasn't told of before."""
        told, worker.to_stop = worker.to_stop, []
        return told

    def retire(self, worker: Worker, now_s: float, why: str) -> list[WorkerOrder]:
        """Have it end; what it takes too long for is killed."""
        if worker.state in (WorkerState.STOPPING, WorkerState.GONE):
            return []
        worker.state = WorkerState.STOPPING
        worker.kill_at_s = now_s + self._config.stop_grace_s
        return [TerminateWorker(worker.id, why)]

    def left(self, worker: Worker, now_s: float) -> None:
        """Its process has ended: it costs no more."""
        if worker.state is WorkerState.STARTING and not worker.is_killed:
            self.crashes_at_start += 1
            backoff_s = min(_LONGEST_BACKOFF_S, 2.0 ** (self.crashes_at_start - 1))
            self._start_after_s = now_s + backoff_s
        worker.state, worker.stopped_s = WorkerState.GONE, now_s
        worker.running.clear()
        worker.to_stop.clear()
        worker.stopping.clear()

    # ---- time

    def advance(self, claimable: int, now_s: float) -> list[WorkerOrder]:
        """Kill who is silent or stuck, stop who is idle, start who is wanted.

        Args:
            claimable: jobs that workers should be started for.
            now_s: the endpoint's time.
        """
        orders: list[WorkerOrder] = []
        for worker in self.alive():
            at_s, why = self._end_of_patience(worker)
            if not worker.is_killed and now_s >= at_s:
                worker.is_killed = True
                orders.append(KillWorker(worker.id, why))
        idle = [worker for worker in self._staying() if worker.is_idle]
        idle_s = [now_s - worker.idle_since_s for worker in idle]
        staying = len(self._staying())
        spare = [idle[n] for n in processes_to_stop(self._limits, alive=staying, idle_s=idle_s)]
        for worker in spare:
            idle_text = f"it was idle for {self._limits.idle_timeout_s:g} s"
            orders.extend(self.retire(worker, now_s, idle_text))
        return orders + self._start(claimable, now_s)

    def deadlines_s(self) -> list[float]:
        """When `advance` may have something to do because time passed."""
        alive = [worker for worker in self.alive() if not worker.is_killed]
        times = [self._end_of_patience(worker)[0] for worker in alive]
        idle = [worker for worker in self._staying() if worker.is_idle]
        times += [worker.idle_since_s + self._limits.idle_timeout_s for worker in idle]
        return [*times, self._start_after_s]

    # ---- counts

    @property
    def busy_count(self) -> int:
        """Workers that stay and have jobs."""
        return sum(bool(worker.running) for worker in self._staying())

    def health(self) -> Json:
        """The `workers` of `/health`."""
        alive = self.alive()
        idle = sum(worker.is_idle for worker in alive)
        running = sum(bool(worker.running) for worker in alive)
        return {
            "idle": idle,
            "initializing": sum(worker.state is WorkerState.STARTING for worker in alive),
            "ready": idle + running,
            "running": running,
            "throttled": 0,
            "unhealthy": sum(worker.is_killed for worker in alive) + bool(self.crashes_at_start),
        }

    def bill(self, now_s: float) -> Bill:
        """What all workers cost until now."""
        config = self._config
        return make_bill(self._workers.values(), now_s, config.gpu, config.usd_per_s)

    # ---- within

    def _staying(self) -> list[Worker]:
        return [
            worker
            for worker in self.alive()
            if worker.state is not WorkerState.STOPPING and not worker.is_killed
        ]

    def _end_of_patience(self, worker: Worker) -> tuple[float, str]:
        """When it is killed, as things are, and why."""
        config = self._config
        ends = [(worker.kill_at_s, f"it didn't end within {config.stop_grace_s:g} s")]
        if worker.state is WorkerState.STARTING:
            limit_s = config.init_timeout_s
            ends.append((worker.started_s + limit_s, f"it asked for no job within {limit_s:g} s"))
        elif worker.state is WorkerState.READY:
            limit_s = config.missed_pings * config.ping_interval_s
            ends.append((worker.seen_s + limit_s, f"it was silent for {limit_s:g} s"))
        if worker.stopping:
            # Within one interval a ping comes that tells whether the job was stopped.
            heard_s = (1 + 2 * _HEARD_SHARE) * config.ping_interval_s
            ends.append((min(worker.stopping.values()) + heard_s, "it didn't stop a job"))
        return min(ends)

    def _start(self, claimable: int, now_s: float) -> list[WorkerOrder]:
        if now_s < self._start_after_s:
            return []
        self._start_after_s = float("-inf")
        # One that is about to end counts among those there are: RunPod never has more.
        ending = len(self.alive()) - len(self._staying())
        free = [
            worker
            for worker in self._staying()
            if worker.is_idle or worker.state is WorkerState.STARTING
        ]
        wanted = processes_to_start(
            self._limits,
            alive=len(self._staying()),
            idle_or_starting=len(free),
            claimable=claimable,
        )
        room = max(0, self._limits.most - len(self._staying()) - ending)
        started = [Worker(self._new_id(), now_s) for _ in range(min(wanted, room))]
        self._workers.update({worker.id: worker for worker in started})
        return [StartWorker(worker.id) for worker in started]
