"""Webhooks arrive signed, are tried again, and survive a restart."""

import asyncio
import base64
import json
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from contracts.executor_contract import request, run_test_operation
from faulty_executors import running_service
from visiondyno.blobs.folder import FolderBlobs
from visiondyno.errors import SpecError
from visiondyno.executors.inline import InlineExecutor
from visiondyno.job import JobRequest
from visiondyno.service import Service
from visiondyno.service.webhooks import SECRET_FILE, Webhooks, load_secret, retry_delay_s, sign
from visiondyno.settings import Settings
from visiondyno.store.sql import open_store

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@dataclass
class Receiver:
    url: str
    answers: list[int] = field(default_factory=list)  # statuses of the next deliveries; then 204
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            found.got.append(({k.lower(): v for k, v in self.headers.items()}, body))
            status = found.answers.pop(0) if found.answers else 204
            self.send_response(status)
            if status == 302:
                self.send_header("location", found.url + "elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.url = f"http://127.0.0.1:{server.server_address[1]}/"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield found
        server.shutdown()
        thread.join()


def with_webhook(url: str, operation: str = "echo", **rest: object) -> JobRequest:
    return JobRequest(input=request(operation, **rest).input, webhook=url)


def test_a_job_that_ends_posts_its_answer_signed(tmp_path: Path, receiver: Receiver) -> None:
    async def main() -> None:
        async with (
            asyncio.timeout(60),
            running_service(tmp_path, webhook_secret=SECRET) as service,
        ):
            done = await service.jobs.submit(with_webhook(receiver.url, say="ä"))
            failed = await service.jobs.submit(with_webhook(receiver.url, "refuse"))
            await service.jobs.submit(request("echo", say="no webhook"))
            while len(receiver.got) < 2:
                await asyncio.sleep(0.005)
            answers = {}
            for headers, body in receiver.got:
                # The specification's own package checks signature and age.
                answer = Webhook(SECRET).verify(body.decode(), headers)
                assert headers["content-type"] == "application/json"
                answers[answer["id"]] = answer
            assert answers[done.id]["status"] == "COMPLETED"
            assert answers[done.id]["output"] == {"said": "ä"}
            assert answers[done.id]["executionTime"] >= 0
            assert answers[failed.id]["status"] == "FAILED"
            assert answers[failed.id]["error"]["code"] == "bad_dataset"

    asyncio.run(main())


def test_what_does_not_arrive_is_tried_again_under_the_same_id(
    tmp_path: Path, receiver: Receiver
) -> None:
    now = [1_800_000_000.0]

    async def main() -> None:
        store = open_store(f"sqlite:///{tmp_path / 'store.sqlite'}", clock=lambda: now[0])
        service = Service(
            Settings(home=tmp_path),
            store,
            InlineExecutor(run_test_operation),
            FolderBlobs(tmp_path / "blobs"),
            clock=lambda: now[0],
        )
        # Not started: the test delivers, one look at a time.
        job = await service.jobs.submit(with_webhook(receiver.url, say="x"))
        await service.jobs.wait(job.id, 30)
        secret = load_secret(service.settings)
        webhooks = Webhooks(store.webhooks, service.jobs.recorder, secret, lambda: now[0])
        receiver.answers = [500, 404, 302, 503, 400, 429, 500]
        async with httpx.AsyncClient(timeout=10) as client:
            for attempt in range(1, 9):
                assert await webhooks.deliver_due(client) == 1
                assert len(receiver.got) == attempt
                assert await webhooks.deliver_due(client) == 0
                delay_s = retry_delay_s(attempt, 1.0)
                now[0] += delay_s if delay_s is not None else 0.0
            now[0] += 30 * 86_400
            assert await webhooks.deliver_due(client) == 0
        await service.close()

    asyncio.run(main())
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
    assert len({headers["webhook-timestamp"] for headers, _ in receiver.got}) == 8
    assert len({body for _, body in receiver.got}) == 1


def test_a_delivery_is_given_up_after_its_last_attempt(tmp_path: Path) -> None:
    now = [1_800_000_000.0]

    async def main() -> int:
        store = open_store(f"sqlite:///{tmp_path / 'store.sqlite'}", clock=lambda: now[0])
        executor = InlineExecutor(run_test_operation)
        blobs = FolderBlobs(tmp_path / "blobs")
        service = Service(Settings(home=tmp_path), store, executor, blobs, lambda: now[0])
        # Nobody listens on port 1.
        job = await service.jobs.submit(with_webhook("http://127.0.0.1:1/", say="x"))
        await service.jobs.wait(job.id, 30)
        webhooks = Webhooks(store.webhooks, service.jobs.recorder, b"x" * 24, lambda: now[0])
        tried = 0
        async with httpx.AsyncClient(timeout=10) as client:
            for _ in range(12):
                tried += await webhooks.deliver_due(client)
                now[0] += 86_400
        await service.close()
        return tried

    assert asyncio.run(main()) == 8


def test_deliveries_that_are_due_survive_a_restart(tmp_path: Path, receiver: Receiver) -> None:
    async def main() -> None:
        store = open_store(f"sqlite:///{tmp_path / 'store.sqlite'}")
        executor = InlineExecutor(run_test_operation)
        blobs = FolderBlobs(tmp_path / "blobs")
        never_started = Service(Settings(home=tmp_path), store, executor, blobs)
        job = await never_started.jobs.submit(with_webhook(receiver.url, say="x"))
        await never_started.jobs.wait(job.id, 30)
        await never_started.close()
        assert receiver.got == []
        async with asyncio.timeout(60), running_service(tmp_path):
            while not receiver.got:
                await asyncio.sleep(0.005)
        assert json.loads(receiver.got[0][1])["id"] == job.id

    asyncio.run(main())


def test_the_secret_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    made = load_secret(settings)
    assert len(made) == 32
    assert load_secret(settings) == made
    mode = stat.S_IMODE((tmp_path / "home" / SECRET_FILE).stat().st_mode)
    assert mode == 0o600
    assert [path.name for path in (tmp_path / "home").iterdir()] == [SECRET_FILE]


@pytest.mark.parametrize("secret", ["hunter2", "whsec_", "whsec_c2hvcnQ=", "whsec_%%%"])
def test_a_wrong_secret_is_refused_without_being_shown(tmp_path: Path, secret: str) -> None:
    with pytest.raises(SpecError, match="24 to 64 random bytes") as caught:
        load_secret(Settings(home=tmp_path, webhook_secret=secret))  # type: ignore[arg-type]
    assert "hunter2" not in str(caught.value)


@given(st.binary(min_size=24, max_size=64), st.text(), st.integers(1, 7), st.floats(0, 1))
def test_signatures_verify_and_delays_grow(
    secret: bytes, text: str, failures: int, share: float
) -> None:
    body = json.dumps({"text": text})
    headers = sign(secret, "msg_1", int(time.time()), body.encode())
    verifier = Webhook("whsec_" + base64.b64encode(secret).decode())
    assert verifier.verify(body, headers) == {"text": text}
    delay_s = retry_delay_s(failures, share)
    assert delay_s is not None
    assert delay_s <= (retry_delay_s(failures + 1, share) or float("inf"))
    assert retry_delay_s(8, share) is None
