"""Convert a SavedModel to ONNX: `python -m visiondyno.runtimes.saved_model_conversion IN OUT`.

Run in a process of its own by `visiondyno.runtimes.tensorflow`.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from visiondyno.runtimes.conversion_check import ConversionError, finish

_PREFERRED = "serving_default"
_OPSET = 17


def main(source: Path, target: Path) -> None:
    """Read the folder `source`, write it as ONNX to `target`, and compare the two.

    Raises:
        ConversionError: it has no function that takes one image.
        Exception: whatever TensorFlow or tf2onnx says of it.
    """
    import tensorflow
    import tf2onnx

    loaded = tensorflow.saved_model.load(str(source))
    name = chosen_signature(tuple(loaded.signatures))
    command = [
        sys.executable, "-m", "tf2onnx.convert", "--saved-model", str(source),
        "--signature_def", name, "--output", str(target), "--opset", str(_OPSET),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)  # noqa: S603 - the converter, under this interpreter
    if done.returncode:
        sys.stderr.write(done.stderr)
        raise SystemExit(done.returncode)
    by = f"tf2onnx {tf2onnx.__version__} of tensorflow {tensorflow.__version__}"
    names = [output.name for output in onnx.load(target).graph.output]
    finish(target, lambda noise: _answer(loaded.signatures[name], noise, names), by)


def chosen_signature(names: Sequence[str]) -> str:
    """The function to convert: the one for serving, else the only one.

    Raises:
        ConversionError: there is none, or there are several others.
    """
    if _PREFERRED in names:
        return _PREFERRED
    if len(names) == 1:
        return names[0]
    listed = ", ".join(names) or "none"
    raise ConversionError(f"it has no signature '{_PREFERRED}' and not just one other ({listed})")


def _answer(signature: Any, images: NDArray[Any], names: Sequence[str]) -> list[NDArray[Any]]:
    import tensorflow

    inputs = signature.structured_input_signature[1]
    if len(inputs) != 1:
        raise ConversionError(f"it has {len(inputs)} inputs, where an image is one")
    outputs = signature(**{next(iter(inputs)): tensorflow.constant(images)})
    return [np.asarray(outputs[name]) for name in names]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
