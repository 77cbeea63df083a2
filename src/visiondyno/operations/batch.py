"""`batch`: several operations in one job, one after another, each with its own status."""

import json
import traceback
from typing import Any

from visiondyno.errors import Cancelled, SpecError, TimeLimitExceeded, VisionDynoError
from visiondyno.job import JobError
from visiondyno.operations import find_operation
from visiondyno.operations.context import OperationContext
from visiondyno.operations.worker_files import WorkerFiles
from visiondyno.specs.operations import parse
from visiondyno.specs.training_operations import BatchInput
from visiondyno.state import INLINE_LIMIT_BYTES, from_text

_STATE = "model_state"


def run(spec: BatchInput, context: OperationContext) -> dict[str, Any]:
    """The outputs, in the order of the operations.

    Each is what its operation answers alone; or `{"operation", "status": "error", "error": {code,
    message, stage}}`; or, after an error with `stop_on_error`, `{"operation", "status":
    "skipped"}`. Progress carries `operation_index`, from 0, and `operations`, how many there are.

    All outputs together stay within 7 MB of JSON: from where they would pass it, each
    `model_state` is a blob, and an output that is too long without it is one as a whole:
    `{"operation", "status", "output": "sha256:…"}`, a blob of JSON.

    Returns:
        `status` and `outputs`. `status` is `success` where all succeeded, `error` where none did,
        else `partial`.

    Raises:
        Cancelled, TimeLimitExceeded: the job must stop; the outputs so far are lost with it.
        StorageFull, TransportDown: an output didn't fit, and the blob store can't take it.
    """
    total = len(spec.operations)
    outputs = _Outputs()
    stopped = False
    for index, job_input in enumerate(spec.operations):
        name = job_input.get("operation")
        if stopped:
            outputs.add({"operation": name, "status": "skipped"})
            continue
        within = context.within(operation_index=index, operations=total)
        output = _one(job_input, f"'operations[{index}]'", within)
        outputs.add(context.put_back(output))
        stopped = spec.stop_on_error and output["status"] == "error"
    return {"operation": "batch", "status": outputs.status, "outputs": outputs.all}


def _one(job_input: dict[str, Any], place: str, context: OperationContext) -> dict[str, Any]:
    """The output of one operation, or its error; only what ends the job is raised."""
    context.check()
    try:
        return _output(job_input, place, context)
    except Cancelled:
        raise
    except TimeLimitExceeded as error:
        context.check()  # raises where it was the job's limit, and not the operation's own
        return _failed(job_input, error, None)
    except VisionDynoError as error:
        return _failed(job_input, error, None)
    except Exception as error:  # a defect of one operation doesn't lose what the others answered
        return _failed(job_input, error, traceback.format_exc())


def _output(job_input: dict[str, Any], place: str, context: OperationContext) -> dict[str, Any]:
    if job_input.get("operation") == "batch":
        raise SpecError(f"{place} is a batch; give its operations here instead.")
    operation = find_operation(job_input)
    spec = parse(operation.input_type, job_input, f"{place}: the input of '{operation.name}'")
    output: dict[str, Any] = operation.run(spec, context)
    return output


def _failed(job_input: dict[str, Any], error: Exception, trace: str | None) -> dict[str, Any]:
    told = JobError.from_exception(error, trace).model_dump(exclude_none=True)
    return {"operation": job_input.get("operation"), "status": "error", "error": told}


class _Outputs:
    """The outputs so far, within what an answer may hold."""

    def __init__(self) -> None:
        self.all: list[dict[str, Any]] = []
        self._bytes = 0
        self._files: WorkerFiles | None = None

    @property
    def status(self) -> str:
        succeeded = [output["status"] not in ("error", "skipped") for output in self.all]
        return "success" if all(succeeded) else "partial" if any(succeeded) else "error"

    def add(self, output: dict[str, Any]) -> None:
        fitting = output
        if not self._fits(fitting) and not output.get(_STATE, "sha256:").startswith("sha256:"):
            fitting = output | {_STATE: self._publish(from_text(output[_STATE]))}
        if not self._fits(fitting) and output["status"] != "error":
            whole = self._publish(json.dumps(output).encode())
            fitting = {name: output[name] for name in ("operation", "status")} | {"output": whole}
        self._bytes += _length(fitting)
        self.all.append(fitting)

    def _fits(self, output: dict[str, Any]) -> bool:
        return self._bytes + _length(output) <= INLINE_LIMIT_BYTES

    def _publish(self, data: bytes) -> str:
        self._files = self._files or WorkerFiles.of_this_worker()
        return self._files.publish(data)


def _length(output: dict[str, Any]) -> int:
    return len(json.dumps(output).encode())
