"""One execution of one operator of a model, as a runtime's profiler saw it."""

from dataclasses import dataclass

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class OperatorTensor:
    """What an operator read or wrote.

    Attributes:
        dtype: NumPy's name, such as `float32`; the profiler's own where NumPy has none.
        shape: as it really was; the kernel's own layout, padding included.
    """

    dtype: str
    shape: Shape


@dataclass(frozen=True, slots=True)
class OperatorRun:
    """One operator, once.

    Attributes:
        run: which run of the graph, from 0.
        name: of the node; unlike any other node's.
        kind: type of the operator as the runtime executes it, e.g. `FusedConv`, `aten::conv2d`.
        seconds: what it took, without what it waited for before.
        inputs: what it read, weights included; empty where the profiler doesn't say.
        outputs: what it wrote; empty where that is unknown.
        path: of the module or name scope it belongs to, from the outermost; the last is itself.
        kernel: which implementation ran, where the profiler says so.
        window: elements that a pooling reads for each of its outputs; None where unknown.
        mode: of a resizing, `nearest`, `linear` or `cubic`; None where unknown.
    """

    run: int
    name: str
    kind: str
    seconds: float
    inputs: tuple[OperatorTensor, ...] = ()
    outputs: tuple[OperatorTensor, ...] = ()
    path: tuple[str, ...] = ()
    kernel: str = ""
    window: int | None = None
    mode: str | None = None
