"""Where the samples of a training come from: inside the job, a blob, or a data set."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from visiondyno.specs.inline_data import InlineData

PART_NAMES = ("train", "validation", "test")
"""In the order of their shares."""

_Side = Annotated[int, Field(ge=1, le=16_384)]
_Share = Annotated[float, Field(ge=0, le=1)]
_PerChannel = Annotated[
    tuple[Annotated[float, Field(allow_inf_nan=False)], ...], Field(min_length=1, max_length=3)
]


class DataPart(BaseModel):
    """One of three parts of a data set, which have no sample in common and together have all.

    Attributes:
        name: which of them.
        shares: of all samples, of `train`, `validation` and `test`.
        seed: another one gives other parts; see `datasets.parts.part_of`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["train", "validation", "test"]
    shares: tuple[_Share, _Share, _Share] = (0.5, 0.25, 0.25)
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0

    @model_validator(mode="after")
    def _shares_are_of_one_whole(self) -> Self:
        if not math.isclose(sum(self.shares), 1, abs_tol=1e-9):
            raise ValueError(f"the 'shares' add up to {sum(self.shares):g}; they must to 1")
        if not self.shares[PART_NAMES.index(self.name)]:
            raise ValueError(f"the share of '{self.name}' is 0; take a part that has one")
        return self


class ImageData(BaseModel):
    """Labelled images of a data set as samples: float32, scaled to 0…1, then normalised.

    Attributes:
        data: dataset reference, such as `mnist:train` or `digits:train:1000`.
        image_size: height and width, or one number for both: images are resized to it. None
            takes them as they are; all must be of one size then.
        channels: 1 makes images grey, 3 makes grey ones RGB; None is 1 where all are grey, else 3.
        mean, std: of each channel, of pixels from 0 to 1: a sample is (pixels - mean) / std.
        layout: of a sample: `chw` as torch's layers take it, or `hwc`.
        max_images: the first so many only.
        part: of what the rest says; None takes it whole. The parts of a data set are decoded once.
        skip_bad: leave bad images out and tell how many, instead of stopping.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: Annotated[str, Field(min_length=1, max_length=4096)]
    image_size: _Side | tuple[_Side, _Side] | None = None
    channels: Literal[1, 3] | None = None
    mean: _PerChannel | None = None
    std: _PerChannel | None = None
    layout: Literal["chw", "hwc"] = "chw"
    max_images: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    part: DataPart | None = None
    skip_bad: bool = False

    @model_validator(mode="after")
    def _normalisation_is_whole(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise ValueError("'mean' and 'std' go together; give both or none")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError("'std' must be above 0 in each channel")
        return self

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width to resize to; None for as they are."""
        if isinstance(self.image_size, int):
            return self.image_size, self.image_size
        return self.image_size


def _kind_of_data(value: Any) -> str:
    if isinstance(value, str):
        return "blob" if value.startswith("sha256:") else "reference"
    is_images = isinstance(value, ImageData) or (isinstance(value, dict) and "data" in value)
    return "images" if is_images else "inline"


TrainingData = Annotated[
    Annotated[InlineData, Tag("inline")]
    | Annotated[ImageData, Tag("images")]
    | Annotated[str, Field(min_length=1, max_length=4096), Tag("reference")]
    | Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$"), Tag("blob")],
    Discriminator(_kind_of_data),
]
"""Inline samples; `ImageData`, or a dataset reference alone (`mnist:train`) for one with its
defaults; or `sha256:…`, the blob of a safetensors file with `features` and `labels`."""
