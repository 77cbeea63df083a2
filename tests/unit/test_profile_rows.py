"""From executions to a profile's rows, and from rows to advice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profile_factory import a_profile, operator, tensor
from visiondyno.errors import OperationFailed
from visiondyno.measurements.roofline import Roofline
from visiondyno.operations.profile_advice import Findings, advice_of
from visiondyno.operations.profile_rows import kind_rows, middle_half, operator_rows
from visiondyno.operations.profile_runs import operators_of_calls
from visiondyno.report.profile_result import Peaks, Times


@given(st.lists(st.floats(1e-6, 1), min_size=5, max_size=40))
def test_rows_add_up_to_the_mean_of_the_middle_runs(totals):
    found = [
        operator(name=name, run=run, seconds=total * part)
        for run, total in enumerate(totals)
        for name, part in (("a", 0.25), ("b", 0.75))
    ]
    rows = operator_rows(found, len(totals), None)
    kept = middle_half(totals)
    assert sum(row.ms for row in rows) == pytest.approx(
        1e3 * sum(totals[n] for n in kept) / len(kept)
    )
    assert sum(row.share for row in rows) == pytest.approx(1)
    assert min(totals[n] for n in kept) >= sorted(totals)[len(totals) // 4]


def test_calls_of_one_name_in_a_run_are_one_row():
    found = [operator(run=run, seconds=1e-3) for run in range(4) for _ in range(3)]
    (row,) = operator_rows(found, 4, Roofline(1e9, 1e9))
    assert (row.calls, row.ms) == (3, pytest.approx(3))
    assert row.gflop == pytest.approx(3 * 147_456e-9)
    assert row.limit == "compute"


def test_a_part_that_is_not_counted_leaves_the_whole_unknown():
    found = [operator("MaxPool", window=4), operator("MaxPool")]
    (row,) = operator_rows(found, 1, None)
    assert row.gflop is None
    (kind,) = kind_rows([row])
    assert (kind.gflop, kind.gflop_per_s, kind.not_counted) == (None, None, 1)


def test_types_are_in_order_of_their_time():
    profile = a_profile()
    assert [row.kind for row in profile.kinds] == ["Conv", "Transpose", "Relu", "Mystery<&>"]
    assert profile.uncounted_share == pytest.approx(1 / 85.4)
    assert profile.multiply_add_gflop == pytest.approx(12 * 147_456e-9)


def test_pieces_of_a_call_are_one_run():
    found = [operator(run=run) for run in range(6)]
    kept = operators_of_calls(found, 3, [1, 2])
    assert [one.run for one in kept] == [0, 0, 1, 1]


@pytest.mark.parametrize("runs", [0, 5])
def test_a_profile_that_misses_calls_is_an_error(runs):
    with pytest.raises(OperationFailed, match="there were 3"):
        operators_of_calls([operator(run=run) for run in range(runs)], 3, [1])


def test_the_sum_is_said_in_words():
    assert "within 5%" in a_profile(inference_ms=86).sum_text
    assert "passes between operators" in a_profile(inference_ms=120).sum_text
    assert "Take the shares" in a_profile(inference_ms=60).sum_text


def _advice(rows, *, inference=9.2, preprocess=1.0, others=None, peak=100.0, **given):
    total = sum(row.ms for row in rows)
    times = Times(inference=inference, inference_quartiles=(9, 11), profiled=12,
                  operators=total, preprocess=preprocess, postprocess=0.1)  # fmt: skip
    peaks = Peaks(gflop_per_s=peak, compute_method="", gigabytes_per_s=10, memory_method="")
    facts = {"model": "my model.onnx", "data": "images", "device": "cpu", "precision": "fp32",
             "batch_size": 1, "fixed_batch": None, "threads": None, "usable_cpus": 4,
             "is_exportable": False, **given}  # fmt: skip
    return advice_of(
        Findings(times=times, peaks=peaks, rows=rows, other_threads=others or {}, **facts)
    )


def _rows(*parts):
    return operator_rows(
        [operator(k, s, name=f"n{n}", **g) for n, (k, s, g) in enumerate(parts)], 1, None
    )


CONV = ("Conv", 9e-3, {})
COPY = ("Transpose", 9e-3, {"inputs": (tensor(9),), "outputs": (tensor(9),)})
ELEMENTS = ("Relu", 9e-3, {"inputs": (tensor(9),), "outputs": (tensor(9),)})


def test_slow_convolutions_ask_for_fewer_bits_and_other_kernels():
    first, second = _advice(_rows(CONV), threads=2)
    more = "--to static-int8 --calibrate OTHER_IMAGES --data images --threads 2"
    assert first.command == f"dyno quantize 'my model.onnx' {more}"
    assert "100% of the operators' time" in first.reason
    openvino = "'openvino:my model.onnx'"
    assert second.command == f"dyno compare 'my model.onnx' {openvino} --data images --threads 2"


def test_kernels_near_the_peak_are_left_alone():
    (only,) = _advice(_rows(CONV), peak=0.02)
    assert only.title == "Compute in 8 bits"


def test_a_model_of_torch_is_to_be_exported():
    told = {"model": "torchvision:resnet50", "data": None}
    assert _advice(_rows(CONV), **told) == ()  # what can't be isn't named
    (only,) = _advice(_rows(CONV), is_exportable=True, **told)
    assert only.command == "dyno export torchvision:resnet50 --data FOLDER"


@pytest.mark.parametrize(
    "given",
    [{"precision": "int8", "peak": None}, {"device": "cuda", "peak": None},
     {"model": "openvino:m.onnx"}, {"device": "cuda"}],
    ids=["int8", "cuda", "openvino", "cuda-peak"],
)  # fmt: skip
def test_convolutions_elsewhere_ask_for_nothing(given):
    assert _advice(_rows(CONV), **given) == ()


def test_moving_data_names_what_moves():
    (only,) = _advice(_rows(COPY))
    assert only.title == "Have less data moved"
    assert "Transpose" in only.reason


def test_time_between_operators_asks_for_a_batch():
    (only,) = _advice(_rows(ELEMENTS), inference=20.0, batch_size=2)
    assert only.command == "dyno profile 'my model.onnx' --data images --batch 16"
    assert only.at_stake_ms == pytest.approx(11)
    # A model of one image at once runs such a batch in as many pieces.
    assert _advice(_rows(ELEMENTS), inference=20.0, fixed_batch=1) == ()
    assert _advice(_rows(ELEMENTS), inference=20.0, batch_size=1024) == ()


def test_slow_preprocessing_asks_for_replicas():
    (only,) = _advice(_rows(ELEMENTS), preprocess=30.0)
    assert only.command.endswith("--replicas 4")
    # One processor prepares one image at a time.
    assert _advice(_rows(ELEMENTS), preprocess=30.0, usable_cpus=1) == ()


def test_faster_threads_are_named():
    (only,) = _advice(_rows(ELEMENTS), others={1: 9.5, 4: 4.0}, threads=2)
    assert only.command == "dyno profile 'my model.onnx' --data images --threads 4"
    (one,) = _advice(_rows(ELEMENTS), others={1: 4.0}, batch_size=2, data=None)
    assert one.command == "dyno profile 'my model.onnx' --batch 2 --threads 1"
    assert "4.00 ms at 4 threads" in only.reason or "4 ms at 4 threads" in only.reason
    assert _advice(_rows(ELEMENTS), others={4: 9.5}) == ()


def test_no_figures_no_advice():
    assert _advice(_rows(ELEMENTS)) == ()


def test_three_at_most_and_the_largest_first():
    found = _advice(_rows(CONV, COPY), inference=90.0, preprocess=100.0, others={1: 10.0})
    assert len(found) == 3
    assert [one.at_stake_ms for one in found] == sorted(
        (one.at_stake_ms for one in found), reverse=True
    )
