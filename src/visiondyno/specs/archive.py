"""What `predict` takes where its input is a zip file of images."""

from typing import Annotated, Literal

from pydantic import Field

from visiondyno.specs.operations import OperationInput


class PredictArchiveInput(OperationInput):
    """Run a model on each image of a zip file.

    Attributes:
        model: model reference.
        archive: the zip file, a blob (`sha256:…`).
        confidence: lowest score returned; None: 0.25 of a detector, any of a classifier.
        classes: names or ids of those that are returned; None: all.
    """

    operation: Literal["predict"] = "predict"
    model: Annotated[str, Field(min_length=1)]
    archive: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    confidence: Annotated[float, Field(ge=0, le=1)] | None = None
    classes: tuple[str, ...] | None = None
    device: str = "cpu"
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
