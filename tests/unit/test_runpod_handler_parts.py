"""The RunPod worker's parts: who may run at once, how many, where things are kept, and whether."""

import asyncio
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from coroutines import run
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.errors import SpecError, StorageFull, TransportDown, Unavailable
from visiondyno.probes.slots import GpuMemory
from visiondyno.runpod_handler.__main__ import main
from visiondyno.runpod_handler.concurrency import (
    MOST_PLACES,
    Concurrency,
    choose_places,
    may_prefetch,
)
from visiondyno.runpod_handler.fitness import (
    check_blobs,
    check_disk,
    check_gpu,
    fitness_checks,
)
from visiondyno.runpod_handler.gate import Gate
from visiondyno.runpod_handler.handler import execution_timeout_ms, measures
from visiondyno.runpod_handler.volume import keep_on_volume
from visiondyno.settings import load_settings

GB = 10**9


# ---- the gate


@given(
    places=st.integers(1, 6),
    jobs=st.lists(st.tuples(st.integers(1, 6), st.integers(0, 3), st.booleans()), max_size=20),
)
def test_a_gate_is_never_overfull_and_lets_in_all_who_stay(
    places: int, jobs: list[tuple[int, int, bool]]
) -> None:
    async def main() -> None:
        gate = Gate(places)
        held = 0
        let_in: list[int] = []

        async def job(number: int, wanted: int, turns: int) -> None:
            nonlocal held
            async with gate.entered(wanted):
                let_in.append(number)
                held += wanted
                assert held <= places
                for _ in range(turns):
                    await asyncio.sleep(0)
                held -= wanted

        tasks = []
        for number, (wanted, turns, is_cancelled) in enumerate(jobs):
            task = asyncio.create_task(job(number, min(wanted, places), turns))
            tasks.append((task, is_cancelled))
            await asyncio.sleep(0)
            if is_cancelled and number not in let_in:
                task.cancel()
        await asyncio.wait([task for task, _ in tasks]) if tasks else None
        for number, (task, _) in enumerate(tasks):
            if not task.cancelled():
                task.result()
                assert number in let_in
        async with gate.entered(places):  # nothing was lost on the way
            pass

    run(main())


def test_who_asks_for_many_is_not_passed_by_those_who_ask_for_few() -> None:
    async def main() -> None:
        gate = Gate(2)
        entered: list[str] = []

        async def enter(name: str, places: int) -> None:
            async with gate.entered(places):
                entered.append(name)
                await asyncio.sleep(0)

        async with gate.entered(1):
            tasks = [asyncio.create_task(enter("many", 2)), asyncio.create_task(enter("few", 1))]
            await asyncio.sleep(0)
            assert entered == []
        await asyncio.wait(tasks)
        assert entered == ["many", "few"]

    run(main())


def test_a_place_is_free_again_if_its_taker_was_cancelled_as_it_was_let_in() -> None:
    async def main() -> None:
        gate = Gate(1)
        entered: list[str] = []

        async def enter(name: str) -> None:
            async with gate.entered(1):
                entered.append(name)

        async with gate.entered(1):
            unlucky, lucky = (asyncio.create_task(enter(name)) for name in ("unlucky", "lucky"))
            await asyncio.sleep(0)
        unlucky.cancel()  # its turn has come, and it didn't run yet
        await lucky
        assert entered == ["lucky"]

    run(main())


# ---- how many


@pytest.mark.parametrize(
    ("total_gb", "free_gb", "count"),
    [(16, 16, 2), (24, 24, 3), (48, 48, 6), (80, 80, 6), (24, 3, 1), (24, 0.5, 1)],
)
def test_places_by_free_gpu_memory(total_gb: float, free_gb: float, count: int) -> None:
    gpu = GpuMemory(0, "a GPU", int(total_gb * GB), int(free_gb * GB))
    places = choose_places({}, [gpu], 16, 100 * GB)
    assert places.count == count
    if count == 1:
        assert places.gpu_memory_fraction is None
    else:
        assert places.gpu_memory_fraction is not None
        assert count * places.gpu_memory_fraction * total_gb <= free_gb


@given(st.integers(1, 10**12), st.floats(0, 1), st.integers(1, 256), st.integers(0, 10**12))
def test_places_are_one_to_six_and_share_what_is_free(
    total_bytes: int, free: float, cpu_count: int, ram_bytes: int
) -> None:
    gpu = GpuMemory(0, "a GPU", total_bytes, int(free * total_bytes))
    for gpus in ([gpu], []):
        places = choose_places({}, gpus, cpu_count, ram_bytes)
        assert 1 <= places.count <= MOST_PLACES
        share = places.gpu_memory_fraction
        assert share is None or 0 < share * places.count <= gpu.free_bytes / total_bytes + 1e-9


def test_places_without_a_gpu_and_as_told() -> None:
    assert choose_places({}, [], 8, 64 * GB).count == 4
    assert choose_places({}, [], 64, 64 * GB).count == MOST_PLACES
    assert choose_places({}, [], 8, 2 * GB).count == 2
    gpu = GpuMemory(0, "a GPU", 24 * GB, 24 * GB)
    told = {"VISIONDYNO_CONCURRENCY": "5"}
    assert choose_places(told, [gpu], 2, 4 * GB).gpu_memory_fraction == 0.2
    set_already = {**told, "VISIONDYNO_GPU_MEMORY_FRACTION": "0.1"}
    assert choose_places(set_already, [gpu], 2, 4 * GB).gpu_memory_fraction is None


@pytest.mark.parametrize("told", ["0", "7", "many", "1.5", "-1"])
def test_a_wrong_number_of_places_is_refused(told: str) -> None:
    with pytest.raises(SpecError, match="1 to 6"):
        choose_places({"VISIONDYNO_CONCURRENCY": told}, [], 2, None)


def test_a_job_is_held_ready_while_jobs_are_short() -> None:
    concurrency = Concurrency(2)
    assert concurrency.jobs_wanted == 3
    for _ in range(5):
        concurrency.note(300.0)
    assert concurrency.jobs_wanted == 2
    concurrency.note(2.0)
    assert concurrency.jobs_wanted == 2  # one short job among long ones
    for _ in range(2):
        concurrency.note(2.0)
    assert concurrency.jobs_wanted == 3
    assert Concurrency(2, may_prefetch=False).jobs_wanted == 2


def test_prefetch_is_a_switch() -> None:
    assert may_prefetch({})
    assert may_prefetch({"VISIONDYNO_PREFETCH": "1"})
    assert not may_prefetch({"VISIONDYNO_PREFETCH": "0"})
    with pytest.raises(SpecError, match="VISIONDYNO_PREFETCH"):
        may_prefetch({"VISIONDYNO_PREFETCH": "yes"})


# ---- a job


@pytest.mark.parametrize(
    ("policy", "limit_ms"),
    [
        (None, None),
        ("fast", None),
        ({}, None),
        ({"executionTimeout": True}, None),
        ({"executionTimeout": "5000"}, None),
        ({"executionTimeout": -5}, None),
        ({"executionTimeout": float("nan")}, None),
        ({"executionTimeout": float("inf")}, None),
        ({"executionTimeout": 5000, "ttl": 60000}, 5000),
        ({"executionTimeout": 5000.7}, 5000),
    ],
    ids=str,
)
def test_a_jobs_own_time_limit(policy: Any, limit_ms: int | None) -> None:
    assert execution_timeout_ms({"policy": policy}) == limit_ms


def test_what_measures_runs_alone() -> None:
    assert measures({"operation": "benchmark"})
    assert measures({"operation": "batch", "operations": [{"operation": "benchmark"}]})
    assert not measures({"operation": "batch", "operations": [{"operation": "predict"}, 7]})
    assert not measures({"operation": "batch", "operations": 7})
    assert not measures({"operation": "train_epoch"})
    assert not measures({})


# ---- where, and whether


def test_what_is_kept_goes_to_the_volume_unless_told_where(tmp_path: Path) -> None:
    environ = {"HF_HOME": "/elsewhere"}
    assert keep_on_volume(environ, tmp_path) == tmp_path / "visiondyno"
    assert environ["VISIONDYNO_HOME"] == str(tmp_path / "visiondyno/home")
    assert environ["XDG_CACHE_HOME"] == str(tmp_path / "visiondyno/cache")
    assert environ["HF_HOME"] == "/elsewhere"
    unchanged: dict[str, str] = {}
    assert keep_on_volume(unchanged, tmp_path / "absent") is None
    assert unchanged == {}


def test_a_disk_is_fit_if_it_can_be_written_and_has_room(tmp_path: Path) -> None:
    check_disk(tmp_path / "made" / "here", least_free_bytes=0)
    assert list((tmp_path / "made" / "here").iterdir()) == []
    with pytest.raises(StorageFull, match="larger disk"):
        check_disk(tmp_path, least_free_bytes=10**18)
    with pytest.raises(Unavailable, match="VISIONDYNO_HOME"):
        check_disk(Path("/proc/nowhere"))


def test_a_blob_store_is_fit_if_it_answers(tmp_path: Path) -> None:
    run(check_blobs(load_settings(home=tmp_path, blobs_url=f"file://{tmp_path}/blobs")))

    async def silent() -> None:
        callers: list[asyncio.StreamWriter] = []
        server = await asyncio.start_server(
            lambda _, writer: callers.append(writer), "127.0.0.1", 0
        )
        try:
            port = server.sockets[0].getsockname()[1]
            url = f"http://127.0.0.1:{port}/blobs"
            await check_blobs(load_settings(home=tmp_path, blobs_url=url), answer_s=0.05)
        finally:
            for writer in callers:
                writer.close()
                await writer.wait_closed()
            server.close()
            await server.wait_closed()

    with pytest.raises(TransportDown, match="VISIONDYNO_BLOBS_URL"):
        run(silent())


def test_a_gpu_is_looked_for_where_the_image_needs_one(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path)
    with_blobs = load_settings(home=tmp_path, blobs_url="file:///blobs")

    def names(environ: dict[str, str], settings: Any = settings) -> list[str]:
        return [check.__name__ for check in fitness_checks(settings, environ, lambda: ())]

    assert names({}) == ["disk_is_writable"]
    required = {"VISIONDYNO_REQUIRE_GPU": "1"}
    assert names(required, with_blobs) == ["disk_is_writable", "blobs_answer", "gpu_works"]
    with pytest.raises(SpecError, match="0"):
        names({"VISIONDYNO_REQUIRE_GPU": "a GPU"})
    for check in fitness_checks(settings, {}, lambda: ()):
        run(check())  # type: ignore[arg-type]
    with pytest.raises(Unavailable, match="shows no GPU"):
        run(check_gpu(lambda: ()))


@pytest.mark.slow
@pytest.mark.torch
def test_torch_must_see_the_gpu_that_the_driver_shows() -> None:
    torch = pytest.importorskip("torch")
    shown = [GpuMemory(0, "a GPU", 24 * GB, 24 * GB)]
    if torch.cuda.is_available():
        run(check_gpu(lambda: shown))
        return
    with pytest.raises(Unavailable, match=r"torch .* sees no GPU"):
        run(check_gpu(lambda: shown))


def test_a_gpu_that_does_not_answer_is_not_waited_for() -> None:
    with pytest.raises(Unavailable, match="no answer within 0 s"):
        run(check_gpu(lambda: [GpuMemory(0, "a GPU", 24 * GB, 24 * GB)], torch_s=0.0))


# ---- the program


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("VISIONDYNO_DRAIN_S", "soon", "VISIONDYNO_DRAIN_S"),
        ("VISIONDYNO_DRAIN_S", "-1", "0 to 3600"),
        ("VISIONDYNO_DRAIN_S", "nan", "0 to 3600"),
        ("VISIONDYNO_CACHE_BYTES", "much", "cache_bytes"),
        ("VISIONDYNO_DRAIN_S", "5", "visiondyno[runpod]"),
    ],
)
def test_a_worker_that_is_set_up_wrong_says_so_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
    said: str,
) -> None:
    monkeypatch.setenv("RUNPOD_LOG_LEVEL", "INFO")
    monkeypatch.setenv(name, value)
    monkeypatch.setitem(sys.modules, "runpod", None)  # as where the extra isn't installed
    assert main() == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert said in error


def test_a_runpod_package_without_fitness_checks_is_too_old(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RUNPOD_LOG_LEVEL", "INFO")
    old = types.ModuleType("runpod")
    old.serverless = types.ModuleType("runpod.serverless")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "runpod", old)
    assert main() == 2
    assert "install a later one" in capsys.readouterr().err
