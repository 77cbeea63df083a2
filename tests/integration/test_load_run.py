"""Whole load tests in this process, against servers in others."""

import asyncio
import socket
import threading
import time

import psutil
import pytest
from click.testing import CliRunner

from answering import answering, command
from recording_factory import a_recording
from visiondyno.cli.loadtest import command as loadtest
from visiondyno.errors import SpecError, Unavailable
from visiondyno.loadtest.cold_start import CommandStart
from visiondyno.loadtest.reaching import reach
from visiondyno.loadtest.run import RunProgress, run_cold_starts, run_load_test
from visiondyno.loadtest.targets import prepare_target
from visiondyno.report.load_test_files import read_load_test
from visiondyno.specs.load_test import (
    ClosedLoad,
    ConstantLoad,
    LoadTestSpec,
    PoissonLoad,
    Pricing,
    TargetSpec,
    WatchedMetrics,
    WatchedProcess,
)


@pytest.fixture(scope="module")
def server():
    with answering() as (url, pid):
        yield url, pid


def load(rate_per_s=40.0, duration_s=0.5):
    return ConstantLoad(rate_per_s=rate_per_s, duration_s=duration_s)


def test_targets_rounds_pauses_and_notes_come_together(server):
    url, pid = server
    with answering("--bad-every", "2") as (bad, _):
        spec = LoadTestSpec(
            targets=(
                TargetSpec(url=url, watch=WatchedProcess(pid=pid),
                           pricing=Pricing(usd_per_hour=3.6)),
                TargetSpec(url=url),
                TargetSpec(url=bad),
            ),
            load=load(), rounds=2, pause_s=0.01, warmup_requests=4,
        )  # fmt: skip
        told: list[RunProgress] = []
        result = asyncio.run(run_load_test(spec, told.append))
    names = [target.name for target in result.targets]
    assert names[1] == f"{names[0]} (2)"
    assert [len(target.rounds) for target in result.targets] == [2, 2, 2]
    assert result.targets[0].resources_measures["peak_memory_bytes"].value > 0
    assert result.targets[0].cost_usd_per_1000_requests.value > 0
    assert result.targets[1].resources_measures == {}
    assert result.targets[2].notes == (
        "Of 4 warm-up requests 2 had a good answer (status 200, 503)",
    )
    assert result.targets[2].measures["error_fraction"].value == 0.5
    low, high = result.targets[2].measures["error_fraction"].interval
    assert 0 <= low <= 0.5 <= high <= 1
    assert {one.target for one in result.differences} == set(names[1:])
    stages = list(dict.fromkeys((one.stage, one.target) for one in told))
    assert ("pausing", "") in stages
    assert stages.index(("round 2 of 2", names[2])) < stages.index(("round 2 of 2", names[0]))
    last = [one.progress for one in told if one.progress is not None][-1]
    assert last.total == 20


def test_a_random_round_without_requests_costs_no_other_round(server):
    spec = LoadTestSpec(
        targets=(TargetSpec(url=server[0]),), load=PoissonLoad(rate_per_s=4, duration_s=0.25),
        rounds=6, warmup_requests=0,
    )  # fmt: skip
    (target,) = asyncio.run(run_load_test(spec)).targets
    empty = [note for note in target.notes if "held no request" in note]
    assert len(empty) == 6 - len(target.rounds)
    assert 0 < len(target.rounds) < 6


def test_a_target_is_watched_under_the_load_and_not_while_generators_start(server):
    url, pid = server
    watched = TargetSpec(url=f"{url}/?token=abcd1234", watch=WatchedProcess(pid=pid))
    spec = LoadTestSpec(targets=(watched,), load=load(duration_s=0.5), warmup_requests=0)
    ready: list[float] = []

    def sending(target, load, *, when_ready, **options):
        time.sleep(0.5)
        ready.append(time.monotonic())
        when_ready()
        return a_recording([5.0] * 20, rate_per_s=40)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("visiondyno.loadtest.run.run_in_processes", sending)
        (target,) = asyncio.run(run_load_test(spec)).targets
    under_load_s = time.monotonic() - ready[0]
    assert target.rounds[0].resources.samples[-1].at_s < under_load_s


def test_a_search_keeps_the_round_at_the_best_rate():
    stop = threading.Event()

    def show(at: RunProgress) -> None:
        if at.stage.startswith("try 4"):
            stop.set()

    with answering("--serial", "--delay-ms", "1") as (url, _):
        spec = LoadTestSpec(
            targets=(TargetSpec(url=url),), load=load(rate_per_s=500.0), find_rate=True,
            latency_limit_ms=100.0, warmup_requests=0,
        )  # fmt: skip
        result = asyncio.run(run_load_test(spec, show, stop))
    (target,) = result.targets
    held = [one.rate_per_s for one in target.search.tries if one.held]
    assert len(target.search.tries) == 3
    assert target.search.best_rate_per_s == (max(held) if held else None)
    (one,) = target.rounds
    if held:
        assert one.measures["offered_requests_per_s"].value == pytest.approx(max(held), rel=0.02)
    assert one.requests >= 662
    assert result.differences == ()


def test_several_searches_are_not_compared(server):
    stop = threading.Event()

    def show(at: RunProgress) -> None:
        if at.stage.startswith("try 2"):
            stop.set()

    url, _ = server
    spec = LoadTestSpec(
        targets=(TargetSpec(url=url), TargetSpec(url=url)), load=load(rate_per_s=1000.0),
        find_rate=True, latency_limit_ms=0.01, warmup_requests=0,
    )  # fmt: skip
    result = asyncio.run(run_load_test(spec, show, stop))
    assert len(result.targets[0].search.tries) == 1
    assert result.targets[1].search is None
    assert result.targets[1].rounds == ()
    assert "aren't compared" in result.notes[0]


def test_a_test_that_was_stopped_at_once_measured_nothing(server):
    stop = threading.Event()
    stop.set()
    spec = LoadTestSpec(targets=(TargetSpec(url=server[0]),), load=load())
    result = asyncio.run(run_load_test(spec, stop=stop))
    assert result.was_stopped
    assert result.targets[0].rounds == ()
    assert result.targets[0].measures == {}


def test_a_stop_in_the_warm_up_sends_no_round(server):
    stop = threading.Event()

    class Clicks:
        def __call__(self, at: RunProgress) -> None:
            if at.stage == "looking at this machine":
                threading.Timer(0.7, stop.set).start()

    with answering("--delay-ms", "400") as (url, _):
        spec = LoadTestSpec(targets=(TargetSpec(url=url),), load=load(), warmup_requests=1000)
        result = asyncio.run(run_load_test(spec, Clicks(), stop))
    assert result.targets[0].rounds == ()
    assert result.targets[0].notes == ()


def test_a_generator_that_is_killed_later_loses_no_earlier_round(server):
    killed = []

    def show(at: RunProgress) -> None:
        if at.stage == "round 2 of 2" and at.progress is not None and not killed:
            for child in psutil.Process().children():
                if any("generator_process" in part for part in child.cmdline()):
                    killed.append(child.pid)
                    child.kill()

    spec = LoadTestSpec(
        targets=(TargetSpec(url=server[0]),), load=load(duration_s=3.0), rounds=2,
        warmup_requests=0,
    )  # fmt: skip
    result = asyncio.run(run_load_test(spec, show))
    assert killed
    assert len(result.targets[0].rounds) == 1
    assert "The test ended in round 2" in result.notes[0]


def test_metrics_that_are_not_there_are_said_before_the_first_round(server):
    told = []
    spec = LoadTestSpec(
        targets=(TargetSpec(url=server[0], watch=WatchedMetrics(url="http://127.0.0.1:1/m")),),
        load=load(),
    )
    with pytest.raises(Unavailable):
        asyncio.run(run_load_test(spec, told.append))
    assert {one.stage for one in told} == {"reaching"}


def test_a_server_without_tls_is_said(server):
    target = prepare_target(TargetSpec(url=server[0].replace("http:", "https:")))
    with pytest.raises(Unavailable, match=r"the connection ended while it was opened"):
        asyncio.run(reach(target))


def test_a_server_that_answers_something_else_than_tls_is_said():
    async def scenario() -> None:
        async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 not a web server\r\n")
            writer.close()

        async with await asyncio.start_server(greet, "127.0.0.1", 0) as one:
            port = one.sockets[0].getsockname()[1]
            await reach(prepare_target(TargetSpec(url=f"https://127.0.0.1:{port}/")))

    with pytest.raises(Unavailable, match=r"can't be reached \(TLS: "):
        asyncio.run(scenario())


def test_a_schedule_that_holds_no_request_is_said(server):
    spec = LoadTestSpec(
        targets=(TargetSpec(url=server[0]),), load=PoissonLoad(rate_per_s=0.001, duration_s=0.5),
        warmup_requests=0,
    )  # fmt: skip
    with pytest.raises(SpecError, match="holds no request"):
        asyncio.run(run_load_test(spec))


def test_fewer_processes_than_asked_for_are_noted(server):
    spec = LoadTestSpec(
        targets=(TargetSpec(url=server[0]),), load=ClosedLoad(concurrency=1, requests=10),
        generators=2, warmup_requests=0,
    )  # fmt: skip
    result = asyncio.run(run_load_test(spec))
    assert "fewer generator processes" in result.targets[0].notes[0]
    assert result.targets[0].rounds[0].requests == 10


def test_a_name_whose_addresses_all_refuse_is_said():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        target = prepare_target(TargetSpec(url=f"http://localhost:{unused.getsockname()[1]}/"))
        with pytest.raises(Unavailable, match="connection refused"):
            asyncio.run(reach(target))


def test_a_cold_start_is_of_one_target(server):
    spec = LoadTestSpec(targets=(TargetSpec(url=server[0]), TargetSpec(url=server[0])))
    with pytest.raises(SpecError, match="one target"):
        asyncio.run(run_cold_starts(spec, CommandStart("true", log=None)))


def test_a_cold_start_that_is_stopped_leaves_nothing(tmp_path):
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    stop = threading.Event()
    spec = LoadTestSpec(targets=(TargetSpec(url=f"http://127.0.0.1:{port}/"),))
    how = CommandStart(command(port, "--begin-s", "60"), log=tmp_path / "log")

    def show(at: RunProgress) -> None:
        if at.stage.startswith("cold start"):
            threading.Timer(0.5, stop.set).start()

    began = time.monotonic()
    result = asyncio.run(run_cold_starts(spec, how, 3, show, stop))
    assert time.monotonic() - began < 50
    assert result.targets[0].cold_starts == ()
    assert result.was_stopped
    assert not [
        one for one in psutil.process_iter(["cmdline"])
        if one.info["cmdline"] and str(port) in one.info["cmdline"]
    ]  # fmt: skip


def invoked(*arguments, code=0):
    done = CliRunner().invoke(loadtest, [str(one) for one in arguments], standalone_mode=False)
    if code is None:
        return done
    assert done.exception is None, done.exception
    assert done.return_value == code
    return done


def test_the_command_itself_runs_writes_and_judges(server, tmp_path):
    out = tmp_path / "out"
    done = invoked(
        server[0], "--rate", 40, "--duration", "500ms", "--warmup", 0, "--out", out,
        "--json-out", tmp_path / "record.json", "--fail-if", "errors>1%",
    )  # fmt: skip
    assert "Answers: 2xx 20" in done.output
    assert read_load_test(out) == read_load_test(tmp_path / "record.json")
    failed = invoked(
        server[0], "--rate", 40, "--duration", "500ms", "--warmup", 0, "--out", out,
        "--json-out", "-", "--fail-if", "p50<1h", code=None,
    )  # fmt: skip
    assert "isn't given in 'h'" in failed.exception.message
    failed = invoked(
        server[0], "--rate", 40, "--duration", "500ms", "--warmup", 0, "--out", out,
        "--json-out", "-", "--fail-if", "p50<1000s", code=None,
    )  # fmt: skip
    assert failed.exception.exit_code == 3


def test_what_cannot_be_written_later_is_refused_before_anything_is_sent(server, tmp_path):
    missing = tmp_path / "missing" / "record.json"
    failed = invoked(server[0], "--out", tmp_path, "--json-out", missing, code=None)
    assert "choose another with --json-out" in failed.exception.message
    assert list(tmp_path.iterdir()) == []


def test_a_report_that_cannot_be_written_loses_neither_the_table_nor_the_record(server, tmp_path):
    out, record = tmp_path / "out", tmp_path / "record.json"
    (out / "loadtest.html").mkdir(parents=True)
    failed = invoked(
        server[0], "--closed", 2, "--requests", 20, "--warmup", 0, "--out", out, "--json-out",
        record, code=None,
    )  # fmt: skip
    assert "loadtest.html" in failed.exception.message
    assert "Answers: 2xx 20" in failed.output
    assert "kept its schedule" not in failed.output
    assert read_load_test(record).targets[0].rounds[0].requests == 20


def test_the_command_measures_cold_starts_and_writes_plans(tmp_path):
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    done = invoked(
        url, "--cold-start", "--command", command(port), "--out", tmp_path / "out",
        "--fail-if", "cold-start>10m", code=None,
    )  # fmt: skip
    assert "isn't given in 'm'" in done.exception.message
    done = invoked(url, "--cold-start", "--command", command(port), "--out", tmp_path / "out")
    assert "cold start" in done.output
    done = invoked(url, "--export-jmeter", tmp_path / "plan.jmx")
    assert "jmeter -n -t" in done.output


def test_a_service_that_idles_is_asked_after_the_wait(server, tmp_path):
    done = invoked(server[0], "--cold-start", "--idle-wait", "10ms", "--out", tmp_path / "out")
    assert "nobody told its parts" in done.output
    (one,) = read_load_test(tmp_path / "out").targets[0].cold_starts
    assert one.kind == "idle"
    assert one.total_ms > 0
    refused = invoked(
        server[0], "--cold-start", "--idle-wait", "10ms", "--watch", "prometheus",
        "--out", tmp_path / "out", code=None,
    )  # fmt: skip
    assert "/metrics" in refused.exception.message
