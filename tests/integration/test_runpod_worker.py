"""The worker under the real SDK's loop, against a small server of RunPod's worker protocol."""

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from visiondyno.errors import ChildDied, InputError, TimeLimitExceeded, VisionDynoError
from visiondyno.executors.runpod_wire import job_error
from worker_entries import TESTS

web = pytest.importorskip("aiohttp.web")
pytest.importorskip("runpod")

PROGRAM = (
    "import sys; from visiondyno.runpod_handler.__main__ import main;"
    " sys.exit(main(entry='runpod_operations:run'))"
)


class Protocol:
    """The server's side: what it gives to the worker, and what comes back, in order of arrival."""

    def __init__(self) -> None:
        self.jobs: list[dict[str, Any]] = []
        self.stops: list[str] = []
        self.posts: list[tuple[str, str, Any]] = []
        self.taken: list[str] = []
        self.changed = asyncio.Condition()
        self.url = ""
        self._numbers = itertools.count(1)

    @asynccontextmanager
    async def served(self) -> AsyncGenerator["Protocol"]:
        app = web.Application(client_max_size=30_000_000)
        app.router.add_get("/job-take/{worker}", self._take)
        app.router.add_get("/job-take-batch/{worker}", self._take)
        app.router.add_get("/job-stop/{worker}", self._stop)
        app.router.add_get("/ping/{worker}", self._ping)
        app.router.add_post("/done/{worker}/{job}", self._post)
        app.router.add_post("/stream/{worker}/{job}", self._post)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def submit(self, operation: str, **rest: Any) -> str:
        return await self.submit_job({"input": {"operation": operation, **rest}})

    async def submit_job(self, job: dict[str, Any]) -> str:
        job_id = f"job-{next(self._numbers)}"
        self.jobs.append({"id": job_id, **job})
        await self._ring()
        return job_id

    async def cancel(self, job_id: str) -> None:
        self.stops.append(job_id)
        await self._ring()

    async def answer(self, job_id: str) -> dict[str, Any]:
        """What was posted as the job's answer."""
        found = await self.until(lambda: self.posted("done", job_id))
        return dict(found[0])

    async def result(self, job_id: str) -> Any:
        """The output; raises the error as a client of ours does."""
        answer = await self.answer(job_id)
        if "error" in answer:
            raise job_error(answer["error"]).to_exception()
        return answer.get("output")

    async def first_progress(self, job_id: str) -> dict[str, Any]:
        found = await self.until(lambda: self.posted("stream", job_id))
        return dict(found[0]["output"])

    def posted(self, kind: str, job_id: str) -> list[Any]:
        return [
            body for its_kind, its_job, body in self.posts if (its_kind, its_job) == (kind, job_id)
        ]

    async def until(self, condition: Callable[[], Any]) -> Any:
        async with self.changed:
            return await self.changed.wait_for(condition)

    async def _ring(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def _take(self, request: Any) -> Any:
        most = int(request.query.get("batch_size", "1"))
        try:
            async with asyncio.timeout(5):
                await self.until(lambda: self.jobs)
        except TimeoutError:
            return web.Response(status=204)
        given, self.jobs = self.jobs[:most], self.jobs[most:]
        self.taken += [job["id"] for job in given]
        return web.json_response(given if "batch_size" in request.query else given[0])

    async def _stop(self, _: Any) -> Any:
        try:
            async with asyncio.timeout(5):
                await self.until(lambda: self.stops)
        except TimeoutError:
            return web.Response(status=204)
        stops, self.stops = self.stops, []
        return web.json_response({"jobsToStop": stops})

    async def _ping(self, _: Any) -> Any:
        return web.Response()

    async def _post(self, request: Any) -> Any:
        kind = request.path.split("/")[1]
        body = json.loads(await request.read())
        self.posts.append((kind, request.match_info["job"], body))
        await self._ring()
        return web.Response()


class Worker:
    """A worker process of the protocol."""

    def __init__(self, url: str, folder: Path, **environ: str) -> None:
        self.log = folder / "worker.log"
        given = {
            "RUNPOD_WEBHOOK_GET_JOB": f"{url}/job-take/$ID?gpu=none",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{url}/done/$RUNPOD_POD_ID/$ID?gpu=none",
            "RUNPOD_WEBHOOK_POST_STREAM": f"{url}/stream/$RUNPOD_POD_ID/$ID?gpu=none",
            "RUNPOD_WEBHOOK_PING": f"{url}/ping/$RUNPOD_POD_ID",
            "RUNPOD_AI_API_KEY": "a-key",
            "RUNPOD_POD_ID": "worker-1",
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
            "RUNPOD_SKIP_GPU_CHECK": "true",
            "VISIONDYNO_HOME": str(folder / "home"),
            "VISIONDYNO_CONCURRENCY": "1",
            "PYTHONPATH": str(TESTS),
            "HOME": str(folder),
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM],
                env={**os.environ, **given, **environ},
                stdout=log,
                stderr=log,
                cwd=folder,
                start_new_session=True,
            )

    async def ended(self) -> int:
        return await asyncio.to_thread(self.process.wait, 60)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
                raise


Scenario = Callable[[Protocol, Worker], Awaitable[None]]


def under_the_sdk(scenario: Scenario, folder: Path, **environ: str) -> Worker:
    async def main() -> Worker:
        async with Protocol().served() as protocol:
            with Worker(protocol.url, folder, **environ) as worker:
                try:
                    async with asyncio.timeout(60):
                        await scenario(protocol, worker)
                except BaseException:
                    print(worker.log.read_text())
                    raise
                return worker

    return asyncio.run(main())


def is_alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
    return "State:\tZ" not in status


async def until_gone(*pids: int) -> None:
    while any(is_alive(pid) for pid in pids):
        await asyncio.sleep(0.02)


@pytest.mark.slow
def test_jobs_in_order_their_progress_too_and_errors_as_themselves(tmp_path: Path) -> None:
    async def scenario(protocol: Protocol, worker: Worker) -> None:
        six = [await protocol.submit("nap", seconds=0.3, number=number) for number in range(6)]
        told = await protocol.submit("tell", times=200)
        printed = await protocol.submit("print", lines=["one", "two", "three"])
        refused = await protocol.submit("refuse", text="no such street")
        crashed = await protocol.submit("crash")
        no_object = await protocol.submit_job({"input": ["predict"]})
        mirrored = await protocol.submit("mirror", text="\ud800é")
        large = await protocol.submit("large", megabytes=9)

        spans = [await protocol.result(job_id) for job_id in six]
        assert [span["number"] for span in spans] == [0, 1, 2, 3, 4, 5]
        for before, after in itertools.pairwise(spans):
            assert before["to_s"] <= after["from_s"]  # one at a time
        assert len({span["pid"] for span in spans}) == 1  # and the same process, still warm

        assert await protocol.result(told) == {"told": 200}
        steps = [body["output"] for body in protocol.posted("stream", told)]
        assert steps == [{"stage": "step", "done": done} for done in range(200)]
        kinds = [kind for kind, its_job, _ in protocol.posts if its_job == told]
        assert kinds == ["stream"] * 200 + ["done"]

        await protocol.result(printed)
        lines = [body["output"]["log"] for body in protocol.posted("stream", printed)]
        assert "\n".join(lines) == "one\ntwo\nthree"

        with pytest.raises(InputError, match="no such street"):
            await protocol.result(refused)
        with pytest.raises(VisionDynoError, match="ZeroDivisionError"):
            await protocol.result(crashed)
        with pytest.raises(InputError, match="isn't an object"):
            await protocol.result(no_object)
        assert await protocol.result(mirrored) == {"text": "?é"}
        assert len((await protocol.result(large))["text"]) == 9_000_000

        worker.process.terminate()  # while the SDK waits for the next job
        assert await worker.ended() == 0

    under_the_sdk(scenario, tmp_path)


@pytest.mark.slow
def test_what_does_not_stop_is_killed_and_the_next_job_runs(tmp_path: Path) -> None:
    async def scenario(protocol: Protocol, _: Worker) -> None:
        stuck = await protocol.submit("hang")
        pid = (await protocol.first_progress(stuck))["pid"]
        await protocol.cancel(stuck)
        await until_gone(pid)
        hurried = {"input": {"operation": "hang"}, "policy": {"executionTimeout": 300}}
        late = await protocol.submit_job(hurried)
        died = await protocol.submit("kill yourself")
        after = await protocol.submit("nap", seconds=0.0, number=3)
        with pytest.raises(TimeLimitExceeded, match="executionTimeout"):
            await protocol.result(late)
        with pytest.raises(ChildDied, match=r"SIGKILL.*last words: goodbye"):
            await protocol.result(died)
        assert (await protocol.result(after))["number"] == 3
        assert not protocol.posted("done", stuck)

    under_the_sdk(scenario, tmp_path)


@pytest.mark.slow
def test_three_at_once_and_a_benchmark_alone(tmp_path: Path) -> None:
    async def scenario(protocol: Protocol, _: Worker) -> None:
        meeting = [await protocol.submit("meet", folder=str(tmp_path), of=3) for _ in range(3)]
        for job_id in meeting:  # each waits for the other two
            await protocol.result(job_id)
        ids = [await protocol.submit("nap", seconds=0.2, number=number) for number in range(2)]
        ids.append(await protocol.submit("benchmark", seconds=0.2, number=2))
        ids += [await protocol.submit("nap", seconds=0.2, number=number) for number in (3, 4)]
        spans = [await protocol.result(job_id) for job_id in ids]
        alone = spans[2]
        for other in spans[:2] + spans[3:]:
            assert other["to_s"] <= alone["from_s"] or alone["to_s"] <= other["from_s"]

    under_the_sdk(scenario, tmp_path, VISIONDYNO_CONCURRENCY="3")


@pytest.mark.slow
def test_a_stopped_worker_ends_what_it_can_and_leaves_no_process(tmp_path: Path) -> None:
    async def scenario(protocol: Protocol, worker: Worker) -> None:
        short = await protocol.submit("nap", seconds=0.5, number=1)
        stuck = await protocol.submit("hang")
        pid = (await protocol.first_progress(stuck))["pid"]
        await protocol.first_progress(short)
        worker.process.terminate()
        assert (await protocol.result(short))["number"] == 1
        assert await worker.ended() == 0
        await until_gone(pid)
        assert not protocol.posted("done", stuck)  # RunPod gives it to another worker

    worker = under_the_sdk(scenario, tmp_path, VISIONDYNO_CONCURRENCY="2", VISIONDYNO_DRAIN_S="5")
    assert "another worker runs them again" in worker.log.read_text()


def test_a_killed_worker_leaves_no_process_of_its_jobs(tmp_path: Path) -> None:
    async def scenario(protocol: Protocol, worker: Worker) -> None:
        stuck = await protocol.submit("hang")
        pid = (await protocol.first_progress(stuck))["pid"]
        os.killpg(worker.process.pid, signal.SIGKILL)
        await worker.ended()
        await until_gone(pid)

    under_the_sdk(scenario, tmp_path)


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        pytest.param({"VISIONDYNO_BLOBS_URL": "ftp://blobs"}, "no address of blobs", id="blobs"),
        pytest.param({"VISIONDYNO_CONCURRENCY": "7"}, "1 to 6", id="concurrency"),
    ],
)
def test_an_unfit_worker_says_why_and_ends(
    tmp_path: Path, environ: dict[str, str], said: str
) -> None:
    async def scenario(protocol: Protocol, worker: Worker) -> None:
        await protocol.submit("nap", seconds=0.0, number=1)
        assert await worker.ended() != 0
        assert protocol.taken == []

    worker = under_the_sdk(scenario, tmp_path, **environ)
    log = worker.log.read_text()
    assert said in log
    assert "Traceback" not in log


def test_one_job_is_tried_without_any_server(tmp_path: Path) -> None:
    job = {"input": {"operation": "tell", "times": 2}}
    environ = {**os.environ, "PYTHONPATH": str(TESTS), "VISIONDYNO_HOME": str(tmp_path)}
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, "--test_input", json.dumps(job)],
        check=False,
        env=environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert found.returncode == 0, found.stderr
    assert "'told': 2" in found.stdout
    assert found.stderr.index("'done': 0") < found.stderr.index("'done': 1")
