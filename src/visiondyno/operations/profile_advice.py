"""What to do about a model's time, by stated rules: each names the figures that it follows from.

A rule whose figures don't reach its threshold says nothing. Those that speak are in order of the
time that they are about, and the first three count.

- Convolutions and matrix products in fp32 take 40 % of the operators' time: fewer bits.
- They reach less than half of the peak, on the processor: another library's kernels.
- 15 % of the operators' time only moves data: a library that fuses such operators away.
- 10 % of the inference lies between operators: more work in each run.
- Preprocessing takes longer than the inference: prepare images beside each other.
- Another number of threads is 10 % faster.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from visiondyno.report.format import listed, plural
from visiondyno.report.profile_result import Advice, OperatorRow, Peaks, Times
from visiondyno.runtimes.references import resolve_reference
from visiondyno.runtimes.trained_models import read_trained

MOST = 3
_PRODUCTS_SHARE = 0.4
_LOW_PEAK_SHARE = 0.5
_MOVING_SHARE = 0.15
_BETWEEN_SHARE = 0.1
_FASTER = 0.9
_MORE_IMAGES, _MOST_IMAGES = 8, 1024
_EXPORTABLE = frozenset({"ultralytics", "torchvision", "timm", "transformers", "trained"})


@dataclass(frozen=True, slots=True)
class Findings:
    """The figures that the rules look at.

    Attributes:
        model: reference.
        data: reference, if one was given.
        fixed_batch: images that the model takes at once; None: any number.
        threads: inside an operator; None: the runtime's default.
        other_threads: inference in ms at other numbers of threads.
        usable_cpus: processors this process may use.
        is_exportable: whether `dyno export` makes an ONNX file of it.
    """

    model: str
    data: str | None
    device: str
    precision: str
    batch_size: int
    fixed_batch: int | None
    threads: int | None
    times: Times
    peaks: Peaks
    rows: Sequence[OperatorRow]
    other_threads: dict[int, float]
    usable_cpus: int
    is_exportable: bool

    @property
    def model_argument(self) -> str:
        """For a command line."""
        return shlex.quote(self.model)

    @property
    def data_argument(self) -> str:
        """For a command line; a word to be replaced where no data were given."""
        return shlex.quote(self.data) if self.data else "FOLDER"

    def command(self, name: str, *more: str) -> str:
        """Of `dyno`, on this model, with as many threads as were measured."""
        threads = () if self.threads is None else (f"--threads {self.threads}",)
        return " ".join(("dyno", name, self.model_argument, *more, *threads))

    def profile_command(self, **changes: int) -> str:
        """Profiles it once more, otherwise."""
        asked = {
            "--data": self.data and self.data_argument,
            "--batch": changes.get("batch", self.batch_size),
            "--threads": changes.get("threads", self.threads),
            "--device": self.device,
        }
        usual = {"--batch": 1, "--device": "cpu"}
        given = [
            f"{name} {value}"
            for name, value in asked.items()
            if value is not None and value != usual.get(name)
        ]
        return " ".join(("dyno profile", self.model_argument, *given))

    @property
    def is_onnx_file(self) -> bool:
        """Whether OpenVINO could run it as well."""
        return PurePath(self.model).suffix.lower() == ".onnx" and ":" not in self.model


def advice_of(found: Findings) -> tuple[Advice, ...]:
    """At most three things to do, that about most time first; fewer where no more has figures."""
    rules = (_fewer_bits, _other_kernels, _moving, _between, _preprocessing, _threads)
    spoken = [advice for rule in rules if (advice := rule(found)) is not None]
    spoken.sort(key=lambda advice: -advice.at_stake_ms)
    commands: dict[str, Advice] = {}
    for advice in spoken:
        commands.setdefault(advice.command, advice)
    return tuple(commands.values())[:MOST]


def can_be_exported(reference: str) -> bool:
    """Whether torch runs it, and `dyno export` makes an ONNX file of it: not of two stages.

    Raises:
        ModelError: there is no such model, or its record is damaged.
    """
    resolved = resolve_reference(reference)
    name = resolved.name
    if resolved.runtime == "trained" and resolved.path is not None:
        name = read_trained(resolved.path).name
    return resolved.runtime in _EXPORTABLE and "rcnn" not in name


def _products(found: Findings) -> tuple[float, float, float | None]:
    """Share of the time, milliseconds, and share of the peak of convolutions and products."""
    rows = [row for row in found.rows if row.is_multiply_add]
    took_ms = sum(row.ms for row in rows)
    peak = found.peaks.gflop_per_s
    gflop = sum(row.gflop or 0.0 for row in rows)
    reached = None if peak is None or not took_ms else 1e3 * gflop / took_ms / peak
    return sum(row.share for row in rows), took_ms, reached


def _fewer_bits(found: Findings) -> Advice | None:
    share, took_ms, reached = _products(found)
    if share < _PRODUCTS_SHARE or found.precision != "fp32" or found.device != "cpu":
        return None
    if not found.is_onnx_file:
        return None
    at = "" if reached is None else f", at {reached:.0%} of the peak that this machine computes"
    return Advice(
        title="Compute in 8 bits",
        reason=f"{share:.0%} of the operators' time is in convolutions and matrix products in "
        f"fp32{at}; in int8 they read a quarter of the bytes.",
        command=found.command(
            "quantize",
            "--to static-int8 --calibrate OTHER_IMAGES",
            f"--data {found.data_argument}",
        ),
        at_stake_ms=took_ms,
    )


def _other_kernels(found: Findings) -> Advice | None:
    share, took_ms, reached = _products(found)
    if share < _PRODUCTS_SHARE or reached is None or reached >= _LOW_PEAK_SHARE:
        return None
    if not found.is_onnx_file or found.device != "cpu":
        return _export(found, share, took_ms, reached)
    return Advice(
        title="Try another library's kernels",
        reason=f"Convolutions and matrix products, {share:.0%} of the operators' time, reach "
        f"{reached:.0%} of the {found.peaks.gflop_per_s:.3g} GFLOP/s measured here.",
        command=_compare_openvino(found),
        at_stake_ms=took_ms * (1 - reached),
    )


def _export(found: Findings, share: float, took_ms: float, reached: float) -> Advice | None:
    if found.device != "cpu" or not found.is_exportable:
        return None
    return Advice(
        title="Run it as an ONNX file",
        reason=f"Convolutions and matrix products, {share:.0%} of the operators' time, reach "
        f"{reached:.0%} of the {found.peaks.gflop_per_s:.3g} GFLOP/s measured here; ONNX Runtime "
        "and OpenVINO fuse and lay out the whole graph before they run it.",
        command=f"dyno export {found.model_argument} --data {found.data_argument}",
        at_stake_ms=took_ms * (1 - reached),
    )


def _moving(found: Findings) -> Advice | None:
    rows = [row for row in found.rows if row.gflop == 0 and row.ms > 0]
    share = sum(row.share for row in rows)
    if share < _MOVING_SHARE or not found.is_onnx_file or found.device != "cpu":
        return None
    took: dict[str, float] = {}
    for row in rows:
        took[row.kind] = took.get(row.kind, 0.0) + row.ms
    kinds = sorted(took, key=lambda kind: -took[kind])[:3]
    return Advice(
        title="Have less data moved",
        reason=f"{share:.0%} of the operators' time moves data and computes nothing, most of it in "
        f"{listed(kinds)}.",
        command=_compare_openvino(found),
        at_stake_ms=sum(took.values()),
    )


def _between(found: Findings) -> Advice | None:
    times = found.times
    share = times.between / times.inference
    is_full = found.fixed_batch is not None or found.batch_size == _MOST_IMAGES
    if share < _BETWEEN_SHARE or is_full:
        return None
    return Advice(
        title="Give each run more to do",
        reason=f"{share:.0%} of the inference ({times.between:.2g} of {times.inference:.3g} ms) "
        f"lies between its {plural(len(found.rows), 'operator')}. More images in a run share it.",
        command=found.profile_command(batch=min(_MORE_IMAGES * found.batch_size, _MOST_IMAGES)),
        at_stake_ms=times.between,
    )


def _preprocessing(found: Findings) -> Advice | None:
    times = found.times
    replicas = found.usable_cpus
    if times.preprocess <= times.inference or replicas < 2:
        return None
    return Advice(
        title="Prepare images beside each other",
        reason=f"Preprocessing takes {times.preprocess:.3g} ms, longer than the inference "
        f"({times.inference:.3g} ms); {replicas} replicas prepare as many images at once.",
        command=f"dyno serve {found.model_argument} --replicas {replicas}",
        at_stake_ms=times.preprocess,
    )


def _threads(found: Findings) -> Advice | None:
    if not found.other_threads:
        return None
    threads, took_ms = min(found.other_threads.items(), key=lambda item: item[1])
    now_ms = found.times.inference
    if took_ms > _FASTER * now_ms:
        return None
    now = "the runtime's default" if found.threads is None else str(found.threads)
    return Advice(
        title=f"Use {threads} thread{'s' * (threads > 1)}",
        reason=f"Inference took {took_ms:.3g} ms at {threads} thread{'s' * (threads > 1)}, and "
        f"{now_ms:.3g} ms at {now}.",
        command=found.profile_command(threads=threads),
        at_stake_ms=now_ms - took_ms,
    )


def _compare_openvino(found: Findings) -> str:
    other = shlex.quote(f"openvino:{found.model}")
    return found.command("compare", other, f"--data {found.data_argument}")
