"""Weights that a model's name stands for: where they are kept, and how they come here.

They lie in `weights/` of the cache folder, by the file names that their publishers gave them.
Loading a model never downloads: `fetch` does, before anything is measured.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from visiondyno.errors import ModelError
from visiondyno.runtimes.base import Progress

OFFLINE = "VISIONDYNO_OFFLINE"


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A file of weights as its publisher offers it.

    Attributes:
        url: where.
        name: of the file, as it is kept.
        sha256: hexadecimal, whole or only its beginning (torch names files by eight digits of it);
            None where the publisher tells none: what first came is then written down, and a later
            download that differs is refused.
        license: of the weights.
    """

    url: str
    name: str
    sha256: str | None
    license: str | None = None


def weights_folder() -> Path:
    """Where they are kept: `weights` in VisionDyno's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "visiondyno" / "weights"


def is_offline() -> bool:
    """Whether nothing may be downloaded: `--offline` or the environment says so."""
    return os.environ.get(OFFLINE, "").lower() not in {"", "0", "false", "no"}


def find_weights(file: WeightsFile, reference: str) -> Path:
    """The file as it lies here.

    Raises:
        ModelError: it isn't here; names the command that fetches it.
    """
    path = weights_folder() / file.name
    if not path.is_file():
        raise ModelError(
            f"The weights of {reference} aren't on this machine; fetch them with: dyno models pull "
            f"{reference}"
        )
    return path


def fetch_weights(file: WeightsFile, reference: str, on_progress: Progress | None = None) -> Path:
    """The file, downloaded unless it is here.

    Raises:
        ModelError: there is nothing at its address, or its SHA-256 isn't the published one.
        Unavailable: the server can't be reached, or `VISIONDYNO_OFFLINE` is set.
    """
    raise NotImplementedError
