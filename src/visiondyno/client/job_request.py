"""From what a script gives to the job that is submitted."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from visiondyno.errors import SpecError
from visiondyno.job import JobRequest, Policy


def job_request(
    job_input: Mapping[str, Any], policy: Policy | Mapping[str, Any] | None
) -> JobRequest:
    """The job as it will arrive: what JSON makes of it, on every executor alike."""
    try:
        plain = json.loads(json.dumps(job_input))
    except (TypeError, ValueError, RecursionError) as error:
        raise SpecError(
            f"The job's input must be what JSON has: texts, numbers, lists and objects ({error})."
        ) from error
    try:
        return JobRequest(input=plain, policy=policy or Policy())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise SpecError(f"The job's '{place}' is wrong: {first['msg']}.") from error
