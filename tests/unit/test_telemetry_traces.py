"""Whether traces are sent, and what is said where they can't be."""

import logging
import socket
import subprocess
import sys

import pytest

from visiondyno.telemetry.ids import bound, bound_ids
from visiondyno.telemetry.traces import Stage, Tracing, start_tracing

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {**ENDPOINT, "OTEL_SDK_DISABLED": "True"},
        {**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"},
    ],
    ids=["unset", "empty", "sdk-disabled", "no-exporter"],
)
def test_no_traces_where_none_are_asked_for(
    environ: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    assert not start_tracing("visiondyno", environ).is_on
    assert not caplog.records


def test_another_protocol_is_said_and_not_sent(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        tracing = start_tracing("visiondyno", {**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
    assert not tracing.is_on
    (entry,) = caplog.records
    assert "is 'grpc', and only http/protobuf" in entry.getMessage()


_WITHOUT_EXTRA = """
import logging, sys
logging.basicConfig(format="%(message)s")
sys.modules["opentelemetry"] = None
from visiondyno.telemetry.traces import start_tracing
tracing = start_tracing("visiondyno")
print(tracing.is_on)
tracing.close()
"""


def test_an_endpoint_without_the_extra_is_said_in_one_line() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _WITHOUT_EXTRA],
        env=ENDPOINT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == "False\n"
    (line,) = ran.stderr.splitlines()
    assert "pip install 'visiondyno[otel]'" in line


def test_nothing_is_imported_where_no_traces_are_sent() -> None:
    code = """
import sys
from visiondyno.telemetry.traces import Stage, start_tracing
tracing = start_tracing("visiondyno")
with tracing.request("GET", {"traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01"}, {}):
    tracing.record_stages([Stage("a", 0.0, 1.0)])
tracing.record_request_span(Stage("b", 0.0, 1.0))
tracing.record_job(Stage("c", 0.0, 1.0), [], is_error=False)
tracing.close()
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], env={}, capture_output=True, text=True, check=True
    )
    assert ran.stdout == "[]\n"


def test_without_traces_no_id_is_bound() -> None:
    with bound(request_id="r"), Tracing(None).request("GET", {}, {}) as span:
        span.answered("GET", "/", 500, {})
        assert bound_ids() == {"request_id": "r"}


def test_a_collector_that_does_not_answer_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        tracing = start_tracing("visiondyno")
        tracing.record_request_span(Stage("a", 0.0, 1.0))
        tracing.close(within_s=0.05)
    assert "spans are lost" in caplog.text


def test_a_stage_has_no_attributes_by_itself() -> None:
    assert Stage("queue", 1.0, 2.0).attributes == {}
