"""Modules of the user's own code: made where that is trusted, never for a job."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from contracts.runtime_contract import some_images

pytest.importorskip("torch")

from visiondyno.cli import main
from visiondyno.errors import ModelError
from visiondyno.executors.supervisor_options import DEFAULT_ENTRY
from visiondyno.runtimes.registry import load_model
from visiondyno.runtimes.trusted_code import TRUST_CODE

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("own_models:fails", r"failed: KeyError: 'weights'"),
        ("own_models:no_module", r"returned a int; it must return a torch.nn.Module"),
        ("own_models:constant", r"is a int; name a callable"),
        ("own_models:nothing", r"own_models has no 'nothing'"),
        ("own_models:badly_carded", r"model_card of torch:own_models:badly_carded is wrong"),
        ("own_broken:make", r"importing own_broken failed \(ModuleNotFoundError"),
        ("no_such_module_at_all:make", r"working folder and on PYTHONPATH"),
        ("own_models", r"names no code; write torch:package.module:factory"),
        ("some/where.pt2", r"names no code"),
        ("own_models:make()", r"names no code"),
    ],
)
def test_code_that_makes_no_model_is_an_error(place: str, said: str, own_code: None) -> None:
    with pytest.raises(ModelError, match=said):
        load_model(f"torch:{place}")


def test_a_module_without_an_answer_is_an_error(own_code: None) -> None:
    with (
        load_model("torch:own_models:silent") as model,
        pytest.raises(ModelError, match="returned no tensor"),
    ):
        model.predict(some_images(1))


@pytest.mark.parametrize("said", [None, "0", "no", ""])
def test_code_that_is_not_trusted_is_not_imported(
    said: str | None, own_code: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TRUST_CODE)
    if said is not None:
        monkeypatch.setenv(TRUST_CODE, said)
    with pytest.raises(ModelError, match=r"never import code. Export the model"):
        load_model("torch:own_models:detector")
    assert "own_models" not in sys.modules


def test_commands_that_run_in_place_trust_the_code_that_they_name(
    own_code: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(TRUST_CODE)
    show = ["models", "show", "torch:own_models:detector"]
    with pytest.raises(SystemExit) as end:
        main(show)
    said = capsys.readouterr()
    assert end.value.code == 0, said.err
    assert "classes (3): car, truck, bus" in said.out
    assert TRUST_CODE not in os.environ
    monkeypatch.setenv(TRUST_CODE, "0")
    with pytest.raises(SystemExit) as end:
        main(show)
    said = capsys.readouterr()
    assert end.value.code == 2
    assert "never import code" in said.err
    assert len(said.err.splitlines()) == 1


def test_a_worker_never_imports_what_a_job_names(
    tmp_path: Path, own_code: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "imported"
    (tmp_path / "own_trap.py").write_text(f"open({str(marker)!r}, 'w').close()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    pipe_in, pipe_out = os.pipe()
    job = {"operation": "evaluate", "model": "torch:own_trap:make", "data": "street:demo:1"}
    command = [sys.executable, "-m", "visiondyno.executors.worker_process", str(pipe_out)]
    with (
        os.fdopen(pipe_in, "rb") as answers,
        subprocess.Popen(
            [*command, DEFAULT_ENTRY], stdin=subprocess.PIPE, pass_fds=(pipe_out,)
        ) as worker,
    ):
        os.close(pipe_out)
        assert worker.stdin is not None
        worker.stdin.write(f"J one 0 {json.dumps(job)}\n".encode())
        worker.stdin.flush()
        lines = iter(answers.readline, b"")
        answer = next(line for line in lines if line.startswith((b"E ", b"R ")))
        worker.stdin.close()
        worker.wait(timeout=60)
    assert answer.startswith(b"E one FAILED")
    assert b"never import code" in answer
    assert not marker.exists()
