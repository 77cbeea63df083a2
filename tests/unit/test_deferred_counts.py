"""Counts that are made when they are read: none lost, none twice, none late for a reader."""

import threading

from prometheus_client import CollectorRegistry, generate_latest

from visiondyno.api.deferred import Deferred
from visiondyno.api.http_metrics import HttpMetrics


def test_a_scrape_sees_every_request_before_it() -> None:
    registry = CollectorRegistry()
    metrics = HttpMetrics(registry)
    labels = {"method": "POST", "route": "/predict", "status": "200"}
    for number in range(1, 1000):
        metrics.observe("POST", "/predict", 200, 0.01)
        if number % 97 == 0:
            found = registry.get_sample_value("visiondyno_http_requests_total", labels)
            assert found == number
    assert b'method="POST",route="/predict",status="200"} 999.0' in generate_latest(registry)


def test_calls_are_made_in_order_and_without_a_reader_when_there_are_many() -> None:
    deferred = Deferred(CollectorRegistry())
    made: list[int] = []
    for number in range(255):
        deferred.later(made.append, number)
    assert not made
    deferred.later(made.append, 255)
    assert made == list(range(256))


def test_readers_on_other_threads_lose_no_call_and_make_none_twice() -> None:
    registry = CollectorRegistry()
    deferred = Deferred(registry)
    made: list[int] = []
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            generate_latest(registry)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for one in readers:
        one.start()
    for number in range(20_000):
        deferred.later(made.append, number)
    over.set()
    for one in readers:
        one.join()
    deferred.flush()
    assert sorted(made) == list(range(20_000))
