"""What was deployed, kept in the home so that later commands know image, GPU and time limits."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from visiondyno.errors import SpecError

_FOLDER = "deployments"
_ID = re.compile(r"/v2/([A-Za-z0-9_-]{1,128})/?$")


class Deployment(BaseModel):
    """One RunPod endpoint as it was deployed last.

    Attributes:
        endpoint_id: RunPod's.
        name: of the endpoint.
        image: with its tag.
        gpu: of its workers, by its name in the price table.
        workers_min, workers_max: that it keeps, and at most.
        idle_timeout_s: how long a worker waits for its next job.
        execution_timeout_s: of jobs whose policy has none.
        deployed_at: seconds since the epoch.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,128}$")]
    name: str
    image: str
    gpu: str
    workers_min: Annotated[int, Field(ge=0)]
    workers_max: Annotated[int, Field(ge=1)]
    idle_timeout_s: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    execution_timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    deployed_at: Annotated[float, Field(allow_inf_nan=False)]


def find_deployment(home: Path, url: str) -> Deployment | None:
    """What was deployed from here to the endpoint at `url`; None where nothing was.

    Raises:
        SpecError: the record can't be read.
    """
    found = _ID.search(url)
    if found is None or not url.startswith("https://api.runpod.ai/"):
        return None
    path = home / _FOLDER / f"{found[1]}.json"
    try:
        return Deployment.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise SpecError(
            f"{path}, the record of what was deployed, can't be read; deploy again, or remove it "
            "and name the GPU with --gpu."
        ) from error
