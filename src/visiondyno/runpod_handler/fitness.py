"""Whether this machine can do what the image is for, found out before the first job."""

import asyncio
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from visiondyno.blobs.open import open_blobs
from visiondyno.errors import SpecError, StorageFull, TransportDown, Unavailable
from visiondyno.probes.slots import GpuMemory
from visiondyno.settings import Settings

Check = Callable[[], Awaitable[None]]
"""Raises a `VisionDynoError` whose sentence says what is wrong and what to do."""

REQUIRE_GPU_VARIABLE = "VISIONDYNO_REQUIRE_GPU"
LEAST_FREE_BYTES = 1_000_000_000
_ANSWER_S = 20.0
_TORCH_S = 120.0
_NO_BLOB = "0" * 64
_LOOK_FOR_CUDA = (
    "import importlib.util as u, sys\n"
    "if u.find_spec('torch') is None: sys.exit(0)\n"
    "import torch\n"
    "if not torch.cuda.is_available(): sys.exit(f'torch {torch.__version__} sees no GPU')\n"
    "torch.zeros(8, device='cuda').sum().item()\n"
)


def fitness_checks(
    settings: Settings, environ: Mapping[str, str], gpus: Callable[[], Sequence[GpuMemory]]
) -> list[Check]:
    """What must hold on this machine, the quickest first.

    The disk can be written. The blob store answers, where `VISIONDYNO_BLOBS_URL` names one. A GPU
    is there, and torch can use it where it is installed, where `VISIONDYNO_REQUIRE_GPU` is 1 (the
    image sets it).

    Args:
        settings: of the worker.
        environ: where `VISIONDYNO_REQUIRE_GPU` is looked up.
        gpus: what the driver shows; raises `Unavailable` where there is none.

    Raises:
        SpecError: `VISIONDYNO_REQUIRE_GPU` is neither 0 nor 1.
    """
    told = environ.get(REQUIRE_GPU_VARIABLE, "").strip() or "0"
    if told not in {"0", "1"}:
        raise SpecError(
            f"{REQUIRE_GPU_VARIABLE} is '{told:.40}'; give 1 where jobs need a GPU, or 0."
        )

    async def disk_is_writable() -> None:
        await asyncio.to_thread(check_disk, settings.folder)

    async def blobs_answer() -> None:
        await check_blobs(settings)

    async def gpu_works() -> None:
        await check_gpu(gpus)

    checks: list[Check] = [disk_is_writable]
    if settings.blobs_url is not None:
        checks.append(blobs_answer)
    if told == "1":
        checks.append(gpu_works)
    return checks


def check_disk(folder: Path, least_free_bytes: int = LEAST_FREE_BYTES) -> None:
    """Write a file into `folder`, made if need be, and look for free space.

    Raises:
        Unavailable: it can't be written.
        StorageFull: less than `least_free_bytes` are free.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"fit")
            file.flush()
            os.fsync(file.fileno())
        found = os.statvfs(folder)
    except OSError as error:
        raise Unavailable(
            f"The worker's folder {folder} can't be written ({error.strerror}); mount a volume "
            "that can, or name another folder with VISIONDYNO_HOME."
        ) from error
    free_bytes = found.f_bavail * found.f_frsize
    if free_bytes < least_free_bytes:
        raise StorageFull(
            f"The worker's folder {folder} has {free_bytes / 1e9:.1f} GB of space left and needs "
            f"{least_free_bytes / 1e9:g} GB; give the endpoint a larger disk or volume."
        )


async def check_blobs(settings: Settings, answer_s: float = _ANSWER_S) -> None:
    """Ask the store at `VISIONDYNO_BLOBS_URL` for a blob that nobody has.

    Raises:
        VisionDynoError: what the store says is wrong with its address or its key.
        TransportDown: it doesn't answer within `answer_s`.
    """
    secret = settings.blobs_api_key
    key = None if secret is None else secret.get_secret_value()
    blobs = open_blobs(
        settings.blobs_url, settings.folder / "blobs", key, settings.blobs_quota_bytes
    )
    try:
        async with asyncio.timeout(answer_s):
            await blobs.has(_NO_BLOB)
    except TimeoutError as error:
        raise TransportDown(
            f"The blob store at {settings.blobs_url} doesn't answer within {answer_s:g} s; check "
            "VISIONDYNO_BLOBS_URL and that this worker may reach it."
        ) from error
    finally:
        await blobs.close()


async def check_gpu(gpus: Callable[[], Sequence[GpuMemory]], torch_s: float = _TORCH_S) -> None:
    """The driver shows a GPU, and a process of its own computes on it with torch.

    Raises:
        Unavailable: it doesn't, or torch can't, or not within `torch_s`.
    """
    if not gpus():
        raise Unavailable(
            "The driver shows no GPU and this image needs one; give the endpoint workers with a "
            f"GPU, or set {REQUIRE_GPU_VARIABLE}=0."
        )
    # Not here: what once used CUDA keeps memory on the GPU.
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _LOOK_FOR_CUDA),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(torch_s):
            said, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        said = f"no answer within {torch_s:g} s".encode()
    if process.returncode:
        lines = said.decode(errors="replace").strip().splitlines()
        last = lines[-1][:300] if lines else f"it ended with {process.returncode}"
        raise Unavailable(
            f"torch can't compute on this worker's GPU ({last}); use an image whose CUDA is one "
            "that the host's driver supports."
        )
