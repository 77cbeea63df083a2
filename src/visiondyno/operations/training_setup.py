"""What the operations on torch modules begin with: torch as asked, the module, its samples."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from visiondyno import __version__
from visiondyno.errors import MissingExtra, OperationFailed
from visiondyno.operations.context import OperationContext
from visiondyno.operations.memory_limit import within_memory
from visiondyno.operations.state_exchange import ReceivedState, receive_state
from visiondyno.operations.worker_files import WorkerFiles
from visiondyno.probes.gpu_share import memory_fraction
from visiondyno.runtimes.pytorch.fp32 import fp32_as_it_was
from visiondyno.runtimes.torch_memory import limit_torch_memory
from visiondyno.specs.training import Hyperparameters
from visiondyno.specs.training_operations import ModuleInput
from visiondyno.state import MAX_STATE_BYTES, load_into
from visiondyno.state.program_check import MAX_PROGRAM_BYTES
from visiondyno.training.data import Samples
from visiondyno.training.forward import compiler_of_its_own
from visiondyno.training.losses import build_loss
from visiondyno.training.memory import is_out_of_memory
from visiondyno.training.modules import build_module
from visiondyno.training.optimizers import build_optimizer
from visiondyno.training.precision import choose_device

if TYPE_CHECKING:
    import torch
    from torch import nn

BETWEEN_STEPS_TOLD_S = 2.0
"""Progress within a pass comes no more often."""

_ONE_JOB = threading.RLock()
_LOOK_S = 0.2
_ANY_STATE_BYTES = 100_000_000


@dataclass(frozen=True)
class PreparedModule:
    """A module, ready to be used.

    Attributes:
        module: on `device`, in training mode, with the weights that the job came with.
        device: where.
        received: the job's `model_state`; None where the weights are fresh.
        environment: what the answer says of it: `device`, `threads`, `torch`, `visiondyno`.
        notes: what else the answer must say.
    """

    module: "nn.Module"
    device: "torch.device"
    received: ReceivedState | None
    environment: dict[str, Any]
    notes: tuple[str, ...] = ()


def torch_as_asked(spec: ModuleInput, context: OperationContext) -> AbstractContextManager[None]:
    """Torch as an operation on a module needs it; see `torch_of_a_job`."""
    return torch_of_a_job(spec.threads, context, compiles=spec.hyperparameters.compile)


@contextmanager
def torch_of_a_job(
    threads: int | None, context: OperationContext, *, compiles: bool = False
) -> Iterator[None]:
    """Torch with the job's threads, gradients and float32; afterwards as it was.

    Each operation that trains runs inside: the process may be the user's own. Threads, default
    dtype and random generators belong to the whole process: other threads of it see the job's
    meanwhile, and a second job of the process waits until the first has ended.

    Args:
        threads: of torch on the processor; as they are if None.
        context: of the job.
        compiles: the job calls `torch.compile`.

    Raises:
        MissingExtra: torch isn't installed.
        OperationFailed: the memory ran out, of the processor or a GPU.
        Cancelled, TimeLimitExceeded: while it waited.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("torch", "Training") from error
    while not _ONE_JOB.acquire(timeout=_LOOK_S):
        context.check()
    before, dtype = torch.get_num_threads(), torch.get_default_dtype()
    try:
        # Models that this process has run on a GPU mustn't decide what a training comes to.
        fp32_as_it_was()
        torch.set_num_threads(threads or before)
        torch.set_default_dtype(torch.float32)
        # CUDA's driver maps much that it doesn't use.
        limited = nullcontext() if torch.cuda.is_available() else within_memory()
        compiler = compiler_of_its_own() if compiles else nullcontext()
        with limited, compiler, torch.inference_mode(mode=False), torch.enable_grad():
            yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise OperationFailed(
            "The memory is full. Take a smaller 'batch_size' or model, or a worker with more "
            "memory.",
            stage="prepare",
        ) from error
    finally:
        torch.set_num_threads(before)
        torch.set_default_dtype(dtype)
        _ONE_JOB.release()


def prepare_module(
    spec: ModuleInput, files: WorkerFiles, context: OperationContext
) -> PreparedModule:
    """The module that `spec` describes, on its device; call it inside `torch_as_asked`.

    Raises:
        SpecError: the configuration is wrong; names the layer or argument.
        ModelError: the state, or an exported program, is damaged or of another model.
        BaseMissing: the state is a delta to one that isn't held here.
        NotFound: a blob isn't in the store.
        Unavailable: there is no such device.
        MissingExtra: torch, timm or transformers isn't installed.
    """
    device = choose_device(spec.device)
    import torch

    notes = kept_to_its_share(device)
    context.progress("preparing the model")
    module = build_module(
        spec.config,
        seed=spec.seed_used,
        open_blob=lambda reference: files.read(
            reference, "The program of 'model_config'", MAX_PROGRAM_BYTES
        ),
    )
    context.check()
    received = receive_state(spec, files, _most_bytes(module))
    if received is not None:
        load_into(module, received.state)
    environment = {
        "device": str(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "visiondyno": __version__,
    }
    return PreparedModule(module.to(device), device, received, environment, notes)


def _most_bytes(module: "nn.Module") -> int:
    """How long a state may be that is for `module`: 64 kB of Zstandard can hold 2 GB of zeros.

    Twice its own, so that one of another model is still told apart by what it holds.
    """
    own = sum(int(getattr(entry, "nbytes", 0)) for entry in module.state_dict().values())
    return min(MAX_STATE_BYTES, 2 * own + _ANY_STATE_BYTES)


def check_hyperparameters(hyperparameters: Hyperparameters, module: "nn.Module") -> None:
    """Refuses names and arguments that are wrong whatever the data are: before any is read.

    Raises:
        SpecError: loss or optimiser is unknown, or its arguments are wrong.
    """
    build_loss(hyperparameters)
    build_optimizer(hyperparameters, module)


class StoppableSamples:
    """Samples whose every batch looks whether the job must stop."""

    def __init__(self, samples: Samples, context: OperationContext) -> None:
        self._samples = samples
        self._context = context
        self.labels = samples.labels
        self.finite = samples.finite

    def __len__(self) -> int:
        return len(self._samples)

    def features(self, indices: "torch.Tensor") -> "torch.Tensor":
        """As of the samples; raises `Cancelled` or `TimeLimitExceeded` instead."""
        self._context.check()
        return self._samples.features(indices)


class StepTicker:
    """Tells of the batches of a pass, not too often."""

    def __init__(
        self,
        context: OperationContext,
        stage: str,
        clock: Callable[[], float] = time.monotonic,
        **facts: Any,
    ) -> None:
        """`facts` are told each time, beside `done` and `total`."""
        self._context = context
        self._stage = stage
        self._facts = facts
        self._clock = clock
        self._told_s = clock()

    def tell(self, done: int, total: int, **facts: Any) -> None:
        """After each batch: its number, of how many, and more facts.

        Raises:
            Cancelled, TimeLimitExceeded: the job must stop.
        """
        self._context.check()
        now_s = self._clock()
        if now_s - self._told_s >= BETWEEN_STEPS_TOLD_S:
            self._told_s = now_s
            told = self._facts | facts
            self._context.progress(self._stage, **told, done=done, total=total)


def kept_to_its_share(device: "torch.device") -> tuple[str, ...]:
    """Keep torch to this process's share of a GPU; what a reader must know where that can't be."""
    fraction = memory_fraction() if device.type == "cuda" else None
    problem = None if fraction is None else limit_torch_memory(str(device), fraction)
    return () if problem is None else (problem,)
