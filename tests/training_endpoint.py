"""An emulated RunPod endpoint whose worker trains, for tests: ours, under the real SDK's loop."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from emulated_endpoint import KEY, an_emulator
from visiondyno.emulator.serve import RunningEmulator

WORKER = [sys.executable, "-m", "visiondyno.runpod_handler"]


class TrainingEndpoint(NamedTuple):
    """Where it is, and the blobs that its worker and its clients share."""

    running: RunningEmulator
    blobs_url: str

    @property
    def url(self) -> str:
        return self.running.url

    @property
    def environ(self) -> dict[str, str]:
        """What a client's environment says of it."""
        return {
            "RUNPOD_ENDPOINT_ID": self.url,
            "RUNPOD_API_KEY": KEY,
            "VISIONDYNO_BLOBS_URL": self.blobs_url,
        }


@contextmanager
def training_endpoint(folder: Path, blobs_url: str | None = None) -> Iterator[TrainingEndpoint]:
    """An endpoint with one worker, which is there from the start and runs one job at a time.

    Args:
        folder: gets the worker's home and its log.
        blobs_url: where the blobs are; None: in the folder.
    """
    blobs_url = blobs_url or (folder / "blobs").as_uri()
    environ = {
        "VISIONDYNO_HOME": str(folder / "worker"),
        "VISIONDYNO_BLOBS_URL": blobs_url,
        "VISIONDYNO_CONCURRENCY": "1",
        "RUNPOD_SKIP_GPU_CHECK": "true",
    }
    with an_emulator(folder, WORKER, workers_min=1, workers_max=1, environ=environ) as running:
        yield TrainingEndpoint(running, blobs_url)
