"""What an untrusted child may use, and what was done to hold it to that."""

import os
from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Limits(BaseModel):
    """What a child may use.

    Attributes:
        memory_bytes: private memory (`RLIMIT_DATA`); the address space may be
            `address_space_bytes`, which covers shared memory too.
        cpu_s: processor time of all its threads together.
        file_bytes: size of any file it writes.
        threads: at most so many where the kernel counts them (not for root).
        network: whether it may use the network.
        gpu: whether it may use NVIDIA GPUs; the address space has then no limit, because CUDA
            reserves more of it than there is memory.
        readable: files and folders it may read beside the interpreter and its packages.
        writable: files and folders it may write. A file must be there already.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    memory_bytes: Annotated[int, Field(ge=100_000_000)]
    cpu_s: Annotated[int, Field(ge=1)]
    file_bytes: Annotated[int, Field(ge=0)] = 100_000_000
    threads: Annotated[int, Field(ge=1)] = 512
    network: bool = False
    gpu: bool = False
    readable: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()

    @property
    def address_space_bytes(self) -> int:
        """Memory, plus what libraries and allocators map or reserve without using it.

        ONNX Runtime and OpenCV mapped 0.6–0.8 GB beyond their private memory on 2 cores; glibc
        reserves 64 MiB of address space for each thread's arena.
        """
        return self.memory_bytes + (2 << 30) + (os.cpu_count() or 1) * (72 << 20)


class Protection(BaseModel):
    """One protection: whether it holds, and by what (or why not)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    held: bool
    how: str


_PASSED_ON = frozenset(
    {
        "PATH",
        "LANG",
        "LANGUAGE",
        "LC_ALL",
        "LC_CTYPE",
        "TZ",
        "PYTHONPATH",
        "PYTHONHOME",
        "LD_LIBRARY_PATH",
        "OMP_NUM_THREADS",
        "CUDA_VISIBLE_DEVICES",
        "NVIDIA_VISIBLE_DEVICES",
        "NVIDIA_DRIVER_CAPABILITIES",
    }
)


def scrubbed(environment: Mapping[str, str]) -> dict[str, str]:
    """What an untrusted child sees of the environment: no key, no address, no home folder."""
    kept = {name: value for name, value in environment.items() if name in _PASSED_ON}
    return {
        **kept,
        "HOME": "/nonexistent",
        "TMPDIR": "/nonexistent",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
        # Each of NumPy's BLAS threads would reserve memory, and nothing here multiplies matrices.
        "OPENBLAS_NUM_THREADS": "1",
    }
