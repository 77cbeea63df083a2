"""A worker's files, and the samples that training data become there.

Tests that take from here are skipped without torch.
"""

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter
from training_cases import torch

from visiondyno.blobs.folder import FolderBlobs
from visiondyno.operations.context import OperationContext
from visiondyno.operations.training_samples import OpenedSamples, open_samples
from visiondyno.operations.worker_cache import WorkerCache
from visiondyno.operations.worker_files import WorkerFiles
from visiondyno.specs.training_data import TrainingData
from visiondyno.state import to_safetensors


def worker_files(folder: Path, max_bytes: int = 10_000_000) -> WorkerFiles:
    """The files of a worker that may keep so much."""
    cache = WorkerCache(folder / "cache", max_bytes)
    return WorkerFiles(lambda: FolderBlobs(folder / "blobs"), cache)


def opened(data: Any, files: WorkerFiles, module: Any = None, **context: Any) -> OpenedSamples:
    """The samples of `data`, as they are in a job's input."""
    typed = TypeAdapter(TrainingData).validate_python(data)
    return open_samples(typed, module, "training_data", files, OperationContext(**context))


def everything(samples: Any) -> Any:
    """The features of all samples, as one tensor."""
    return samples.features(torch.arange(len(samples)))


def blob(files: WorkerFiles, **tensors: Any) -> str:
    """The name of a blob of these tensors."""
    return files.publish(to_safetensors({name: np.asarray(t) for name, t in tensors.items()}))
