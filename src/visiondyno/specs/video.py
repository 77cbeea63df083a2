"""What `predict` takes where its input is a video."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from visiondyno.specs.operations import OperationInput


class PredictVideoInput(OperationInput):
    """Run a model on the frames of a video.

    Attributes:
        model: model reference.
        video: a file where the worker runs, an attachment's name, or a blob (`sha256:…`).
        confidence: lowest score returned; None: 0.25 of a detector, any of a classifier;
            with `track` lower ones too, where they continue a track.
        classes: names or ids of those that are returned; None: all.
        every: each so many-th frame.
        fps: so many frames of each second of the video.
        start_s, end_s: the part of the video, in seconds; `end_s` isn't in it.
        max_frames: stop after so many.
        track: number the objects (detectors only).
        draw: make a video of this form with what was found drawn on the chosen frames.
    """

    operation: Literal["predict"] = "predict"
    model: str
    video: Annotated[str, Field(min_length=1)]
    confidence: Annotated[float, Field(ge=0, le=1)] | None = None
    classes: tuple[str, ...] | None = None
    every: Annotated[int, Field(ge=1, le=10**9)] | None = None
    fps: Annotated[float, Field(ge=1e-6, le=1e6)] | None = None
    start_s: Annotated[float, Field(ge=0, le=1e9)] = 0.0
    end_s: Annotated[float, Field(gt=0, le=1e9)] | None = None
    max_frames: Annotated[int, Field(ge=1, le=10**9)] | None = None
    track: bool = False
    draw: Literal["mp4", "mov", "mkv", "webm", "avi"] | None = None
    device: str = "cpu"
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.every is not None and self.fps is not None:
            raise ValueError("give one of 'every' and 'fps': both say which frames of the video")
        if self.end_s is not None and self.end_s <= self.start_s:
            raise ValueError("'end_s' must be after 'start_s'")
        return self
