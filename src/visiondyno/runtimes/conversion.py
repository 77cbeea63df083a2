"""Models that run as ONNX once another program has converted them, in a process of its own.

A framework in the measured process would be measured with the model: its memory, its threads. And
one that reads a stranger's file may crash. So a child converts and compares, and what it made is
kept by the content of the file.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from visiondyno.errors import ModelError
from visiondyno.runtimes.onnx_file import parse_onnx
from visiondyno.whole_file import cache_folder

METADATA_KEY = "visiondyno.conversion"
"""The `metadata_props` key under which a converted file says how it was made, as JSON."""
LARGEST_DIFFERENCE = 1e-3
"""Of converted model and original on noise, in shares of the original's largest output."""
_FORMAT = 1
_LIMIT_S = 900
_LONGEST_REASON = 300
_ERROR_LINE = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception|Failure): ?(.*)$")


@dataclass(frozen=True, slots=True)
class Converted:
    """A converted model.

    Attributes:
        path: of the ONNX file.
        by: what converted it, with versions.
        difference: largest difference to the original on noise, in shares of the original's
            largest output.
        is_new: whether it was converted just now.
    """

    path: Path
    by: str
    difference: float
    is_new: bool

    @property
    def note(self) -> str:
        """What a reader of the report must know."""
        when = "just now, which is in its load time" if self.is_new else "earlier"
        return (
            f"Converted to ONNX by {self.by} ({when}); on noise its answers differ by at most "
            f"{self.difference:.1e} of the largest."
        )


def conversions_folder() -> Path:
    """Where converted models are kept: `converted` in VisionDyno's cache folder."""
    return cache_folder() / "converted"


def kept(digest: str) -> Converted | None:
    """The conversion of what has this digest (`sha256:…`), if it was made before."""
    path = _place(digest)
    if (said := _said(path)) is None:
        return None
    return Converted(path, str(said["by"]), float(str(said["difference"])), is_new=False)


def convert(source: Path, digest: str, command: Sequence[str]) -> Converted:
    """`source` as an ONNX file that `command` makes, and which is kept.

    Args:
        source: a file or folder.
        digest: `sha256:…` of its content.
        command: of the child; called with `source` and the path of the ONNX file to write. It
            writes how it went under `METADATA_KEY` into the file, or ends with an error whose last
            line is told.

    Raises:
        ModelError: it can't be converted, or answers otherwise than the original.
    """
    folder, path = conversions_folder(), _place(digest)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch) / "model.onnx"
            _run([*command, str(source), str(made)], source, Path(scratch))
            said = _said(made)
            if said is None:
                raise ModelError(f"{source} can't be converted to ONNX: nothing came of it.")
            _check_difference(source, said)
            made.replace(path)
    except OSError as error:
        raise ModelError(
            f"{source} can't be converted to ONNX: {folder} can't be written ({error.strerror})."
        ) from error
    return Converted(path, str(said["by"]), float(str(said["difference"])), is_new=True)


def _place(digest: str) -> Path:
    return conversions_folder() / f"{digest.removeprefix('sha256:')}-{_FORMAT}.onnx"


def _run(command: list[str], source: Path, scratch: Path) -> None:
    environment = os.environ | {
        # A GPU belongs to what is measured; what a user set for Keras isn't this conversion's.
        "CUDA_VISIBLE_DEVICES": "",
        "KERAS_HOME": str(scratch),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    try:
        done = subprocess.run(  # noqa: S603 - our own module, under this interpreter
            [sys.executable, *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(
            f"{source} couldn't be converted to ONNX within {_LIMIT_S} s; convert it by hand and "
            "give the ONNX file."
        ) from error
    if done.returncode:
        raise ModelError(f"{source} can't be converted to ONNX: {_reason(done)}")


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """The last error that the child printed, in one line."""
    if done.returncode < 0:
        return f"its converter died of signal {-done.returncode}."
    lines = done.stderr.splitlines()
    starts = [number for number, line in enumerate(lines) if _ERROR_LINE.match(line)]
    told = lines[starts[-1] :] if starts else lines[-3:]
    text = " ".join(" ".join(told).split())
    text = re.sub(r"^[\w.]+: ", "", text) if starts else text
    if len(text) > _LONGEST_REASON:
        text = text[: _LONGEST_REASON - 1].rsplit(" ", 1)[0] + "…"
    return text or f"its converter ended with code {done.returncode}."


def _said(path: Path) -> Mapping[str, object] | None:
    """How the converted file says it was made; None where there is no whole such file."""
    try:
        model = parse_onnx(path.read_bytes(), path)
    except (OSError, ModelError):
        return None
    said = next((one.value for one in model.metadata_props if one.key == METADATA_KEY), None)
    found: Mapping[str, object] | None = None if said is None else json.loads(said)
    return found


def _check_difference(source: Path, said: Mapping[str, object]) -> None:
    difference = float(str(said["difference"]))
    # "not below" is true of NaN as well.
    if not difference <= LARGEST_DIFFERENCE:
        raise ModelError(
            f"{source}, converted to ONNX by {said['by']}, answers otherwise than the original: "
            f"they differ by {difference:.1e} of the largest answer on noise, where "
            f"{LARGEST_DIFFERENCE:.0e} is allowed. Convert it by hand and give the ONNX file."
        )
