"""When the generator itself was the limit, and what is said then."""

from recording_factory import a_recording
from visiondyno.loadtest.bottleneck import generator_facts, most_in_flight
from visiondyno.loadtest.recording import Outcome


def facts_of(recording, *, is_open=True, processes=1, connections=None):
    return generator_facts(recording, is_open=is_open, processes=processes, connections=connections)


def test_a_punctual_generator_is_no_bottleneck():
    facts = facts_of(a_recording([20.0] * 300))
    assert not facts.was_bottleneck
    assert facts.why is None
    assert facts.lag_p99_ms == 0.05
    assert 0 < facts.cpu_cores < 0.1


def test_lag_counts_against_the_size_of_the_latency():
    slow = facts_of(a_recording([200.0] * 300, lag_ms=5.0))
    quick = facts_of(a_recording([20.0] * 300, lag_ms=5.0))
    assert not slow.was_bottleneck
    assert quick.was_bottleneck
    assert "--generators 2" in quick.why


def test_lag_under_a_millisecond_judges_nobody():
    assert not facts_of(a_recording([1.0] * 300, lag_ms=0.9)).was_bottleneck


def test_the_targets_handshakes_are_not_the_generators_lag():
    facts = facts_of(a_recording([20.0] * 300, handshake_ms=15.0, connected=lambda _: True))
    assert not facts.was_bottleneck
    assert facts.lag_p99_ms == 0.05


def test_a_full_processor_is_said():
    facts = facts_of(a_recording([20.0] * 300, cpu_s=28.0))
    assert facts.was_bottleneck
    assert "0.94 of its 1 cores" in facts.why or "0.93 of its 1 cores" in facts.why
    assert not facts_of(a_recording([20.0] * 300, cpu_s=28.0), processes=2).was_bottleneck


def test_waiting_for_a_connection_names_the_limit():
    recording = a_recording([500.0] * 100, lag_ms=400.0)
    facts = facts_of(recording, connections=1)
    assert facts.why.startswith("All 1 connections were in use")
    assert "--connections" in facts.why
    assert facts_of(a_recording([20.0] * 300), connections=1).why is None


def test_file_descriptors_and_ports_that_ran_out_are_said():
    failed = {5: Outcome.CONNECT_FAILED}
    files = facts_of(a_recording([20.0] * 100, outcomes=failed, errors={"Too many open files": 1}))
    assert "ulimit -n" in files.why
    ports = facts_of(
        a_recording([20.0] * 100, outcomes=failed, errors={"Cannot assign requested address": 1})
    )
    assert "local ports" in ports.why


def test_nothing_sent_has_no_lag():
    never = dict.fromkeys(range(10), Outcome.NOT_SENT)
    recording = a_recording([0.0] * 10, outcomes=never)
    facts = facts_of(recording)
    assert facts.lag_p50_ms is None
    assert not facts.was_bottleneck
    assert most_in_flight(recording) == 0


def test_requests_without_an_answer_judge_no_lag():
    cut = dict.fromkeys(range(100), Outcome.CUT)
    assert not facts_of(a_recording([2.0] * 100, lag_ms=1.5, outcomes=cut)).was_bottleneck


def test_the_most_in_flight_counts_overlaps():
    assert most_in_flight(a_recording([450.0] * 50, lag_ms=0.0)) == 5
    assert most_in_flight(a_recording([100.0] * 50, lag_ms=0.0)) == 1
