"""What was deployed, kept in the home so that later commands know image, GPU and time limits."""

import contextlib
import hashlib
import re
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from visiondyno.errors import SpecError
from visiondyno.whole_file import write_whole

_ROOM = (
    "make room, or set VISIONDYNO_HOME to a folder that can be written, and run the command again"
)
_FOLDER = "deployments"
_IMAGES = "images"
_ID = re.compile(r"/v2/([A-Za-z0-9_-]{1,128})/?$")


class Deployment(BaseModel):
    """One RunPod endpoint as it was deployed last.

    Attributes:
        endpoint_id: RunPod's.
        name: of the endpoint.
        image: with its tag.
        gpu: of its workers, by its name in the price table; of several, the dearest.
        gpus: all of them, in order of preference; empty in records of before they were kept.
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
    gpus: tuple[str, ...] = ()
    workers_min: Annotated[int, Field(ge=0)]
    workers_max: Annotated[int, Field(ge=1)]
    idle_timeout_s: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    execution_timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    deployed_at: Annotated[float, Field(allow_inf_nan=False)]


class PushedImage(BaseModel):
    """An image that was built here and pushed; what `--quick` goes by.

    Attributes:
        image: with its tag.
        source_digest: of all that it was built from.
        pushed_at: seconds since the epoch.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: str
    source_digest: str
    pushed_at: Annotated[float, Field(allow_inf_nan=False)]


_Record = TypeVar("_Record", Deployment, PushedImage)


def find_deployment(home: Path, url: str) -> Deployment | None:
    """What was deployed from here to the endpoint at `url`; None where nothing was.

    Raises:
        SpecError: the record can't be read.
    """
    found = _ID.search(url)
    if found is None or not url.startswith("https://api.runpod.ai/"):
        return None
    return _read(home / _FOLDER / f"{found[1]}.json", Deployment)


def all_deployments(home: Path) -> list[Deployment]:
    """What was deployed from here, newest first.

    Raises:
        SpecError: a record can't be read.
    """
    read = (_read(path, Deployment) for path in sorted((home / _FOLDER).glob("*.json")))
    found = [deployment for deployment in read if deployment is not None]
    return sorted(found, key=lambda deployment: -deployment.deployed_at)


def latest(home: Path, name: str) -> Deployment | None:
    """The endpoint of this name that was deployed last; None where none was.

    Raises:
        SpecError: a record can't be read.
    """
    return next((found for found in all_deployments(home) if found.name == name), None)


def keep_deployment(home: Path, deployment: Deployment) -> None:
    """Write the record; an older one of the same endpoint is replaced at once, or stays whole.

    Raises:
        StorageFull: it can't be written.
    """
    _keep(home / _FOLDER / f"{deployment.endpoint_id}.json", deployment)


def find_image(home: Path, repository: str) -> PushedImage | None:
    """What was pushed last to `repository` from here; None where nothing was.

    Raises:
        SpecError: the record can't be read.
    """
    return _read(_image_path(home, repository), PushedImage)


def keep_image(home: Path, repository: str, image: PushedImage) -> None:
    """Write what was pushed to `repository`; whole or not at all.

    Raises:
        StorageFull: it can't be written.
    """
    _keep(_image_path(home, repository), image)


def _image_path(home: Path, repository: str) -> Path:
    name = hashlib.sha256(repository.encode()).hexdigest()[:16]
    return home / _FOLDER / _IMAGES / f"{name}.json"


def _read(path: Path, kind: type[_Record]) -> _Record | None:
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise SpecError(
            f"{path}, the record of what was deployed, can't be read; deploy again, or remove it "
            "and name the GPU with --gpu."
        ) from error


def _keep(path: Path, record: BaseModel) -> None:
    with contextlib.suppress(OSError):  # the writing says why
        path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(
        path, record.model_dump_json(indent=1).encode(), "The record of what was deployed", _ROOM
    )
