"""Profiles of a made-up detector, whose operators are known."""

from visiondyno.measurements.operators import OperatorRun, OperatorTensor
from visiondyno.operations.profile_advice import Findings, advice_of
from visiondyno.operations.profile_rows import kind_rows, operator_rows
from visiondyno.report.profile_result import Peaks, Profile, Times

RUNS = 5


def tensor(*shape: int, dtype: str = "float32") -> OperatorTensor:
    """Of that shape."""
    return OperatorTensor(dtype, shape)


def operator(kind: str = "Conv", seconds: float = 1e-3, **given: object) -> OperatorRun:
    """One execution; a convolution of 3×3 unless told otherwise."""
    facts: dict = {
        "run": 0,
        "name": "model/0/conv",
        "inputs": (tensor(1, 8, 16, 16), tensor(4, 8, 3, 3)),
        "outputs": (tensor(1, 4, 16, 16),),
        **given,
    }
    facts.setdefault("path", tuple(facts["name"].split("/")))
    return OperatorRun(kind=kind, seconds=seconds, **facts)


def operators(scoped: bool = True) -> list[OperatorRun]:
    """Of five runs: convolutions, their activations, a copy, and one that has no rule."""
    found = []
    for run in range(RUNS):
        for place in range(12):
            scope = f"model/{place // 4}/block{place}/" if scoped else f"node{place}_"
            found += [
                operator(name=f"{scope}conv", seconds=1e-3 * (1 + place), run=run),
                operator("Relu", 2e-4, name=f"{scope}act", run=run, inputs=(tensor(1, 4, 16, 16),)),
            ]
        moved = (tensor(1, 4, 16, 16),)
        found += [
            operator(
                "Transpose",
                4e-3,
                name="head/transpose" if scoped else "transpose",
                run=run,
                inputs=moved,
            ),
            operator("Mystery<&>", 1e-3, name="head/<mystery>" if scoped else "<mystery>", run=run),
        ]
    return found


def a_profile(
    *, scoped: bool = True, inference_ms: float = 95.0, gflop_per_s: float | None = 50.0, **given
) -> Profile:
    """Of a quiet machine, with what follows from its figures."""
    peaks = Peaks(
        gflop_per_s=gflop_per_s,
        compute_method="the better of two",
        gigabytes_per_s=10.0,
        memory_method="a copy",
    )
    rows = operator_rows(operators(scoped), RUNS, peaks.roofline)
    times = Times(
        inference=inference_ms,
        inference_quartiles=(inference_ms - 1, inference_ms + 2),
        profiled=inference_ms + 10,
        operators=sum(row.ms for row in rows),
        preprocess=2.0,
        postprocess=1.0,
    )
    findings = Findings(
        "runs/detector.onnx",
        None,
        "cpu",
        "fp32",
        1,
        None,
        1,
        times,
        peaks,
        rows,
        {2: 50.0},
        2,
        False,
    )
    facts = {
        "model": "runs/detector.onnx",
        "runtime": "onnxruntime 1.31.1",
        "provider": "CPUExecutionProvider",
        "device": "cpu",
        "precision": "fp32",
        "machine": "A processor, 2 processors",
        "data": "noise of 416×416 pixels",
        "batch_size": 1,
        "threads": 1,
        "runs": RUNS,
        "times_ms": times,
        "peaks": peaks,
        "operators": rows,
        "kinds": kind_rows(rows),
        "other_threads": {2: 50.0},
        "advice": advice_of(findings),
        "quiet": True,
        "disturbances": (),
        "notes": (),
        **given,
    }
    return Profile(**facts)
