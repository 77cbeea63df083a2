"""Predictions of earlier accuracy passes, by the content of everything that could change them."""

import datetime
import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from visiondyno import __version__
from visiondyno.datasets.base import Dataset
from visiondyno.datasets.registry import default_cache_dir
from visiondyno.environment import Environment
from visiondyno.runtimes.model_files import content_digest, model_files
from visiondyno.runtimes.registry import resolve_reference
from visiondyno.specs.operations import BenchmarkInput


@dataclass(frozen=True, slots=True)
class CachedPass:
    """An accuracy pass of the past: its predictions and when it was made (UTC)."""

    file: Path
    made_at: str


class AccuracyCache:
    """A folder of predictions, one file a key; a file appears whole or not at all.

    The key covers the runtime, the bytes of the model's files and of its card, the data set's
    digest, the device and threads, this package's version and every package that can change a
    number, and the machine. At which level predictions are scored isn't in it: they are the same.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """`folder` is `accuracy` in the cache folder if None."""
        self._folder = folder or default_cache_dir() / "accuracy"

    def key(
        self, reference: str, spec: BenchmarkInput, dataset: Dataset, environment: Environment
    ) -> str | None:
        """The key of this model's pass; None for a model that has no files of its own here.

        Raises:
            ModelError: they can't be read.
        """
        resolved = resolve_reference(reference)
        files = model_files(resolved)
        if files is None:
            return None
        parts = {
            "runtime": resolved.runtime,
            "model": content_digest(files),
            "data": dataset.digest,
            "device": spec.device,
            "threads": spec.threads,
            "visiondyno": __version__,
            "packages": environment.packages,
            "machine": environment.machine_id,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def find(self, key: str | None) -> CachedPass | None:
        """The pass of this key, if it is here."""
        if key is None:
            return None
        file = self._folder / f"{key}.npz"
        try:
            made_s = file.stat().st_mtime
        except OSError:
            return None
        made_at = datetime.datetime.fromtimestamp(made_s, datetime.UTC)
        return CachedPass(file, made_at.isoformat(timespec="seconds"))

    def keep(self, key: str | None, predictions_file: Path) -> None:
        """Store a pass; a cache that can't be written keeps nothing, and nothing is lost."""
        if key is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._folder, suffix=".part")
            os.close(handle)
            shutil.copyfile(predictions_file, name)
            Path(name).replace(self._folder / f"{key}.npz")
        except OSError:
            return
