"""`batch`: each operation with a status of its own, and answers that an executor can carry."""

import json
from pathlib import Path
from typing import Any

import pytest

from visiondyno import worker
from visiondyno.errors import Cancelled, SpecError, TimeLimitExceeded
from visiondyno.operations import batch, predict
from visiondyno.operations.context import OperationContext
from visiondyno.operations.worker_files import WorkerFiles
from visiondyno.state import decode, from_text, identity

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNgYGAAAAAEAAH2FzhVAAAAAElFTkSuQmCC"
)
GOOD: dict[str, Any] = {"operation": "predict", "model": "fake:detection", "images": [PIXEL]}
MISSING = GOOD | {"model": "no/such/model.onnx"}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path))
    monkeypatch.delenv("VISIONDYNO_BLOBS_URL", raising=False)
    return tmp_path


def run_batch(*operations: Any, context: OperationContext | None = None, **more: Any) -> Any:
    job_input = {"operation": "batch", "operations": list(operations)} | more
    return worker.run(job_input, context or OperationContext())


def linear_epoch(width: int, epoch: int = 1) -> dict[str, Any]:
    layers = [{"type": "linear", "in_features": width, "out_features": 2}]
    return {
        "operation": "train_epoch",
        "model_config": {"type": "sequential", "layers": layers},
        "training_data": {"features": [[0.5] * width] * 2, "labels": [0, 1]},
        "epoch": epoch,
        "threads": 1,
    }


def test_each_output_of_a_batch_is_that_of_its_operation_alone() -> None:
    alone = worker.run(GOOD, OperationContext())
    answer = run_batch(GOOD, GOOD)
    assert answer == {"operation": "batch", "status": "success", "outputs": [alone, alone]}


def test_one_failing_operation_doesnt_stop_the_others() -> None:
    answer = run_batch(MISSING, GOOD, {"operation": "evaluate", "model": "fake:detection"})
    assert answer["status"] == "partial"
    assert [output["status"] for output in answer["outputs"]] == ["error", "success", "error"]
    first, _, last = answer["outputs"]
    assert first["operation"] == "predict"
    assert first["error"]["code"] == "bad_model"
    assert "no/such/model.onnx" in first["error"]["message"]
    assert set(first["error"]) == {"code", "message"}, "a user's mistake has no traceback"
    assert "'operations[2]': the input of 'evaluate': 'data'" in last["error"]["message"]
    assert run_batch(MISSING, MISSING)["status"] == "error"


def test_what_follows_a_failed_operation_is_left_out_where_asked() -> None:
    answer = run_batch(GOOD, MISSING, GOOD, {"operation": "nonsense"}, stop_on_error=True)
    assert answer["status"] == "partial"
    assert [output["status"] for output in answer["outputs"]] == [
        "success", "error", "skipped", "skipped",
    ]  # fmt: skip
    assert answer["outputs"][3] == {"operation": "nonsense", "status": "skipped"}


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        ({"operation": "batch", "operations": [GOOD]}, "'operations[0]' is a batch"),
        ({"operation": "dance"}, "'operation' must be one of batch, benchmark"),
        ({}, "got None"),
        ({"operation": ["predict"]}, "got ['predict']"),
        ({"operation": "predict", "model": "fake:detection"}, "'images': Field required"),
        (GOOD | {"colour": 1}, "'colour'"),
        ({"operation": "train_epoch", "model_config": {}}, "model_config"),
    ],
)
def test_a_wrong_operation_is_its_own_error_and_not_the_batchs(
    operation: dict[str, Any], words: str
) -> None:
    answer = run_batch(operation, GOOD)
    wrong, right = answer["outputs"]
    assert wrong["error"]["code"] == "bad_spec"
    assert words in wrong["error"]["message"]
    assert right["status"] == "success"


def test_a_batch_without_operations_is_refused() -> None:
    with pytest.raises(SpecError, match="'operations'"):
        run_batch()
    with pytest.raises(SpecError, match=r"'operations\.1'"):
        run_batch(GOOD, "predict")


def test_progress_says_which_operation_it_is_of() -> None:
    told: list[dict[str, Any]] = []
    run_batch(GOOD, MISSING, GOOD, context=OperationContext(told.append))
    assert [fact["operation_index"] for fact in told if fact["stage"] == "predicting"] == [0, 2]
    assert {fact["operations"] for fact in told} == {3}


def test_a_cancelled_batch_ends_at_once() -> None:
    told: list[dict[str, Any]] = []
    context = OperationContext(told.append, is_cancelled=lambda: bool(told))
    with pytest.raises(Cancelled):
        run_batch(GOOD, GOOD, context=context)
    assert {fact["operation_index"] for fact in told} == {0}


def test_the_jobs_time_limit_ends_a_batch() -> None:
    with pytest.raises(TimeLimitExceeded):
        run_batch(GOOD, context=OperationContext(deadline_s=0.0))


def test_the_time_limit_of_one_operation_is_its_own_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def too_slow(*_: Any) -> Any:
        raise TimeLimitExceeded("its child took too long", stage="load")

    monkeypatch.setattr(predict, "run", too_slow)
    (output,) = run_batch(GOOD)["outputs"]
    assert output["error"]["code"] == "time_limit"
    assert output["error"]["stage"] == "load"


def test_a_defect_of_one_operation_loses_nothing_of_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = predict.run

    def broken(spec: Any, context: OperationContext) -> Any:
        if spec.confidence == 1:
            raise ZeroDivisionError("a defect")
        return real(spec, context)

    monkeypatch.setattr(predict, "run", broken)
    answer = run_batch(GOOD | {"confidence": 1}, GOOD)
    wrong, right = answer["outputs"]
    assert wrong["error"]["code"] == "internal"
    assert "ZeroDivisionError" in wrong["error"]["traceback"]
    assert right["status"] == "success"


@pytest.mark.torch
def test_a_batch_trains_each_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    answer = run_batch(linear_epoch(3), linear_epoch(4), linear_epoch(3))
    first, other, again = answer["outputs"]
    assert answer["status"] == "success"
    assert first["metrics"] == again["metrics"] != other["metrics"]
    assert first["model_state_sha256"] == again["model_state_sha256"]
    # What doesn't fit any more is a blob.
    monkeypatch.setattr(batch, "INLINE_LIMIT_BYTES", len(json.dumps(first)) + 50)
    small = run_batch(linear_epoch(3), linear_epoch(4))
    assert small["outputs"][0]["model_state"] == first["model_state"]
    state, whole = small["outputs"][1].get("model_state"), small["outputs"][1].get("output")
    assert (state or whole).startswith("sha256:")


def test_outputs_that_dont_fit_together_become_blobs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import base64

    def answering(spec: Any, _: OperationContext) -> Any:
        size = int(spec.model)
        answer = {"operation": "predict", "status": "success"}
        if spec.confidence == 1:
            return answer | {"model_state": base64.b64encode(b"s" * size).decode()}
        return answer | {"predictions": ["p" * size]}

    monkeypatch.setattr(predict, "run", answering)
    states = [GOOD | {"model": str(2_000_000), "confidence": 1}] * 4
    others = [GOOD | {"model": str(size)} for size in (5_000_000, 400_000)]
    answer = run_batch(*states, *others)
    assert len(json.dumps(answer)) < 7_100_000
    kept, blobs = answer["outputs"][:2], answer["outputs"][2:4]
    assert not any(output["model_state"].startswith("sha256:") for output in kept)
    assert all(output["model_state"].startswith("sha256:") for output in blobs)
    files = WorkerFiles.of_this_worker()
    assert files.read(blobs[0]["model_state"], "the state") == b"s" * 2_000_000
    large, small = answer["outputs"][4:]
    assert set(large) == {"operation", "status", "output"}
    whole = json.loads(files.read(large["output"], "the output"))
    assert whole == {
        "operation": "predict", "status": "success", "predictions": ["p" * 5_000_000],
    }  # fmt: skip
    assert small["predictions"] == ["p" * 400_000]


@pytest.mark.torch
def test_a_states_blob_of_a_batch_is_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    (whole,) = run_batch(linear_epoch(300))["outputs"]
    monkeypatch.setattr(batch, "INLINE_LIMIT_BYTES", 1200)
    (small,) = run_batch(linear_epoch(300))["outputs"]
    data = WorkerFiles.of_this_worker().read(small["model_state"], "the state")
    assert data == from_text(whole["model_state"])
    state = decode(data, small["model_state_format"], {})
    assert identity(state) == small["model_state_sha256"]
