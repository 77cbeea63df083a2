"""Pages of metrics: what is taken from them, what isn't one, and replicas that are replaced."""

import asyncio

import httpx
import pytest

from scripted_server import Scripted
from stepped_clock import SteppedClock
from visiondyno.errors import SpecError, Unavailable
from visiondyno.loadtest.watching import prometheus
from visiondyno.loadtest.watching.prometheus import (
    PrometheusWatcher,
    metrics_client,
    parse_page,
    public_address,
    read_page,
)

URL = "http://target/metrics"
PLAIN = """# HELP process_cpu_seconds_total Total user and system CPU time spent in seconds.
# TYPE process_cpu_seconds_total counter
process_cpu_seconds_total {cpu}
# TYPE process_resident_memory_bytes gauge
process_resident_memory_bytes {memory}
"""


def page_of_a_server(front=1.0, replicas=None, ready=2) -> str:
    lines = [PLAIN.format(cpu=front, memory="1e+08")]
    lines.append("# TYPE visiondyno_replica_cpu_seconds_total counter")
    for name, (cpu_s, size) in (replicas or {}).items():
        lines.append(f'visiondyno_replica_cpu_seconds_total{{replica="{name}"}} {cpu_s}')
        lines.append(f'visiondyno_replica_resident_bytes{{replica="{name}"}} {size}')
    lines.append(f'visiondyno_replicas{{state="ready"}} {ready}')
    lines.append('visiondyno_replicas{state="starting"} 1')
    lines.append('visiondyno_replicas_limit{bound="most"} 99')
    lines.append("# TYPE visiondyno_cold_start_seconds histogram")
    lines.append('visiondyno_cold_start_seconds_bucket{phase="load",le="+Inf"} 2')
    lines.append('visiondyno_cold_start_seconds_sum{phase="load"} 0.5')
    lines.append('visiondyno_cold_start_seconds_count{phase="load"} 2')
    lines.append('something_else_total{kind="a"} 4')
    return "\n".join([*lines, ""])


def watched(*pages: str | httpx.Response | Exception, seconds=2.0):
    answers = [httpx.Response(200, text=page) if isinstance(page, str) else page for page in pages]

    async def main():
        clock = SteppedClock()
        script = Scripted(*answers)
        watcher = PrometheusWatcher(
            URL, 1.0, clock.clock, client=lambda: httpx.AsyncClient(transport=script)
        )
        await watcher.start()
        for _ in range(len(answers) - 2):
            clock.now_s += seconds
            await watcher._look(watcher._window)
        clock.now_s += seconds
        return await watcher.stop()

    return asyncio.run(main())


def test_a_page_of_a_server_is_read_whole():
    page = parse_page(page_of_a_server(2.5, {"0": (7, 2e8), "1": (3, 1e8)}).encode(), URL)
    assert sorted(page.cpu_s.values()) == [2.5, 3, 7]
    assert page.memory_bytes == 400_000_000
    assert page.replicas == {"ready": 2, "starting": 1}
    assert page.cold_starts == {"load": (0.5, 2)}


def test_a_page_without_what_is_wanted_is_a_page_with_nothing():
    page = parse_page(b"# a comment\nother_metric 3\n", URL)
    assert page.cpu_s == {}
    assert page.memory_bytes is None
    assert page.replicas == {}
    assert page.cold_starts == {}


def test_a_value_that_is_no_number_is_none():
    page = parse_page(b"process_cpu_seconds_total NaN\nprocess_resident_memory_bytes 1\n", URL)
    assert page.cpu_s == {}
    assert page.memory_bytes == 1


@pytest.mark.parametrize(
    "body",
    [b"<html><body>hello</body></html>", b'{"status": "ok"}', b"", b"# nothing\n", b"\xff\xfe\x00"],
    ids=["html", "json", "empty", "comments", "binary"],
)
def test_another_page_is_said_not_to_be_prometheus(body):
    with pytest.raises(SpecError, match=r"http://target/metrics isn't in Prometheus' text format"):
        parse_page(body, URL)


def test_front_and_replicas_are_added_and_a_replaced_replica_loses_nothing():
    found = watched(
        page_of_a_server(10, {"0": (5, 1e8), "1": (100, 1e8)}),
        page_of_a_server(11, {"0": (6, 1e8), "1": (101, 3e8)}),
        # Replica 1 was replaced, and 2 is new.
        page_of_a_server(12, {"0": (7, 1e8), "1": (0.5, 1e8), "2": (0.25, 1e8)}, ready=3),
    )
    # 3 of front and replica 0 a step, then 0.5 + 0.25.
    assert found.cpu_cores_mean.value == pytest.approx((3 + 2 + 0.75) / 4)
    assert found.peak_memory_bytes.value == 500_000_000
    assert [sample.replicas for sample in found.samples] == [2, 2, 3]
    assert "visiondyno_replica_cpu_seconds_total" in found.cpu_cores_mean.method


def test_what_is_told_of_the_address_has_no_secret():
    url = "http://ann:s3cretpass@target/metrics?token=abcd1234&a=b"
    assert PrometheusWatcher(url)._source().startswith("metrics of http://target/metrics?token=%28")
    for text in (PrometheusWatcher(url)._source(), public_address("http://[x/?token=abcd1234")):
        assert "s3cretpass" not in text
        assert "abcd1234" not in text


def test_any_programs_process_metrics_are_enough():
    found = watched(PLAIN.format(cpu=1, memory=5e6), PLAIN.format(cpu=4, memory=6e6))
    assert found.cpu_cores_mean.value == pytest.approx(1.5)
    assert found.peak_memory_bytes.value == 6e6
    assert found.samples[0].replicas is None


def test_an_answer_that_fails_is_a_sample_of_none():
    found = watched(
        PLAIN.format(cpu=1, memory=5e6),
        httpx.ConnectError("refused"),
        PLAIN.format(cpu=5, memory=6e6),
    )
    assert [sample.memory_bytes for sample in found.samples] == [5e6, None, 6e6]
    assert found.cpu_cores_mean.value == 1.0
    assert "1 of 3 readings failed: The page of metrics" in found.cpu_cores_mean.method


def test_a_page_that_lacks_one_of_the_two_says_which():
    found = watched("process_cpu_seconds_total 1\n", "process_cpu_seconds_total 3\n")
    assert found.cpu_cores_mean.value == 1.0
    assert found.peak_memory_bytes.value is None
    assert "has no process_resident_memory_bytes" in found.peak_memory_bytes.reason
    found = watched("process_resident_memory_bytes 1\n")
    assert found.cpu_cores_mean.value is None
    assert "has no process_cpu_seconds_total" in found.cpu_cores_mean.reason


def checked(answer):
    async def main():
        script = Scripted(answer)
        await PrometheusWatcher(URL, client=lambda: httpx.AsyncClient(transport=script)).check()

    asyncio.run(main())


def test_the_check_says_what_is_wrong_with_the_address():
    checked(httpx.Response(200, text=page_of_a_server()))
    with pytest.raises(SpecError, match="tells neither processor time"):
        checked(httpx.Response(200, text="other 1\n"))
    with pytest.raises(Unavailable, match="answered with status 404"):
        checked(httpx.Response(404, text="nothing here"))
    with pytest.raises(Unavailable, match="can't be read: refused"):
        checked(httpx.ConnectError("refused"))
    with pytest.raises(Unavailable, match="can't be read: ReadTimeout"):
        checked(httpx.ReadTimeout(""))


def test_a_page_without_end_is_let_go(monkeypatch):
    monkeypatch.setattr(prometheus, "_MOST_BYTES", 1000)

    async def main():
        script = Scripted(httpx.Response(200, text="a 1\n" * 1000))
        async with httpx.AsyncClient(transport=script) as client:
            await read_page(client, URL)

    with pytest.raises(SpecError, match="is over"):
        asyncio.run(main())


def test_an_address_that_is_none_is_refused():
    with pytest.raises(SpecError, match="isn't a URL"):
        metrics_client("http://[half")
