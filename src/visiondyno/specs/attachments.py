"""Files that travel with a job: `attachments` beside the fields of any operation's input."""

from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

FIELD = "attachments"
"""Of a job's input, at its top level only, also where that is a batch."""

LARGEST_BYTES = 4_000_000_000
"""All attachments of one job together, unpacked."""

MOST_FILES = 200_000
"""In one archive."""

Kind = Literal["model", "data"]

_SHA256 = r"sha256:[0-9a-f]{64}"
_BASE64 = r"[A-Za-z0-9+/]+={0,2}"
_PLACES: dict[str, Kind] = {
    "models": "model",
    "model": "model",
    "reference": "model",
    "data": "data",
    "training_data": "data",
    "validation_data": "data",
    "check_data": "data",
    "calibration_data": "data",
    "features": "data",
    "video": "data",
}
"""Fields of operations that hold references, and of what."""


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\0" in path:
        raise ValueError("it must lead to a file or folder in the archive, such as 'data/val'")
    return path


def _not_a_blob(reference: str) -> str:
    if reference.startswith("sha256:"):
        raise ValueError("a blob's name needs no attachment")
    return reference


class Attachment(BaseModel):
    """What a reference stands for.

    Attributes:
        archive: a zip file as base64, or `sha256:…`, the name of a blob that is one.
        path: the file or folder in it that is meant, with `/` between its parts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    archive: Annotated[str, Field(pattern=rf"^({_SHA256}|{_BASE64})$")]
    path: Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_inside)]

    @property
    def is_blob(self) -> bool:
        """Whether the archive is named, and not here."""
        return self.archive.startswith("sha256:")


class Attachments(BaseModel):
    """Attachments by reference, as the user wrote it.

    Data followed by `:SPLIT`, and a model after `RUNTIME:`, use that of the reference alone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    attachments: Annotated[
        dict[
            Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_not_a_blob)],
            Attachment,
        ],
        Field(max_length=2000),
    ]


def with_references(job_input: Any, replace: Callable[[Kind, str], str]) -> Any:
    """A copy of an operation's input with each reference to models or data replaced.

    Args:
        job_input: of one operation or a batch, validated or not: what isn't of the form that an
            operation takes is left for it to refuse.
        replace: from kind and reference to what is to stand in its place.
    """
    if not isinstance(job_input, dict):
        return job_input
    if job_input.get("operation") == "batch":
        inner = job_input.get("operations")
        if not isinstance(inner, list | tuple):
            return job_input
        return {**job_input, "operations": [with_references(one, replace) for one in inner]}
    return {
        name: _replaced(_PLACES[name], value, replace) if name in _PLACES else value
        for name, value in job_input.items()
    }


def _replaced(kind: Kind, value: Any, replace: Callable[[Kind, str], str]) -> Any:
    if isinstance(value, str):
        return replace(kind, value)
    if kind == "model" and isinstance(value, list | tuple):
        return [replace(kind, one) if isinstance(one, str) else one for one in value]
    if kind == "data" and isinstance(value, dict) and isinstance(value.get("data"), str):
        return {**value, "data": replace(kind, value["data"])}
    return value
