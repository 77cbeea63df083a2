"""Run one job's operation: `run(job_input, context) -> output`. The same on every executor."""

from typing import Any

from visiondyno.operations import OPERATIONS, find_operation
from visiondyno.operations.context import OperationContext
from visiondyno.specs.operations import parse

__all__ = ["OPERATIONS", "run"]


def run(job_input: dict[str, Any], context: OperationContext) -> dict[str, Any]:
    """Validate `job_input` and run its operation.

    Raises:
        SpecError: no such operation, or its input is wrong.
        VisionDynoError: whatever the operation raises.
    """
    operation = find_operation(job_input)
    spec = parse(operation.input_type, job_input, f"The input of '{operation.name}' is wrong")
    context.check()
    output: dict[str, Any] = operation.run(spec, context)
    return output
