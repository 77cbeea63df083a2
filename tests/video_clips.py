"""Small videos whose frames tell by their brightness which they are."""

from pathlib import Path

import cv2
import numpy as np

from visiondyno.vision.video_file import VideoFile
from visiondyno.vision.video_form import FrameChoice

WIDTH, HEIGHT, FRAMES, SPEED = 64, 48, 20, 10.0
EVERYTHING = FrameChoice()


def write_clip(path: Path, codec: str = "mp4v", frames: int = FRAMES) -> Path:
    """Frames that each are 10 brighter than the one before, 10 a second."""
    fourcc = cv2.VideoWriter.fourcc(*codec)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, fourcc, SPEED, (WIDTH, HEIGHT))
    for number in range(frames):
        writer.write(np.full((HEIGHT, WIDTH, 3), number * 10, np.uint8))
    writer.release()
    return path


def brightness(path: Path) -> list[float]:
    """Of every frame of a file."""
    with VideoFile(path) as video:
        found = []
        for _ in video.chosen_frames(EVERYTHING):
            image = video.image()
            assert image is not None
            found.append(float(image.mean()))
        return found
