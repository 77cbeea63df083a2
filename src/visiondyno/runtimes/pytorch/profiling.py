"""What torch's profiler says of a module's runs: the operators it called, and their times."""

import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from visiondyno.measurements.operators import OperatorRun, OperatorTensor
from visiondyno.runtimes.pytorch.profiled_shapes import output_shape, pooled_window, resize_mode

if TYPE_CHECKING:
    import torch

_SCOPE = "visiondyno-module:"
_DTYPES = {
    "float": "float32", "double": "float64", "c10::Half": "float16", "c10::BFloat16": "bfloat16",
    "long int": "int64", "long": "int64", "int": "int32", "unsigned char": "uint8",
    "signed char": "int8", "bool": "bool",
}  # fmt: skip


class OperatorRecorder:
    """Records runs of whatever torch runs inside `recording`, one after another.

    An operator is what a module called (`aten::conv2d`), with all that it called in turn: on the
    processor the time it took there, on a GPU that of the kernels it started. Its path is that of
    the modules around it, by their names in the outermost one.
    """

    def __init__(self, device: "torch.device") -> None:
        # The profiler's library would write lines of its own to standard error.
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
        self._device = device
        self._on_gpu = device.type == "cuda"
        self._runs: list[Any] = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record what is run inside as the next run."""
        import torch
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._on_gpu else [])]
        with profile(activities=activities, record_shapes=True) as profiler, _named_modules():
            yield
            if self._on_gpu:
                torch.cuda.synchronize(self._device)
        self._runs.append(profiler)

    def forget(self) -> None:
        """Drop what was recorded up to now."""
        self._runs = []

    def operators(self) -> list[OperatorRun]:
        """The operators of every run, in order; the records are dropped, run by run.

        Of a single run torch makes megabytes of objects, once they are asked for.
        """
        found: list[OperatorRun] = []
        recorded, self._runs = deque(self._runs), []
        for number in range(len(recorded)):
            profiler = recorded.popleft()
            names: Counter[str] = Counter()
            events = sorted(profiler.events(), key=lambda event: event.time_range.start)
            found += [
                self._operator(event, number, names) for event in events if _is_outermost(event)
            ]
            for event in events:  # each other's parents and children: nothing else frees them
                event.cpu_children.clear()
                event.cpu_parent = None
        return found

    def _operator(self, event: Any, run: int, names: Counter[str]) -> OperatorRun:
        scope = _scope(event)
        kind = event.name
        name = "/".join((*scope, kind.rsplit("::", 1)[-1]))
        names[name] += 1
        if names[name] > 1:
            name = f"{name}_{names[name]}"
        took_us = event.device_time_total if self._on_gpu else event.cpu_time_total
        told = _told(event)
        inputs = _tensors(told)
        shape = output_shape(kind, told.input_shapes, told.concrete_inputs)
        dtype = inputs[0].dtype if inputs else "float32"
        return OperatorRun(
            run=run,
            name=name,
            kind=kind,
            seconds=max(0.0, took_us) / 1e6,
            inputs=inputs,
            outputs=() if shape is None else (OperatorTensor(dtype, shape),),
            path=tuple(name.split("/")),
            kernel=_innermost(event).name,
            window=pooled_window(kind, told.concrete_inputs),
            mode=resize_mode(kind),
        )


def _is_outermost(event: Any) -> bool:
    """An operator that a module, and no other operator, called."""
    if not event.name.startswith(("aten::", "torchvision::", "quantized::")):
        return False
    parent = event.cpu_parent
    while parent is not None:
        if parent.name.startswith(("aten::", "torchvision::", "quantized::")):
            return False
        parent = parent.cpu_parent
    return True


def _scope(event: Any) -> tuple[str, ...]:
    parent, names = event.cpu_parent, []
    while parent is not None:
        if parent.name.startswith(_SCOPE):
            names.append(parent.name.removeprefix(_SCOPE))
        parent = parent.cpu_parent
    # The innermost module's name holds those of all around it.
    return tuple(part for part in names[0].split(".") if part) if names else ()


def _told(event: Any) -> Any:
    """Which event has the sizes in numbers: a convolution's padding may be a word outside."""
    if event.name in ("aten::conv1d", "aten::conv2d", "aten::conv3d"):
        inner = event
        while inner.cpu_children:
            inner = inner.cpu_children[0]
            if inner.name == "aten::convolution":
                return inner
    return event


def _innermost(event: Any) -> Any:
    """Where most of its time goes: the kernel."""
    while event.cpu_children:
        child = max(event.cpu_children, key=lambda one: one.cpu_time_total)
        if child.cpu_time_total < event.cpu_time_total / 2:
            return event
        event = child
    return event


def _tensors(event: Any) -> tuple[OperatorTensor, ...]:
    """The inputs that are tensors; none at all where one is a list, whose shapes aren't told."""
    dtypes: Sequence[str] = getattr(event, "input_dtypes", None) or ()
    if any(dtype == "TensorList" for dtype in dtypes):
        return ()
    found = []
    for place, shape in enumerate(event.input_shapes):
        dtype = _DTYPES.get(dtypes[place], "") if place < len(dtypes) else "float32"
        if shape and dtype:
            found.append(OperatorTensor(dtype, tuple(shape)))
    return tuple(found)


@contextmanager
def _named_modules() -> Iterator[None]:
    """Inside, every module's forward is an event named after its place in the outermost one."""
    from torch.autograd.profiler import record_function
    from torch.nn.modules import module as hooks

    open_modules: list[tuple[Any, str, Any]] = []

    def enter(module: Any, _: Any) -> None:
        path = _path_in(*open_modules[-1][:2], module) if open_modules else ""
        scope = record_function(_SCOPE + path)
        scope.__enter__()
        open_modules.append((module, path, scope))

    def leave(_: Any, __: Any, ___: Any) -> None:
        if open_modules:
            open_modules.pop()[2].__exit__(None, None, None)

    before = hooks.register_module_forward_pre_hook(enter)
    after = hooks.register_module_forward_hook(leave, always_call=True)
    try:
        yield
    finally:
        before.remove()
        after.remove()


def _path_in(parent: Any, path: str, module: Any) -> str:
    """The module's name where it is called: one that several share has another name in each."""
    for name, child in parent.named_modules(remove_duplicate=False):
        if child is module and name:
            return f"{path}.{name}".strip(".")
    return f"{path}.{type(module).__name__}".strip(".")
