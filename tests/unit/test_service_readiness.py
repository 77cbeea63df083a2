"""Readiness says for each part what is wrong and what to do."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from faulty_executors import FaultyExecutor, running_service
from visiondyno.errors import SpecError, StorageFull
from visiondyno.executors.base import ExecutorHealth
from visiondyno.service import Service, readiness
from visiondyno.settings import Settings
from visiondyno.wiring import make_blobs, make_service, make_store


class NoWorkers(FaultyExecutor):
    async def health(self) -> ExecutorHealth:
        return ExecutorHealth(jobs={}, workers_ready=0, workers_busy=0)


class Silent(FaultyExecutor):
    async def health(self) -> ExecutorHealth:
        await asyncio.Event().wait()
        raise AssertionError


def checks_of(
    folder: Path,
    make: Callable[[], FaultyExecutor] = FaultyExecutor,
    prepare: Callable[[Service, FaultyExecutor], Any] = lambda *_: None,
    **settings: Any,
) -> dict[str, str]:
    async def main() -> dict[str, str]:
        executor = make()
        async with asyncio.timeout(60), running_service(folder, executor, **settings) as service:
            prepare(service, executor)
            found = await service.readiness()
            assert found.ready == (set(found.checks.values()) == {"ok"})
            assert list(found.checks) == ["store", "queue", "workers", "disk"]
            return found.checks

    return asyncio.run(main())


def test_a_whole_service_is_ready(tmp_path: Path) -> None:
    assert set(checks_of(tmp_path).values()) == {"ok"}


def test_no_worker_is_said_unless_none_is_needed(tmp_path: Path) -> None:
    checks = checks_of(tmp_path, NoWorkers)
    assert "this server starts its own" in checks["workers"]
    redis = checks_of(tmp_path, NoWorkers, redis_url="redis://host")
    assert "dyno worker --redis URL" in redis["workers"]
    assert "its own" not in redis["workers"]
    assert checks["queue"] == "ok"
    assert set(checks_of(tmp_path, NoWorkers, workers_min=0).values()) == {"ok"}


def test_a_queue_that_is_down_or_silent_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def turn_off(_: Service, executor: FaultyExecutor) -> None:
        executor.is_down = True

    assert "Redis" in checks_of(tmp_path, FaultyExecutor, turn_off)["queue"]
    monkeypatch.setattr(readiness, "_TIMEOUT_S", 0.01)
    assert "no answer" in checks_of(tmp_path, Silent)["queue"]


def test_a_store_that_cannot_be_written_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_up(service: Service, _: FaultyExecutor) -> None:
        def full() -> None:
            raise StorageFull("The disk is full; make room.")

        service.store.check = full  # type: ignore[method-assign]

    assert checks_of(tmp_path, prepare=fill_up)["store"] == "The disk is full; make room."

    released: list[Any] = []

    def hang(service: Service, _: FaultyExecutor) -> None:
        released.append(threading.Event())
        service.store.check = released[0].wait  # type: ignore[method-assign]
        asyncio.get_running_loop().call_later(1.0, released[0].set)

    monkeypatch.setattr(readiness, "_TIMEOUT_S", 0.01)
    assert "no answer" in checks_of(tmp_path, prepare=hang)["store"]


def test_too_little_free_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "LEAST_FREE_BYTES", 2**62)
    disk = checks_of(tmp_path / "not" / "there" / "yet")["disk"]
    assert "make room" in disk
    assert "MB free" in disk


def test_a_home_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    settings = Settings(home=tmp_path / "file" / "home")
    for make in (make_store, make_blobs, make_service):
        with pytest.raises(SpecError, match="VISIONDYNO_HOME"):
            make(settings)


def test_a_wrong_blobs_address_closes_the_store_again(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="address"):
        make_service(Settings(home=tmp_path, blobs_url="ftp://example.org"))


def test_a_service_that_was_never_started_closes(tmp_path: Path) -> None:
    async def main() -> None:
        service = make_service(Settings(home=tmp_path), FaultyExecutor())
        await service.close()

    asyncio.run(main())
