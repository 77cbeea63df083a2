"""Requests of an emulated endpoint that are done late, and the record of all of them."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from emulated_endpoint import QUIET_WORKER, an_emulator, client, run_job, until
from visiondyno.emulator.request_log import MOST_KEPT, RequestLog
from visiondyno.emulator.serve import RunningEmulator


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEmulator]:
    with an_emulator(tmp_path_factory.mktemp("logs"), QUIET_WORKER) as running:
        yield running


def test_a_delayed_request_is_answered_at_once_and_done_later(quiet: RunningEmulator) -> None:
    with client(quiet) as http:
        job_id = run_job(http)
        fault = {"kind": "delay", "operation": "cancel", "seconds": 0.2}
        assert http.post(f"{quiet.base_url}/emulator/faults", json=fault).status_code == 200
        assert http.post(f"/cancel/{job_id}").json() == {}
        until(lambda: http.get(f"/status/{job_id}").json()["status"] == "CANCELLED")
        until(lambda: not quiet.emulator.faults._later)


def test_what_is_to_be_done_later_holds_up_no_end(tmp_path: Path) -> None:
    with an_emulator(tmp_path, QUIET_WORKER) as running, client(running) as http:
        fault = {"kind": "delay", "operation": "run", "seconds": 600}
        http.post(f"{running.base_url}/emulator/faults", json=fault)
        assert http.post("/run", json={"input": {}}).json() == {}
        assert http.get("/health").json()["jobs"]["inQueue"] == 0


def test_every_request_is_counted_with_its_answer(quiet: RunningEmulator) -> None:
    url = f"{quiet.base_url}/emulator/requests"
    with client(quiet) as http:
        before = http.get(url).json()["counts"]
        http.get("/status/nobody")
        http.get("/status/nobody")
        http.get("/health")
        found = http.get(url).json()
        assert found["counts"]["status"]["404"] == before.get("status", {}).get("404", 0) + 2
        assert found["counts"]["health"]["200"] == before.get("health", {}).get("200", 0) + 1
        assert [one["operation"] for one in found["last"]][-3:] == ["status", "status", "health"]
        times_s = [one["at_s"] for one in found["last"][-3:]]
        assert times_s == sorted(times_s)
        assert httpx.get(url).status_code == 401


def test_a_log_counts_all_and_keeps_the_last() -> None:
    log = RequestLog()
    for number in range(MOST_KEPT + 5):
        log.note(float(number), "run", 429 if number < 5 else 200)
    assert log.count("run") == MOST_KEPT + 5
    assert (log.count("run", 429), log.count("run", 500), log.count("status")) == (5, 0, 0)
    assert [asked.at_s for asked in log.last("run")[:1]] == [5.0]
    assert log.last("status") == []
