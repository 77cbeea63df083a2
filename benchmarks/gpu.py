"""On a machine with an NVIDIA GPU: our runtimes beside plain loops, our probes beside the counters.

Runs from the repository alone, `PYTHONPATH=src python3 benchmarks/gpu.py`, without a network and
with what that Python has. It says first which packages are missing, leaves out what needs them, and
writes what was left out, with the reason, beside the figures. Without a GPU it ends with code 2.

- `torch_gpu_ratio_to_raw_batch_N`: images a second of the torch runtime over those of a bare torch
  loop; the same module, arrays in and out, fp32 in both.
- `energy_ratio_to_counter`: joules by our probe over those of the GPU's counter read around it.
- `vram_ratio_to_nvml`: peak memory by our probe over that of NVML read beside it.
- `onnx_WHAT_ratio_to_plain_batch_N`: images a second of `street-s` on bound memory, as a CUDA graph
  and by TensorRT, over those of `InferenceSession.run` on the CUDA provider.
"""

import importlib.util
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpu_counters import Counters
    from record import Ratio

PAIRS = 7
BATCHES = (1, 8)
SECONDS = 2.0
ENERGY_SECONDS = 10.0
BLOCKS_MIB = (1024, 2048, 3072, 4096, 6144)
MODEL = Path(__file__).resolve().parents[1] / "src/visiondyno/shipped/street-s.onnx"

NEEDED = ("numpy", "torch", "pydantic", "pynvml")
"""Without one of these nothing can be measured."""
FOR_ONNX = ("onnx", "onnxruntime", "ml_dtypes", "yaml", "google.protobuf")
"""Without one of these, nothing of ONNX Runtime."""
ONNX_ARMS = {
    "bound": "",
    "cuda_graph": "cuda-graph:",
    "tensorrt": "tensorrt:",
    "tensorrt_fp16": "tensorrt-fp16:",
}


def missing_packages(
    names: tuple[str, ...], find: Callable[[str], object] = importlib.util.find_spec
) -> list[str]:
    """Those that can't be imported here."""
    found = []
    for name in names:
        try:
            is_here = find(name) is not None
        except ModuleNotFoundError:  # the package around it
            is_here = False
        if not is_here:
            found.append(name)
    return found


def reason_for_nothing(missing: list[str]) -> str | None:
    """Why nothing can be measured here, a sentence with the next step; None where it can."""
    if absent := [name for name in NEEDED if name in missing]:
        return (
            f"Nothing can be measured: this Python has no {', '.join(absent)}. docs/gpu.md says "
            "how to carry them along."
        )
    import torch

    if not torch.cuda.is_available():
        return (
            f"There is no GPU here that torch {torch.__version__} can use, so nothing was "
            "measured: run it on a machine with an NVIDIA GPU, its driver, and a torch built for "
            "CUDA."
        )
    return None


class Findings:
    """Figures as they come, and what was left out."""

    def __init__(self) -> None:
        self.ratios: dict[str, Ratio] = {}
        self.left_out: dict[str, str] = {}
        self.facts: dict[str, Mapping[str, Any]] = {}

    def attempt(self, name: str, measure: Callable[[], None]) -> None:
        """Measure, or note why that can't be: the other figures are worth having."""
        print(f"{name} …", flush=True)
        try:
            measure()
        except Exception as error:  # libraries of GPUs raise what comes
            reason = " ".join(str(error).split()) or type(error).__name__
            self.left_out[name] = reason
            print(f"left out: {name}: {reason}", flush=True)


def measure_torch(findings: Findings) -> None:
    """Throughput of our torch runtime over a bare loop."""
    from gpu_arms import SIDE, TorchArms, images, images_per_s
    from record import Ratio, interleave

    arms = TorchArms()
    for batch in BATCHES:
        tensor = images(batch, SIDE, SIDE)
        difference = float(abs(arms.ours(tensor) - arms.bare(tensor)).max())
        pairs = interleave(
            partial(images_per_s, arms.ours, tensor, SECONDS),
            partial(images_per_s, arms.bare, tensor, SECONDS),
            PAIRS,
        )
        name = f"torch_gpu_ratio_to_raw_batch_{batch}"
        findings.ratios[name] = Ratio(
            pairs, "images/s", "torch runtime / bare torch loop", "at least 0.95"
        )
        findings.facts[name] = {"max_abs_difference": difference}
    arms.close()


def measure_energy(findings: Findings, counters: "Counters") -> None:
    """Our probe's joules over the counter's."""
    from gpu_arms import TorchArms, energy_pair
    from record import Ratio

    arms = TorchArms()
    pairs = [energy_pair(counters, arms.bare, ENERGY_SECONDS) for _ in range(PAIRS)]
    arms.close()
    findings.ratios["energy_ratio_to_counter"] = Ratio(
        pairs, "J", "energy probe / NVML's counter read around it", "0.98 to 1.02"
    )


def measure_memory(
    findings: Findings, counters: "Counters", baselines: tuple[int | None, int]
) -> None:
    """Our probe's peak over NVML's."""
    import torch

    from gpu_arms import memory_pair
    from record import Ratio

    free_mib = torch.cuda.mem_get_info()[0] >> 20
    blocks = [size for size in BLOCKS_MIB if size < 0.8 * free_mib]
    pairs = [memory_pair(counters, baselines, size) for size in blocks]
    findings.ratios["vram_ratio_to_nvml"] = Ratio(
        pairs, "MiB", "GPU memory probe / NVML read beside it", "0.98 to 1.02"
    )
    findings.facts["vram_by_torch"] = {
        "peak_reserved_mib": torch.cuda.max_memory_reserved() >> 20,
        "peak_allocated_mib": torch.cuda.max_memory_allocated() >> 20,
    }


def measure_onnx(findings: Findings, what: str) -> None:
    """One of our ways to run an ONNX file, over `InferenceSession.run`."""
    from gpu_arms import OnnxArm, images, images_per_s, plain_session
    from record import Ratio, interleave

    # First: what it finds of CUDA's libraries is found for the plain session as well.
    arm = OnnxArm(ONNX_ARMS[what], MODEL)
    processor = OnnxArm("", MODEL, "cpu")
    plain = plain_session(MODEL)
    for batch in BATCHES:
        tensor = images(batch, *arm.size)
        name = f"onnx_{what}_ratio_to_plain_batch_{batch}"
        findings.facts[name] = {
            "max_abs_difference_to_cpu": float(abs(arm.run(tensor) - processor.run(tensor)).max()),
            "notes": list(arm.notes),
        }
        pairs = interleave(
            partial(images_per_s, arm.run, tensor, SECONDS),
            partial(images_per_s, plain, tensor, SECONDS),
            PAIRS,
        )
        findings.ratios[name] = Ratio(
            pairs, "images/s", f"onnx runtime, {what} / InferenceSession.run on CUDA", "none"
        )
    processor.close()
    arm.close()


def providers_missing(what: str) -> str | None:
    """Why this way can't be tried by this ONNX Runtime; None where it can."""
    import onnxruntime

    wanted = "TensorrtExecutionProvider" if "tensorrt" in what else "CUDAExecutionProvider"
    offered = onnxruntime.get_available_providers()
    if wanted in offered:
        return None
    return f"onnxruntime {onnxruntime.__version__} offers {', '.join(offered)}, not {wanted}"


def onnx_runtime(findings: Findings, missing: list[str]) -> None:
    """All ways to run an ONNX file that this machine has."""
    absent = [name for name in FOR_ONNX if name in missing]
    for what in ONNX_ARMS:
        name = f"onnx_{what}"
        reason = f"not installed: {', '.join(absent)}" if absent else providers_missing(what)
        if reason is not None:
            findings.left_out[name] = reason
            print(f"left out: {name}: {reason}", flush=True)
            continue
        findings.attempt(name, partial(measure_onnx, findings, what))


def measure(missing: list[str]) -> Findings:
    """Everything that can be measured here."""
    from gpu_counters import Counters
    from visiondyno.probes.gpu import device_used_bytes

    findings = Findings()
    try:
        # Before CUDA is initialised: its context is memory of this process.
        counters = Counters()
        baselines = (device_used_bytes("cuda"), counters.used_bytes())
    except OSError as error:
        for name in ("vram_ratio_to_nvml", "energy_ratio_to_counter"):
            findings.left_out[name] = f"no counter can be read beside the probe: {error}"
    else:
        findings.attempt(
            "vram_ratio_to_nvml", lambda: measure_memory(findings, counters, baselines)
        )
        findings.attempt("energy_ratio_to_counter", lambda: measure_energy(findings, counters))
    findings.attempt("torch_gpu_ratio_to_raw", lambda: measure_torch(findings))
    onnx_runtime(findings, missing)
    return findings


def main() -> int:
    """Print and record the figures; 1 where none could be had, 2 where there is no GPU."""
    missing = missing_packages((*NEEDED, *FOR_ONNX))
    print("missing packages:", ", ".join(missing) or "none", flush=True)
    if (reason := reason_for_nothing(missing)) is not None:
        print(reason, file=sys.stderr)
        return 2
    import torch

    from record import record
    from visiondyno.probes.quiet import QuietMonitor

    monitor = QuietMonitor()
    monitor.start()
    findings = measure(missing)
    if not findings.ratios:
        monitor.stop()
        print("Nothing could be measured; the reasons stand above.", file=sys.stderr)
        return 1
    settings = {
        "pairs": PAIRS,
        "batches": list(BATCHES),
        "seconds_a_run": SECONDS,
        "seconds_an_energy_window": ENERGY_SECONDS,
        "gpu": torch.cuda.get_device_name(0),
        "torch": torch.__version__,
        "cuda_of_torch": torch.version.cuda,
        "missing_packages": missing,
    }
    facts = {**findings.facts, "left_out": findings.left_out}
    record("gpu", findings.ratios, settings, monitor, facts=facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
