"""What kinds of 8-bit integers a processor multiplies fast, and without overflow."""

import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from visiondyno.probes.kernel_files import ROOT, read_text

_VNNI = ("avx512_vnni", "avx_vnni", "amx_int8")
_X86 = ("x86_64", "amd64", "i686", "i386")


@dataclass(frozen=True, slots=True)
class Int8Arithmetic:
    """How activations and weights are stored for a processor.

    Attributes:
        activations: type of the activations; weights are int8.
        weight_bits: 7 where sums of two products of 8 bits overflow 16.
        why: in words, for a note.
    """

    activations: Literal["uint8", "int8"]
    weight_bits: Literal[7, 8]
    why: str


def int8_arithmetic(machine: str | None = None, root: Path = ROOT) -> Int8Arithmetic:
    """What fits a processor.

    x86 multiplies unsigned by signed. Without VNNI it adds two products in 16 bits, where they may
    overflow, unless weights have 7 bits. Arm multiplies signed by signed. After ONNX Runtime's own
    guidance (`onnxruntime.quantization.quantize_static`).

    Args:
        machine: as `platform.machine` says it; this one's if None.
        root: of the file system that tells of it.
    """
    name = (machine or platform.machine()).lower()
    if name not in _X86:
        return Int8Arithmetic("int8", 8, f"{name}: signed by signed")
    flags = re.search(r"^flags\s*:(.*)$", read_text(root / "proc/cpuinfo") or "", re.M)
    has = [one for one in _VNNI if flags and one in flags[1].split()]
    if has:
        return Int8Arithmetic("uint8", 8, f"x86 with {has[0]}")
    return Int8Arithmetic("uint8", 7, "x86 without VNNI")
