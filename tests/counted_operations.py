"""Operations of a worker in fault tests: the real ones and a few small ones, each run counted."""

import json
import os
import time
import uuid
from pathlib import Path
from typing import Any

import runpod_operations
from visiondyno import worker
from visiondyno.operations.context import OperationContext

FOLDER_VARIABLE = "COUNTED_RUNS"


def run(job_input: dict[str, Any], context: OperationContext) -> dict[str, Any]:
    note = Path(os.environ[FOLDER_VARIABLE]) / f"{time.time_ns()}-{uuid.uuid4().hex}.json"
    note.write_text(json.dumps(job_input, sort_keys=True))
    if job_input["operation"] in ("train", "train_epoch", "predict", "evaluate", "batch"):
        return worker.run(job_input, context)
    if job_input["operation"] == "work":
        return _work(job_input, context)
    return runpod_operations.run(job_input, context)


def _work(job_input: dict[str, Any], context: OperationContext) -> dict[str, Any]:
    """Tell so many steps, each after a while; stoppable."""
    for step in range(job_input["steps"]):
        context.progress("step", step=step)
        until_s = time.monotonic() + job_input.get("step_s", 0.02)
        while time.monotonic() < until_s:
            context.check()
            time.sleep(0.005)
    return {"name": job_input["name"], "steps": job_input["steps"]}
