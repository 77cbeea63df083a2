"""The HTTP API on a free port of this machine, over a real service, for tests."""

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Self

import httpx
import uvicorn
from fastapi import FastAPI

from comparison_factory import detector_comparison
from contracts.executor_contract import run_test_operation
from visiondyno.api.app import make_api
from visiondyno.errors import NotFound
from visiondyno.executors.base import Executor
from visiondyno.executors.inline import InlineExecutor, Run
from visiondyno.executors.workers import WorkerCommand, WorkerInfo, WorkerState
from visiondyno.operations.context import OperationContext
from visiondyno.service import Service
from visiondyno.settings import Settings
from visiondyno.store.records import KeyScope
from visiondyno.wiring import make_service


def run_api_operation(job_input: dict[str, Any], context: OperationContext) -> dict[str, Any]:
    """The contract suite's operations; logs, numbers that JSON hasn't, and a ready comparison."""
    match job_input.get("operation"):
        case "log":
            for text in job_input["lines"]:
                context._on_progress({"log": text})
            return {}
        case "benchmark":
            return {"comparison": detector_comparison().model_dump(mode="json", by_alias=True)}
        case "measure nothing":
            return {"loss": float("nan"), "best": float("inf")}
    return run_test_operation(job_input, context)


class StaffedExecutor(InlineExecutor):
    """Knows a worker in each state by name, and keeps what they were told."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.told: list[tuple[str, WorkerCommand]] = []

    async def workers(self) -> list[WorkerInfo]:
        return [
            WorkerInfo(
                f"host-1-{n}",
                state,
                1.0,
                "host",
                job_id="a-job.1" if state == WorkerState.BUSY else None,
                gpu_memory_used_bytes=n or None,
            )
            for n, state in enumerate(WorkerState)
        ]

    async def command_worker(self, name: str, command: WorkerCommand) -> None:
        if name not in {worker.name for worker in await self.workers()}:
            raise NotFound(f"No worker is named '{name}'.")
        self.told.append((name, command))


class Clock:
    """A clock that stands until it is told to go on."""

    def __init__(self, offset_s: float = 0.0) -> None:
        self.offset_s = offset_s

    def over(self, clock: Callable[[], float]) -> Callable[[], float]:
        """`clock`, so many seconds ahead."""
        return lambda: clock() + self.offset_s


class LiveApi:
    """A server in a thread of its own; `url` is its address, `service` what it serves.

    `run` is what its jobs do. Settings are those of `Settings`, with `home` in `folder`.
    """

    def __init__(
        self,
        folder: Path,
        run: Run = run_api_operation,
        clocks: dict[str, Callable[[], float]] | None = None,
        root_path: str = "",
        **settings: Any,
    ) -> None:
        self.settings = Settings(home=folder, _env_file=None, **settings)
        self._run = run
        self._clocks = clocks or {}
        self._root_path = root_path
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._main, name="live-api")
        self._failed: BaseException | None = None

    def call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the server's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=60)

    def client(self, key: str | None = None, **options: Any) -> httpx.Client:
        """An HTTP client of this server."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        options.setdefault("timeout", 60)
        return httpx.Client(base_url=self.url, headers=headers, **options)

    def make_key(self, name: str = "test", scope: KeyScope = KeyScope.ALL) -> str:
        """A new API key."""
        key: str = self.call(self.service.keys.create(name, scope))[1]
        return key

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait(timeout=60)
        if self._failed is not None:
            raise self._failed
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=60)
        assert not self._thread.is_alive(), "the server stops when it is told to"

    def _main(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._failed = error
            self._socket.close()
        finally:
            self._started.set()

    def _make_executor(self) -> Executor:
        """What runs the jobs; a subclass may give another."""
        return InlineExecutor(self._run)

    def _make_app(self) -> FastAPI:
        """What is served; a subclass may give more."""
        return make_api(self.service, **self._clocks)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.service: Service = make_service(self.settings, self._make_executor())
        async with self.service:
            config = uvicorn.Config(
                self._make_app(),
                log_config=None,
                lifespan="off",
                timeout_graceful_shutdown=5,
                root_path=self._root_path,
            )
            self._server = uvicorn.Server(config)
            serving = asyncio.create_task(self._server.serve(sockets=[self._socket]))
            while not self._server.started and not serving.done():
                await asyncio.sleep(0.005)
            self._started.set()
            await serving


class StaffedApi(LiveApi):
    """An API whose executor knows a worker in each state."""

    def _make_executor(self) -> Executor:
        return StaffedExecutor(self._run)
