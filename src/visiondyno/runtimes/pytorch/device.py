"""Where torch runs a model: the device asked for and no other, with the threads asked for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from visiondyno.errors import MissingExtra, Unavailable
from visiondyno.measurements.operators import OperatorRun
from visiondyno.runtimes.base import Device, LoadOptions, gpu_number
from visiondyno.runtimes.pytorch.fp32 import exact_fp32
from visiondyno.runtimes.pytorch.profiling import OperatorRecorder

if TYPE_CHECKING:
    import torch


class TorchDevice:
    """One model's device and threads.

    Attributes:
        name: as asked for.
        device: torch's.
        version: of torch, for descriptions.
        notes: what a reader of the report must know.
    """

    def __init__(self, options: LoadOptions, needed_for: str) -> None:
        """Check the device; torch is imported here.

        Args:
            options: `device`, `intra_op_threads` and `gpu_memory_limit_bytes` are used.
            needed_for: what a missing torch is said to be needed for.

        Raises:
            MissingExtra: torch isn't installed.
            SpecError: the device's name is wrong.
            Unavailable: the device isn't here.
        """
        try:
            import torch
        except ImportError as error:
            raise MissingExtra("torch", needed_for) from error
        self.name: Device = options.device
        self.version = str(torch.__version__)
        self.device = _checked(options.device)
        self.notes: tuple[str, ...] = ()
        self._threads = options.intra_op_threads
        self._recorder = OperatorRecorder(self.device) if options.profile else None
        if self.device.type == "cuda":
            exact_fp32()
        if options.gpu_memory_limit_bytes is not None and self.device.type == "cuda":
            total = torch.cuda.get_device_properties(self.device).total_memory
            share = min(1.0, options.gpu_memory_limit_bytes / total)
            torch.cuda.set_per_process_memory_fraction(share, self.device)
            note = (
                f"GPU memory: torch's allocator may take {share:.0%} of the GPU; the CUDA context "
                "and cuDNN's own memory come on top."
            )
            self.notes = (note,)

    @property
    def provider(self) -> str:
        """What executes, for descriptions."""
        return f"torch {self.device.type}"

    @contextmanager
    def running(self) -> Iterator[None]:
        """Inside, no gradients are kept, and operators take the threads asked for.

        Threads are the process's: they are set back, so that a model that asked for none takes
        what torch takes by itself, whatever ran before it.
        """
        import torch

        if self.device.type == "cuda":
            exact_fp32()  # a training in this process may have set it back
        before = torch.get_num_threads()
        wanted = before if self._threads is None else self._threads
        if wanted != before:
            torch.set_num_threads(wanted)
        recording = nullcontext() if self._recorder is None else self._recorder.recording()
        try:
            with torch.inference_mode(), recording:
                yield
        finally:
            if wanted != before:
                torch.set_num_threads(before)

    def moved(self, array: NDArray[Any]) -> "torch.Tensor":
        """The array as a tensor on the device; of the processor it shares the array's memory.

        On its way to a GPU it is copied to page-locked memory, from where the GPU reads it at the
        full speed of the bus, while operators are being queued. torch's allocator keeps that memory
        for the next one, and doesn't hand it out before the GPU is done with it.
        """
        import torch

        tensor = torch.from_numpy(array)
        if self.device.type != "cuda":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def operator_times(self) -> Callable[[], list[OperatorRun]] | None:
        """What `LoadedModel.operator_times` is of a model that runs here from now on."""
        if self._recorder is None:
            return None
        self._recorder.forget()
        return self._recorder.operators


def _checked(name: Device) -> "torch.device":
    import torch

    number = gpu_number(name)
    if number is None:
        return torch.device(name)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if number >= count:
        here = f"there are {count} GPUs" if count else "torch finds no GPU"
        raise Unavailable(
            f"Device '{name}' can't be used here: {here}; use cpu, or check the driver with "
            "'dyno doctor'."
        )
    # With its number: some of torch's functions take no device without one.
    return torch.device("cuda", number)
