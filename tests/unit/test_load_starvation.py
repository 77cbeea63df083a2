"""A generator that waited for a processor says so, in a closed loop too."""

import pytest

from recording_factory import a_recording
from visiondyno.loadtest import starvation
from visiondyno.loadtest.bottleneck import generator_facts
from visiondyno.loadtest.starvation import STARVED, Starvation, is_starved, times_ns


def test_the_kernel_tells_of_this_thread():
    before = times_ns()
    sum(range(200_000))
    after = times_ns()
    assert after[0] >= before[0] > 0
    assert after[1] >= before[1] >= 0


def test_a_tenth_of_the_time_is_too_much():
    assert is_starved(11, 100)
    assert not is_starved(10, 100)
    assert not is_starved(0, 0)


def test_waiting_counts_from_the_begin(tmp_path, monkeypatch):
    told = tmp_path / "schedstat"
    monkeypatch.setattr(starvation, "_SCHEDSTAT", told)
    told.write_text("500 7000000000000 3\n")
    since = Starvation()
    assert not since.is_seen()
    told.write_text("600 8000000000000 4\n")  # 1,000 s more
    assert since.is_seen()


@pytest.mark.parametrize("text", [None, "", "1 2", "a b c"])
def test_where_nobody_tells_nothing_is_claimed(tmp_path, monkeypatch, text):
    if text is not None:
        (tmp_path / "schedstat").write_text(text)
    monkeypatch.setattr(starvation, "_SCHEDSTAT", tmp_path / "schedstat")
    assert times_ns() is None
    assert not Starvation().is_seen()


def test_a_starved_closed_loop_was_the_limit():
    recording = a_recording([5.0] * 100)
    assert not generator_facts(recording, is_open=False, processes=1, connections=None).why
    recording.notes[STARVED] = 1
    facts = generator_facts(recording, is_open=False, processes=1, connections=None)
    assert facts.was_bottleneck
    assert facts.why.startswith("The generator waited for a processor")
