"""The process as a vision trainer needs it, and afterwards as it was.

Seeds, threads and the choice of deterministic algorithms belong to the whole process.
"""

import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


@contextmanager
def process_as_it_was(threads: int | None) -> Iterator[None]:
    """Torch with so many threads, gradients and float32; everything is put back at the end.

    Put back are: generators of random numbers (Python's, NumPy's, torch's of the processor and each
    GPU), threads, the default dtype, deterministic algorithms, cuDNN's settings, and environment
    variables.

    Args:
        threads: of torch on the processor; as they are if None.
    """
    import torch

    kept = _settings()
    try:
        with (
            warnings.catch_warnings(),
            torch.inference_mode(mode=False),
            torch.enable_grad(),
        ):
            # Libraries warn of what they do themselves, for readers of their own output.
            warnings.simplefilter("ignore")
            if threads is not None:
                torch.set_num_threads(threads)
            torch.set_default_dtype(torch.float32)
            yield
    finally:
        _put_back(kept)


def seed_everything(seed: int, epoch: int) -> None:
    """Seed all generators as a function of both, so that a resumed epoch draws the same numbers.

    Args:
        seed: of the training.
        epoch: from 1; 0 for what comes before.
    """
    import torch

    mixed = int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint32)[0])
    random.seed(mixed)
    np.random.seed(mixed)  # noqa: NPY002 - the libraries use the global one
    torch.manual_seed(mixed)


def _settings() -> dict[str, Any]:
    import torch

    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002 - the libraries use the global one
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warns_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "fills": torch.utils.deterministic.fill_uninitialized_memory,
        "cudnn": (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark),
        "environment": dict(os.environ),
    }


def _put_back(kept: dict[str, Any]) -> None:
    import torch

    for name in os.environ.keys() - kept["environment"].keys():
        del os.environ[name]
    os.environ.update(kept["environment"])
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = kept["cudnn"]
    torch.utils.deterministic.fill_uninitialized_memory = kept["fills"]
    torch.use_deterministic_algorithms(kept["deterministic"], warn_only=kept["warns_only"])
    torch.set_default_dtype(kept["dtype"])
    torch.set_num_threads(kept["threads"])
    random.setstate(kept["python"])
    np.random.set_state(kept["numpy"])  # noqa: NPY002 - likewise
    torch.set_rng_state(kept["torch"])
    if kept["cuda"]:
        torch.cuda.set_rng_state_all(kept["cuda"])
