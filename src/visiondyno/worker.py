"""Run one job's operation: `run(job_input, context) -> output`. The same on every executor."""

from typing import Any

from visiondyno.operations import OPERATIONS, find_operation
from visiondyno.operations.context import OperationContext
from visiondyno.specs.attachments import FIELD
from visiondyno.specs.operations import parse

__all__ = ["OPERATIONS", "run"]


def run(job_input: dict[str, Any], context: OperationContext) -> dict[str, Any]:
    """Validate `job_input` and run its operation, on the files that came with it.

    Raises:
        SpecError: no such operation, or its input or attachments are wrong.
        VisionDynoError: whatever the operation raises, or keeps the attachments from being had.
    """
    if FIELD not in job_input:
        return _run(job_input, context)
    from visiondyno.operations.attachments import run_with_attachments

    return run_with_attachments(job_input, context, _run)


def _run(job_input: dict[str, Any], context: OperationContext) -> dict[str, Any]:
    operation = find_operation(job_input)
    spec = parse(operation.input_type, job_input, f"The input of '{operation.name}' is wrong")
    context.check()
    output: dict[str, Any] = operation.run(spec, context)
    return output
