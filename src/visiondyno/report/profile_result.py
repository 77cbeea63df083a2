"""What a profile found: the record that terminal, JSON and page are made of."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from visiondyno.measurements.roofline import Roofline
from visiondyno.report.format import number


class _Value(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class OperatorRow(_Value):
    """One operator of the model, over all measured runs.

    Attributes:
        name: of the node.
        kind: its type as executed.
        path: of module or scope, outermost first.
        kernel: which implementation ran, where the profiler says so.
        calls: how often in one run.
        ms: of all its calls in a run, mean over the middle half of the runs by their totals.
        share: of the operators' sum.
        inputs: shapes and types, in words.
        outputs: likewise.
        gflop: floating-point operations in one run, 10⁹; None: not counted.
        is_multiply_add: a convolution or matrix product.
        megabytes: least memory traffic in one run, 10⁶ bytes; None: unknown.
        intensity: operations a byte.
        gflop_per_s: what it reached.
        gigabytes_per_s: what it reached.
        limit: what binds it by the roofline.
        limit_share: of that limit; above 1 where data came from a cache.
    """

    name: str
    kind: str
    path: tuple[str, ...]
    kernel: str
    calls: int
    ms: float
    share: float
    inputs: str
    outputs: str
    gflop: float | None
    is_multiply_add: bool
    megabytes: float | None
    intensity: float | None
    gflop_per_s: float | None
    gigabytes_per_s: float | None
    limit: Literal["compute", "memory"] | None
    limit_share: float | None

    @property
    def label(self) -> str:
        """What the model's author calls it: the runtime may have named it after what it writes."""
        return "/".join(self.path) or self.name


class KindRow(_Value):
    """All operators of a type together; see `OperatorRow`.

    Attributes:
        count: how many.
        gflop: of those that are counted; None where none is.
        not_counted: how many aren't.
    """

    kind: str
    count: int
    ms: float
    share: float
    gflop: float | None
    not_counted: int
    gflop_per_s: float | None


class Peaks(_Value):
    """The machine's limits as measured, in fp32.

    Attributes:
        gflop_per_s: computing, 10⁹ operations a second; None where nothing here measures it, as
            `compute_method` says.
        gigabytes_per_s: memory, 10⁹ bytes a second.
    """

    gflop_per_s: float | None
    compute_method: str
    gigabytes_per_s: float
    memory_method: str

    @property
    def roofline(self) -> Roofline | None:
        """None where computing wasn't measured."""
        if self.gflop_per_s is None:
            return None
        return Roofline(1e9 * self.gflop_per_s, 1e9 * self.gigabytes_per_s)


class Advice(_Value):
    """One thing to do next.

    Attributes:
        title: what.
        reason: the figures that it follows from.
        command: to try it with.
        at_stake_ms: time of one run that it is about, not what it will save.
    """

    title: str
    reason: str
    command: str
    at_stake_ms: float


class Times(_Value):
    """Medians in milliseconds.

    Attributes:
        inference: of the model as it is, without the profiler.
        inference_quartiles: a quarter of the runs was below, a quarter above.
        profiled: with the profiler, in blocks between the others.
        operators: the operators' times added up; never scaled.
        preprocess: of the images to the model's input.
        postprocess: of its outputs to predictions.
    """

    inference: float
    inference_quartiles: tuple[float, float]
    profiled: float
    operators: float
    preprocess: float
    postprocess: float

    @property
    def between(self) -> float:
        """What the inference takes beside its operators; below 0 where those took longer."""
        return self.inference - self.operators

    @property
    def sum_share(self) -> float:
        """The operators' sum over the inference time beside it."""
        return self.operators / self.inference


class Profile(_Value):
    """Where a model's time goes.

    Attributes:
        schema_: names this form.
        model: reference.
        data: what was run, in words.
        threads: inside one operator; None: the runtime's own default.
        runs: measured ones, with the profiler and without alike.
        other_threads: inference time in ms at other numbers of threads, that were tried.
        quiet: whether the machine was, while it was measured.
        disturbances: why not.
    """

    model_config = ConfigDict(populate_by_name=True, extra="forbid", frozen=True)

    schema_: Literal["visiondyno.profile/1"] = Field("visiondyno.profile/1", alias="schema")
    model: str
    runtime: str
    provider: str
    device: str
    precision: str
    machine: str
    data: str
    batch_size: int
    threads: int | None
    runs: int
    times_ms: Times
    peaks: Peaks
    operators: tuple[OperatorRow, ...]
    kinds: tuple[KindRow, ...]
    other_threads: dict[int, float]
    advice: tuple[Advice, ...]
    quiet: bool
    disturbances: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def gflop(self) -> float | None:
        """Of all operators that are counted; None where none that computes is."""
        total = sum(row.gflop or 0.0 for row in self.operators)
        is_known = total > 0 or all(row.gflop is not None for row in self.operators)
        return total if is_known else None

    @property
    def counted_gflop_per_s(self) -> float | None:
        """What those that are counted reached together; None where that is unknown."""
        took_ms = sum(row.ms for row in self.operators if row.gflop is not None)
        return 1e3 * self.gflop / took_ms if self.gflop is not None and took_ms else None

    @property
    def multiply_add_gflop(self) -> float:
        """Of convolutions and matrix products alone, two for each multiply-add."""
        return sum(row.gflop or 0.0 for row in self.operators if row.is_multiply_add)

    @property
    def uncounted_share(self) -> float:
        """Share of the operators' time whose work isn't counted."""
        return sum(row.share for row in self.operators if row.gflop is None)

    @property
    def counted_text(self) -> str:
        """What `gflop` is of, in words."""
        left_out = self.uncounted_share
        if self.gflop is None:
            return "No operator here has a rule, or shapes that are told, to count it by."
        text = (
            f"{number(self.multiply_add_gflop)} of it convolutions and matrix products, two for "
            "each multiply-add."
        )
        if left_out < LEAST_TOLD:
            return text
        return f"{text} Operators that take {left_out:.1%} of the time aren't counted."

    @property
    def sum_text(self) -> str:
        """Whether the operators' sum is the inference time, in words."""
        times = self.times_ms
        apart = abs(times.sum_share - 1)
        text = (
            f"The operators' times add up to {times.operators:.3g} ms, {times.sum_share:.1%} of "
            f"the inference time measured beside them without a profiler ({times.inference:.3g} ms)"
        )
        if apart <= SUM_TOLERANCE:
            return f"{text}: within {SUM_TOLERANCE:.0%}."
        if times.sum_share < 1:
            return f"{text}: more than {SUM_TOLERANCE:.0%} of it passes between operators."
        return (
            f"{text}: the profiler made them slower, or the machine wasn't quiet. Take the shares, "
            "not the milliseconds."
        )


LEAST_TOLD = 0.001
"""A share of the time that isn't counted and is no longer told."""

SUM_TOLERANCE = 0.05
"""How far the operators' sum may lie from the inference time."""
