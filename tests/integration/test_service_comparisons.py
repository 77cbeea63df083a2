"""Comparisons over the service: run as jobs, kept, and found again by their content."""

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from dataset_factory import write_coco
from faulty_executors import FaultyExecutor, running_service
from tiny_models import write_detector
from visiondyno import worker
from visiondyno.errors import Conflict, NotFound, StorageFull
from visiondyno.executors.workers import WorkerInfo, WorkerState
from visiondyno.job import JobState
from visiondyno.operations.context import OperationContext
from visiondyno.runtimes.card_file import card_path
from visiondyno.service import Service, comparisons
from visiondyno.service.content import content_key
from visiondyno.specs.operations import BenchmarkInput
from visiondyno.store.records import ComparisonRecord, JobKind

WORKER = WorkerInfo("host-1-0", WorkerState.IDLE, 0.0, "host", machine="m-1", version="1")


@dataclass(frozen=True)
class Case:
    """Real models and data; what a comparison of them gave is kept between the tests."""

    model: Path
    data: Path
    runs: list[str]
    results: dict[str, dict[str, Any]]

    def spec(self, **changes: Any) -> BenchmarkInput:
        given = {"models": (str(self.model),), "data": str(self.data)} | changes
        return BenchmarkInput(**{"duration_s": 0.05, "resamples": 100} | given)

    def run(self, job_input: dict[str, Any], context: OperationContext) -> dict[str, Any]:
        key = json.dumps(job_input, sort_keys=True)
        self.runs.append(key)
        if key not in self.results:
            self.results[key] = worker.run(job_input, context)
        return self.results[key]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("case")
    write_coco(folder / "data")
    model = write_detector(folder / "a.onnx", [[0, 0, 4, 4, 0.5, 1]])
    return Case(model, folder / "data", [], {})


@pytest.fixture
def case(measured: Case) -> Case:
    return replace(measured, runs=[])


Scenario = Callable[[Service, FaultyExecutor], Awaitable[None]]


def check(folder: Path, case: Case, scenario: Scenario) -> None:
    async def main() -> None:
        executor = FaultyExecutor(case.run)
        executor.shown_workers = [WORKER, replace(WORKER, name="host-1-1")]
        async with asyncio.timeout(200), running_service(folder, executor) as service:
            await scenario(service, executor)

    asyncio.run(main())


async def finished(service: Service, record: ComparisonRecord) -> ComparisonRecord:
    job = await service.jobs.wait(record.id, 120)
    assert job.state == JobState.COMPLETED, job.answer
    while True:
        found = await service.comparisons.get(record.id)
        if found.comparison is not None:
            return found
        await asyncio.sleep(0.005)


def test_the_same_content_is_found_again_and_marked(tmp_path: Path, case: Case) -> None:
    async def scenario(service: Service, _: FaultyExecutor) -> None:
        first = await service.comparisons.submit(case.spec(), owner="key_1")
        job = await service.jobs.get(first.id)
        assert (job.kind, job.owner) == (JobKind.BENCHMARK, "key_1")
        assert (job.request.policy.execution_timeout_ms or 0) >= 3_600_000
        done = await finished(service, first)
        assert done.cached_from is None
        assert done.content_key is not None
        assert "Cached result" not in await service.comparisons.report_html(first.id)

        again = await service.comparisons.submit(case.spec())
        assert again.cached_from == first.id
        assert await service.comparisons.get(again.id) == again
        assert again.comparison is not None
        assert again.comparison["notes"][0].startswith(f"Cached result of comparison {first.id}")
        assert again.comparison["models"] == (done.comparison or {})["models"]
        page = await service.comparisons.report_html(again.id)
        assert f"Cached result of comparison {first.id}" in page
        with pytest.raises(NotFound):
            await service.jobs.get(again.id)
        assert len(case.runs) == 1

        # Paths don't matter, and neither does where predictions may come from.
        shutil.copytree(case.data, tmp_path / "elsewhere" / "data")
        moved_model = shutil.copy(case.model, tmp_path / "elsewhere")
        moved = case.spec(
            models=(str(moved_model),), data=str(tmp_path / "elsewhere" / "data"), use_cache=False
        )
        assert (await service.comparisons.submit(moved)).cached_from == first.id
        fresh = await service.comparisons.submit(case.spec(), fresh=True)
        assert (await finished(service, fresh)).cached_from is None
        # The newest one that was really run is what is found.
        assert (await service.comparisons.submit(case.spec())).cached_from == fresh.id
        assert len(case.runs) == 2
        assert len(await service.comparisons.find()) == 5

    check(tmp_path, case, scenario)


def test_what_matters_changes_the_content_key(tmp_path: Path, case: Case) -> None:
    spec = case.spec()
    key = content_key(spec, "m-1")
    assert key == content_key(case.spec(use_cache=False), "m-1")
    card = case.model.with_suffix(".yaml")
    other = write_detector(tmp_path / "a.onnx", [[0, 0, 5, 5, 0.5, 1]])
    renamed = shutil.copy(case.model, tmp_path / "b.onnx")
    builtin = [case.spec(data=name) for name in ("street", "street:val", "street:val:500")]
    assert len({content_key(one, "m-1") for one in builtin}) == 1
    different = [
        content_key(spec, "m-2"),
        content_key(case.spec(seed=1), "m-1"),
        content_key(case.spec(price="A4000"), "m-1"),
        content_key(case.spec(max_images=1), "m-1"),
        content_key(case.spec(models=(str(other),)), "m-1"),
        content_key(case.spec(models=(str(renamed),)), "m-1"),
        content_key(case.spec(models=(str(case.model), "fake:detection")), "m-1"),
        content_key(case.spec(data="street:val"), "m-1"),
        content_key(case.spec(data="street:demo"), "m-1"),
    ]
    assert len({key, *different}) == len(different) + 1
    assert not card.exists()


@pytest.mark.parametrize(
    ("machines", "reason"),
    [
        (["m-1", "m-2"], "2 kinds of machines"),
        (["m-1", None], "no worker says what machine"),
        ([], "no worker says what machine"),
    ],
    ids=["two kinds", "one unknown", "no worker"],
)
def test_without_one_known_machine_nothing_is_reused(
    tmp_path: Path, case: Case, machines: list[str | None], reason: str
) -> None:
    async def scenario(service: Service, executor: FaultyExecutor) -> None:
        executor.shown_workers = [replace(WORKER, machine=machine) for machine in machines]
        first = await service.comparisons.submit(case.spec())
        done = await finished(service, first)
        assert done.content_key is None
        assert reason in (done.comparison or {})["notes"][0]
        again = await service.comparisons.submit(case.spec())
        assert again.cached_from is None
        await finished(service, again)

    check(tmp_path, case, scenario)


@pytest.mark.parametrize("changed", ["model", "data"])
def test_files_that_changed_meanwhile_are_not_reused(
    tmp_path: Path, case: Case, changed: str
) -> None:
    data = tmp_path / "data"
    shutil.copytree(case.data, data)
    model = Path(shutil.copy(case.model, tmp_path / "a.onnx"))

    def run_and_change(job_input: dict[str, Any], context: OperationContext) -> dict[str, Any]:
        output = worker.run(job_input, context)
        if changed == "model":
            write_detector(model, [[0, 0, 6, 6, 0.5, 1]])
        else:
            next(data.rglob("*.jpg")).unlink()
        return output

    async def main() -> None:
        executor = FaultyExecutor(run_and_change)
        executor.shown_workers = [WORKER]
        async with asyncio.timeout(200), running_service(tmp_path, executor) as service:
            spec = case.spec(models=(str(model),), data=str(data), skip_bad=False)
            first = await service.comparisons.submit(spec)
            assert first.content_key is not None
            done = await finished(service, first)
            assert done.content_key is None
            assert "Not kept for later requests" in (done.comparison or {})["notes"][0]

    asyncio.run(main())


def test_a_comparison_that_fails_has_no_report_and_keeps_its_reason(
    tmp_path: Path, case: Case
) -> None:
    async def scenario(service: Service, _: FaultyExecutor) -> None:
        wrong = case.spec(models=("no/such.onnx",), reference="other")
        record = await service.comparisons.submit(wrong)
        job = await service.jobs.wait(record.id, 120)
        assert job.state == JobState.FAILED
        with pytest.raises(Conflict, match="FAILED"):
            await service.comparisons.report_html(record.id)
        for ask in (service.comparisons.get, service.comparisons.report_html):
            with pytest.raises(NotFound, match="nope"):
                await ask("nope")
        with pytest.raises(NotFound, match="nope"):
            await service.comparisons.delete("nope")
        await service.comparisons.delete(record.id)
        assert await service.comparisons.find() == []

    check(tmp_path, case, scenario)


def test_an_idempotency_key_starts_one_comparison(tmp_path: Path, case: Case) -> None:
    async def scenario(service: Service, _: FaultyExecutor) -> None:
        async def ask(**changes: Any) -> ComparisonRecord:
            return await service.comparisons.submit(case.spec(**changes), idempotency_key="k")

        each = await asyncio.gather(ask(), ask(), ask())
        assert len({record.id for record in each}) == 1
        await finished(service, each[0])
        assert (await ask()).id == each[0].id
        with pytest.raises(Conflict):
            await ask(seed=3)
        assert len(case.runs) == 1

    check(tmp_path, case, scenario)


def test_a_result_recorded_just_before_the_end_is_kept_at_the_next_start(
    tmp_path: Path, case: Case
) -> None:
    async def main() -> None:
        executor = FaultyExecutor(case.run)
        executor.shown_workers = [WORKER]
        async with asyncio.timeout(200), running_service(tmp_path, executor) as service:
            record = await service.comparisons.submit(case.spec())
            done = await finished(service, record)
            # As if the process had died between the job's end and this; and one without a job.
            service.store.comparisons.save(record)
            old = record.created_at - 1000
            service.store.comparisons.save(replace(record, id="orphan", created_at=old))
            service.store.comparisons.save(replace(record, id="another server's"))
        async with asyncio.timeout(200), running_service(tmp_path) as later:
            assert await later.comparisons.get(record.id) == done
            kept = {found.id for found in await later.comparisons.find()}
            assert kept == {record.id, "another server's"}

    asyncio.run(main())


def test_a_comparison_that_the_store_cannot_take_leaves_nothing(tmp_path: Path, case: Case) -> None:
    async def scenario(service: Service, _: FaultyExecutor) -> None:
        def full(_: object) -> None:
            raise StorageFull("The disk is full; make room.")

        service.store.jobs.add = full  # type: ignore[method-assign, assignment]
        with pytest.raises(StorageFull):
            await service.comparisons.submit(case.spec())
        assert await service.comparisons.find() == []

    check(tmp_path, case, scenario)


def test_deleting_a_comparison_that_runs_cancels_it(tmp_path: Path, case: Case) -> None:
    def until_stopped(job_input: dict[str, Any], context: OperationContext) -> dict[str, Any]:
        while True:
            context.progress("running")

    async def main() -> None:
        executor = FaultyExecutor(until_stopped)
        async with asyncio.timeout(60), running_service(tmp_path, executor) as service:
            record = await service.comparisons.submit(case.spec())
            await service.comparisons.delete(record.id)
            assert (await service.jobs.get(record.id)).state == JobState.CANCELLED

    asyncio.run(main())


def test_a_result_that_is_no_comparison_is_not_kept(tmp_path: Path, case: Case) -> None:
    async def main() -> None:
        executor = FaultyExecutor(lambda *_: {"comparison": {"schema": "another"}})
        executor.shown_workers = [WORKER]
        async with asyncio.timeout(60), running_service(tmp_path, executor) as service:
            record = await service.comparisons.submit(case.spec())
            await service.jobs.wait(record.id, 30)
            with pytest.raises(Conflict, match="Start another"):
                await service.comparisons.report_html(record.id)

    asyncio.run(main())


def test_a_comparison_that_left_a_model_out_is_not_reused(tmp_path: Path, case: Case) -> None:
    async def scenario(service: Service, _: FaultyExecutor) -> None:
        broken = tmp_path / "broken.onnx"
        shutil.copy(case.model, broken)
        record = await service.comparisons.submit(
            case.spec(models=(str(case.model), str(broken)), time_limit_s=60)
        )
        broken.write_bytes(b"not a model any more")
        done = await finished(service, record)
        assert done.content_key is None

    async def held(service: Service, executor: FaultyExecutor) -> None:
        executor.holds = asyncio.Event()
        asyncio.get_running_loop().call_later(0.2, executor.holds.set)
        await scenario(service, executor)

    check(tmp_path, case, held)


def test_content_that_takes_long_to_read_or_contradicts_itself_is_not_reused(
    tmp_path: Path, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(service: Service, _: FaultyExecutor) -> None:
        contrary = await service.comparisons.submit(case.spec(reference="another"))
        assert contrary.content_key is None
        monkeypatch.setattr(comparisons, "_IDENTIFY_S", 0.0)
        slow = await service.comparisons.submit(case.spec())
        assert slow.content_key is None
        assert "took too long" in ((await finished(service, slow)).comparison or {})["notes"][0]

    check(tmp_path, case, scenario)


def test_a_cards_file_is_part_of_its_model(tmp_path: Path, case: Case) -> None:
    model = Path(shutil.copy(case.model, tmp_path / "a.onnx"))
    before = content_key(case.spec(models=(str(model),)), "m-1")
    card_path(model).write_text("task: detection\n", encoding="utf-8")
    assert content_key(case.spec(models=(str(model),)), "m-1") != before
