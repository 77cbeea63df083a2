"""`dyno loadtest` against real servers in other processes."""

import json
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time

import pytest
import yaml

from answering import answering, command
from visiondyno.report.load_test import LoadTestResult
from visiondyno.report.load_test_files import load_test_json, read_load_test

DYNO = [
    sys.executable,
    "-c",
    "from visiondyno.cli import main; main()",
    "loadtest",
]


def dyno(*arguments, cwd, code=0):
    done = subprocess.run(
        [*DYNO, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="module")
def steady():
    with answering() as (url, pid):
        yield url, pid


@pytest.fixture(scope="module")
def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_one_target_has_every_form_and_no_secret_in_any(steady, tmp_path):
    url, pid = steady
    done = dyno(
        f"{url}/predict?api_key=abcd1234", "--rate", 50, "--duration", "2s",
        "--json", '{"a": 1}', "--header", "Authorization: Bearer topsecret",
        "--watch", f"pid:{pid}", "--price-per-hour", "0.36", "--fail-if", "errors>1%",
        "--json-out", "record.json", cwd=tmp_path,
    )  # fmt: skip
    assert "open loop, 50.0 requests/s for 2.00 s" in done.stdout
    assert "Answers: 2xx 100" in done.stdout
    out = tmp_path / "dyno-loadtest"
    result = read_load_test(out)
    (target,) = result.targets
    (one,) = target.rounds
    assert one.requests == 100
    assert one.measures["error_fraction"].value == 0
    assert one.measures["latency_p50_ms"].value >= 2
    assert one.stages["inference"].value == 1.5
    assert one.resources.cpu_cores_mean.value >= 0
    assert one.resources.peak_memory_bytes.value > 2**20
    cost = target.cost_usd_per_1000_requests
    # A round is no shorter than its schedule of two seconds.
    assert cost.value == pytest.approx(1000 * 0.36 / 3600 * max(one.elapsed_s, 2) / 100)
    assert result.environment["cpu_count"] >= 1
    assert read_load_test(tmp_path / "record.json") == result
    for file in (*out.iterdir(), tmp_path / "record.json"):
        text = file.read_text()
        assert "topsecret" not in text
        assert "abcd1234" not in text
    assert "topsecret" not in done.stdout + done.stderr


def test_a_report_is_repeated_from_its_spec_but_for_the_secrets(steady, tmp_path):
    url, _ = steady
    dyno(url, "--rate", 20, "--duration", "1s", "--header", "X-Token: t0psecret", "--name", "it",
         "--warmup", 0, cwd=tmp_path)  # fmt: skip
    file = tmp_path / "dyno-loadtest/spec.yaml"
    fields = yaml.safe_load(file.read_text())
    assert fields["load"] == {"kind": "constant", "rate_per_s": 20.0, "duration_s": 1.0}
    refused = dyno("--config", file, "--out", "again", cwd=tmp_path, code=2)
    assert "give it again with --header 'X-Token: …'" in refused.stderr
    done = dyno(
        "--config", file, "--out", "again", "--header", "X-Token: t0psecret", "--rate", 40,
        cwd=tmp_path,
    )  # fmt: skip
    assert "it" in done.stdout
    assert read_load_test(tmp_path / "again").targets[0].rounds[0].requests == 40


def test_two_targets_take_turns_and_are_compared(steady, tmp_path):
    url, _ = steady
    with answering("--delay-ms", "40", "--bad-every", "10") as (slow, _):
        done = dyno(
            url, slow, "--rate", 40, "--duration", "1s", "--rounds", 3, "--name", "quick",
            "--name", "slow", "--fail-if", "errors>1%", "--warmup", 0,
            cwd=tmp_path, code=3,
        )  # fmt: skip
    assert "slow: errors>1%" in done.stderr
    assert "quick: errors" not in done.stderr
    turns = [line for line in done.stderr.splitlines() if line.startswith("round ")]
    assert [line[-5:].strip() for line in turns] == [
        "quick", "slow", "slow", "quick", "quick", "slow",
    ]  # fmt: skip
    result = read_load_test(tmp_path / "dyno-loadtest")
    assert "latency_p50_ms" in {one.measure for one in result.differences}
    # A pause of the machine may fill one round; it doesn't fill two.
    quick_ms, slow_ms = (
        statistics.median(one.measures["latency_p50_ms"].value for one in target.rounds)
        for target in result.targets
    )
    assert slow_ms - quick_ms > 10
    assert result.targets[1].measures["error_fraction"].value > 0.05
    assert result.targets[1].notes == ()
    assert "503" in result.targets[1].rounds[0].status_codes


def test_only_json_goes_to_standard_output_where_that_was_asked(steady, tmp_path):
    url, _ = steady
    done = dyno(url, "--closed", 2, "--requests", 20, "--json-out", "-", cwd=tmp_path)
    result = LoadTestResult.model_validate(json.loads(done.stdout))
    assert result.targets[0].rounds[0].requests == 20
    assert result.targets[0].rounds[0].generator.lag_p99_ms is None
    assert "coordinated omission" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["http://127.0.0.1:1/"], "can't be reached (connection refused)"),
        (["http://no-such-host.invalid/"], "its name has no address"),
        (["ftp://host/"], "isn't http:// or https://"),
        ([], "Which target?"),
        (["http://127.0.0.1:1/", "--image", "none.jpg"], "none.jpg can't be read"),
        (["http://127.0.0.1:1/", "--fail-if", "p98>3"], "no measure of a load test"),
        (["http://127.0.0.1:1/", "--command", "true"], "belong to --cold-start"),
        (["http://127.0.0.1:1/", "--cold-start"], "needs either --command"),
        (["http://127.0.0.1:1/", "--out", "taken/below"], "can't be made"),
        (["http://127.0.0.1:1/", "--strategies", "m"], "starts servers of its own"),
        (["http://127.0.0.1:1/", "--find-rate"], "give it with --limit-p99-ms"),
        (["http://127.0.0.1:1/", "--replicas", "3"], "--replicas belongs to --strategies"),
        (["http://127.0.0.1:1/", "--idle-timeout", "3s"], "--idle-timeout belongs to"),
        (["http://127.0.0.1:1/", "--repeat", "3"], "--repeat belongs to --cold-start and"),
        (["http://127.0.0.1:1/", "--record", "loadtest.json"], "leave URLs and its flags out"),
        (["--record", "none.json"], "none.json"),
    ],
)
def test_what_cannot_be_ends_before_any_round(arguments, said, tmp_path):
    (tmp_path / "taken").write_text("a file")
    done = dyno(*arguments, cwd=tmp_path, code=2)
    assert said in done.stderr
    assert "round" not in done.stderr.replace("round ends", "")
    assert "Traceback" not in done.stderr


def test_a_record_of_another_machine_becomes_a_report_again(tmp_path):
    from load_test_factory import a_result, a_target

    result = a_result(a_target("far-away"))
    record = tmp_path / "there.json"
    record.write_text(load_test_json(result), encoding="utf-8")
    done = dyno("--record", record, "--out", "here", cwd=tmp_path)
    assert "far-away" in done.stdout
    assert read_load_test(tmp_path / "here/loadtest.json") == result
    assert "far-away" in (tmp_path / "here/loadtest.html").read_text(encoding="utf-8")
    failed = dyno("--record", record, "--fail-if", "p99>1us", cwd=tmp_path, code=3)
    assert "far-away" in failed.stderr


def test_a_watched_process_that_is_not_there_is_said_at_once(steady, tmp_path):
    done = dyno(steady[0], "--watch", "pid:4194303", cwd=tmp_path, code=2)
    assert "4194303" in done.stderr
    assert "round 1" not in done.stderr


def test_a_schedule_without_a_request_is_said(steady, tmp_path):
    done = dyno(steady[0], "--poisson", "--rate", 0.001, "--duration", "1s", cwd=tmp_path, code=2)
    assert "holds no request" in done.stderr


@pytest.mark.parametrize(
    ("number", "times"), [(signal.SIGINT, 1), (signal.SIGTERM, 2)], ids=["ctrl-c", "timeout"]
)
def test_a_stop_keeps_what_was_measured(steady, tmp_path, number, times):
    url, _ = steady
    process = subprocess.Popen(
        [*DYNO, url, "--rate", "50", "--duration", "5m", "--rounds", "3"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        for line in process.stderr:
            if line.startswith("round 1"):
                break

        def stop():
            for _ in range(times):
                process.send_signal(number)
                time.sleep(0.05)

        threading.Timer(1.5, stop).start()
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "It was stopped" in out
    result = read_load_test(tmp_path / "dyno-loadtest")
    (one,) = result.targets[0].rounds
    assert result.was_stopped
    assert 0 < one.outcomes["good"] < 1000
    assert one.outcomes["not_sent"] > 10_000
    assert one.measures["latency_p50_ms"].value is not None


def test_answers_that_never_come_are_timeouts_not_latencies(tmp_path):
    with answering("--never-after", "60") as (url, _):
        dyno(url, "--rate", 50, "--duration", "2s", "--timeout", "3s", "--warmup", 0,
             cwd=tmp_path)  # fmt: skip
    (one,) = read_load_test(tmp_path / "dyno-loadtest").targets[0].rounds
    assert one.status_classes["timeouts"] == 40
    assert one.measures["latency_p50_ms"].value < 3000
    p99 = one.measures["latency_p99_ms"]
    assert p99.value is None
    assert "at least 3000 ms" in p99.reason


def test_a_search_that_is_stopped_keeps_its_tries(steady, tmp_path):
    # A server that takes 2 ms holds no limit of half a millisecond; low rates would take minutes.
    process = subprocess.Popen(
        [*DYNO, steady[0], "--rate", "2000", "--duration", "100ms", "--find-rate",
         "--limit-p99-ms", "0.5", "--warmup", "0"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        for line in process.stderr:
            if line.startswith("try 3, 500 requests/s"):
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "no rate that was tried" in out
    target = read_load_test(tmp_path / "dyno-loadtest").targets[0]
    assert target.search.best_rate_per_s is None
    # The third, at which it was stopped, counts only where the signal came after it.
    assert [one.rate_per_s for one in target.search.tries][:2] == [2000, 1000]
    assert len(target.search.tries) <= 3
    assert not any(one.held for one in target.search.tries)
    assert len(target.rounds) == 1
    assert any("No rate held" in note for note in target.notes)


def test_a_cold_start_of_a_command_is_measured_and_nothing_is_left(tmp_path, free_port):
    done = dyno(
        f"http://127.0.0.1:{free_port}/", "--cold-start",
        "--command", command(free_port, "--begin-s", "0.3"), "--repeat", 2, cwd=tmp_path,
    )  # fmt: skip
    assert "cold start" in done.stdout
    result = read_load_test(tmp_path / "dyno-loadtest")
    starts = result.targets[0].cold_starts
    assert len(starts) == 2
    assert all(one.total_ms > 300 and one.kind == "process" for one in starts)
    assert result.targets[0].rounds == ()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", free_port)) != 0


def test_a_plan_for_jmeter_is_written_instead_of_running(tmp_path):
    done = dyno("http://host.invalid/predict", "--export-jmeter", "plan.jmx", cwd=tmp_path)
    assert "Wrote plan.jmx" in done.stdout
    assert "OpenModelThreadGroup" in (tmp_path / "plan.jmx").read_text()
    assert not (tmp_path / "dyno-loadtest").exists()


def test_the_second_ctrl_c_gives_up(steady, tmp_path):
    # Answers that never come keep the first Ctrl-C busy for its second of grace.
    with answering("--never-after", "0") as (url, _):
        process = subprocess.Popen(
            [*DYNO, url, "--rate", "50", "--duration", "5m", "--warmup", "0"],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            for line in process.stderr:
                if line.startswith("round 1"):
                    break
            time.sleep(1)
            process.send_signal(signal.SIGINT)
            for line in process.stderr:
                if line.startswith("Stopping"):
                    break
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Interrupted" in err
    assert not list((tmp_path / "dyno-loadtest").iterdir())
