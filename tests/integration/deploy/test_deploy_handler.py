"""The worker is tried before its image is built: under the SDK, at an emulated endpoint."""

import sys
from pathlib import Path

import pytest

from visiondyno.cli import deploy_handler
from visiondyno.cli.deploy_handler import try_handler
from visiondyno.errors import MissingExtra, OperationFailed

ROOT = Path(__file__).resolve().parents[3]
TESTS = ROOT / "tests"

pytest.importorskip("runpod")


def test_the_real_worker_predicts() -> None:
    assert try_handler(with_training=False, sources=ROOT / "src") == ["predict"]


@pytest.mark.torch
@pytest.mark.slow
def test_the_real_worker_trains() -> None:
    pytest.importorskip("torch")
    assert try_handler(with_training=True) == ["predict", "train_epoch"]


def worker(program: str) -> tuple[str, ...]:
    return (sys.executable, "-c", program)


def test_a_worker_that_ends_at_once_is_told_with_its_last_words() -> None:
    broken = worker("raise SystemExit('no model here')")
    with pytest.raises(OperationFailed, match="ends before it takes a job") as failed:
        try_handler(with_training=False, command=broken)
    assert failed.value.traceback == "no model here"


def test_a_job_that_fails_is_told_with_its_reason() -> None:
    entry = (
        f"import sys; sys.path.insert(0, {str(TESTS)!r}); "
        "from visiondyno.runpod_handler.__main__ import main; "
        "sys.exit(main(entry='runpod_operations:run'))"
    )
    # The operations of that entry know no 'predict'.
    with pytest.raises(OperationFailed, match="fails at 'predict': "):
        try_handler(with_training=False, command=worker(entry), sources=TESTS)


def test_a_worker_without_an_answer_is_given_up() -> None:
    idle = worker("import time; print('waits', flush=True); time.sleep(600)")
    looks: list[float] = []
    with pytest.raises(OperationFailed, match="no answer to 'predict' after 3 s"):
        try_handler(with_training=False, command=idle, limit_s=3.0, sleep=looks.append)
    assert len(looks) == 30


def test_without_the_sdk_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deploy_handler.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match="--skip-test"):
        try_handler(with_training=False)
