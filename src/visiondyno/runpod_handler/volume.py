"""Where a RunPod worker keeps what is worth keeping: on its network volume, where it has one."""

import os
from collections.abc import MutableMapping
from pathlib import Path

VOLUME = Path("/runpod-volume")
"""Where RunPod mounts an endpoint's network volume; all its workers share it."""

_FOLDERS = {
    "VISIONDYNO_HOME": "home",
    "XDG_CACHE_HOME": "cache",
    "TORCH_HOME": "cache/torch",
    "HF_HOME": "cache/huggingface",
}


def keep_on_volume(environ: MutableMapping[str, str], volume: Path = VOLUME) -> Path | None:
    """Have weights, data and states kept below `volume`, unless the environment says where.

    Args:
        environ: gets `VISIONDYNO_HOME`, `XDG_CACHE_HOME`, `TORCH_HOME` and `HF_HOME`.
        volume: the mount.

    Returns:
        The folder, or None where no volume is mounted; then nothing is changed, and what is kept
        lasts as long as the worker's disk.
    """
    if not (volume.is_dir() and os.access(volume, os.W_OK | os.X_OK)):
        return None
    folder = volume / "visiondyno"
    for name, inside in _FOLDERS.items():
        environ.setdefault(name, str(folder / inside))
    return folder
