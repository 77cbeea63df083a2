"""What is kept of a trial, its seed, and what failures have in common."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.tuning.trial import Failure, State, TrialRecord, trial_seed

NUMBERS = st.floats(allow_nan=False)
PARAMS = st.dictionaries(
    st.text(max_size=8), st.one_of(st.none(), st.booleans(), st.integers(), NUMBERS, st.text())
)
TIMES = st.one_of(st.none(), st.floats(0, 2e9))
RECORDS = st.builds(
    TrialRecord,
    number=st.integers(0, 10**6),
    seed=st.integers(0, 2**31 - 1),
    params=PARAMS,
    state=st.sampled_from(State),
    values=st.lists(NUMBERS, max_size=3).map(tuple),
    asked_at=st.floats(0, 2e9),
    started_at=TIMES,
    ended_at=TIMES,
    reports=st.dictionaries(st.integers(1, 99), st.lists(NUMBERS, min_size=1).map(tuple)),
    attempts=st.integers(0, 9),
    lane=st.one_of(st.none(), st.text()),
    job_id=st.one_of(st.none(), st.text()),
    worker_id=st.one_of(st.none(), st.text()),
    delay_ms=st.one_of(st.none(), st.integers(0)),
    execution_ms=st.one_of(st.none(), st.integers(0)),
    cost=st.one_of(
        st.none(),
        st.fixed_dictionaries(
            dict.fromkeys(
                ("usd_at_least", "usd_at_most"), st.floats(allow_nan=False, allow_infinity=False)
            )
        ),
    ),
    measured=st.dictionaries(st.text(max_size=4), NUMBERS),
    failures=st.lists(st.builds(Failure, st.text(), st.text(), st.text()), max_size=3).map(tuple),
    sampler_notes=st.dictionaries(st.text(max_size=4), st.integers()),
)


@given(RECORDS)
def test_a_record_survives_its_journal(record: TrialRecord) -> None:
    assert TrialRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_values_that_are_not_finite_survive_too() -> None:
    record = TrialRecord(0, 1, {}, reports={1: (math.nan, math.inf)})
    (nan, infinite) = TrialRecord.from_json(json.loads(json.dumps(record.to_json()))).reports[1]
    assert math.isnan(nan)
    assert infinite == math.inf


@pytest.mark.parametrize("kept", [{}, {"number": 1}, {"state": "odd"}], ids=str)
def test_what_is_no_record_is_refused(kept: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        TrialRecord.from_json(kept)


def test_a_duration_needs_both_ends() -> None:
    record = TrialRecord(0, 1, {}, started_at=5.0)
    assert record.duration_s is None
    assert record.with_(ended_at=7.5).duration_s == 2.5
    assert TrialRecord(0, 1, {}, ended_at=7.5).duration_s is None


def test_only_ends_have_ended() -> None:
    assert [state for state in State if state.has_ended] == [
        State.COMPLETED,
        State.PRUNED,
        State.FAILED,
    ]


@given(study=st.integers(), number=st.integers(0))
def test_a_seed_depends_on_study_and_number_alone(study: int, number: int) -> None:
    seed = trial_seed(study, number)
    assert seed == trial_seed(study, number)
    assert 0 <= seed < 2**31


def test_seeds_are_the_same_on_every_machine_and_differ() -> None:
    seeds = {trial_seed(study, number) for study in range(20) for number in range(200)}
    assert len(seeds) == 4000
    assert [trial_seed(0, n) for n in range(3)] == [1671388596, 1771681727, 698310160]


def test_failures_that_differ_in_numbers_have_one_cause() -> None:
    first = Failure("diverged", "The loss is nan at epoch 3, batch 12.", "local")
    second = Failure("diverged", "The loss is nan at epoch 1, batch 7.", "other")
    assert first.cause == second.cause == "diverged: The loss is nan at epoch # batch #"
    assert Failure("other", first.message, "local").cause != first.cause
