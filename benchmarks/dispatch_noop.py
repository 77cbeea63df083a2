"""The operation that does nothing, for our workers (`module:function`)."""

from typing import Any

from visiondyno.operations.context import OperationContext


def run(job_input: dict[str, Any], _: OperationContext) -> dict[str, Any]:
    """Answer with the number that came."""
    return {"number": job_input["number"]}
