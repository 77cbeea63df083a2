"""Convert a model of Keras to ONNX: `python -m visiondyno.runtimes.keras_conversion torch IN OUT`.

Run in a process of its own by `visiondyno.runtimes.keras`: Keras has one backend a process.
"""

import json
import os
import sys
import zipfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from visiondyno.runtimes.conversion_check import FREE_SIDE, ConversionError, finish

# Layers that unpickle, import, or open files as they are made.
_RUNS_CODE = ("Lambda", "TorchModuleWrapper", "TFSMLayer", "JaxLayer", "FlaxLayer")
_KNOWN_MODULES = ("keras", "builtins")
_HDF5 = (".h5", ".hdf5")


def main(backend: str, source: Path, target: Path) -> None:
    """Read `source`, write it as ONNX to `target`, and compare the two.

    Raises:
        ConversionError: it holds no whole model, or one that would run code of its own.
        Exception: whatever Keras says of it.
    """
    refuse_code(_config(source))
    os.environ["KERAS_BACKEND"] = backend
    import keras

    model = keras.saving.load_model(source, compile=False, safe_mode=True)
    if len(model.inputs) != 1:
        raise ConversionError(f"it has {len(model.inputs)} inputs, where an image is one")
    # Keras exports no model that never ran.
    _answer(model, np.zeros([1, *(side or FREE_SIDE for side in model.inputs[0].shape[1:])], "f4"))
    model.export(str(target), format="onnx", verbose=False)
    # A Sequential has no such list: its last layer is its output.
    _name_outputs(target, getattr(model, "output_names", None) or [model.layers[-1].name])
    framework = import_module(backend)
    by = f"keras {keras.__version__} on {backend} {framework.__version__}"
    finish(target, lambda noise: _answer(model, noise), by)


def refuse_code(config: Any) -> None:
    """Raise unless a model of this configuration is made of Keras' own parts, and of no code.

    Keras' safe mode is on too; it has had holes for which this one needn't wait.

    Raises:
        ConversionError: names what is refused.
    """
    for part in _parts(config):
        name, module = part.get("class_name"), part.get("module")
        if name in _RUNS_CODE:
            raise ConversionError(f"its layer '{name}' would run code of its own, which isn't done")
        root = str(module).split(".", maxsplit=1)[0]
        if isinstance(name, str) and module is not None and root not in _KNOWN_MODULES:
            raise ConversionError(f"its '{name}' is of '{module}', and only Keras' own are made")


def _parts(value: Any) -> Iterator[dict[str, Any]]:
    pending = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, dict):
            yield one
            pending.extend(one.values())
        elif isinstance(one, list):
            pending.extend(one)


def _config(source: Path) -> Any:
    """The configuration in the file, read without making anything of it."""
    # By the name, as Keras chooses its reader: an HDF5 file may end in an archive.
    if source.suffix not in _HDF5 and zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            if "config.json" not in archive.namelist():
                raise ConversionError("it is an archive without a model in it")
            return json.loads(archive.read("config.json"))
    import h5py

    try:
        with h5py.File(source, "r") as file:
            config = file.attrs.get("model_config")
    except OSError as error:
        raise ConversionError("it is neither a .keras archive nor an HDF5 file") from error
    if config is None:
        raise ConversionError("it holds weights alone; save the whole model by model.save()")
    return json.loads(config)


def _answer(model: Any, images: NDArray[Any]) -> list[NDArray[Any]]:
    import keras

    outputs = model(keras.ops.convert_to_tensor(images), training=False)
    return [
        np.asarray(keras.ops.convert_to_numpy(keras.ops.stop_gradient(one)))
        for one in keras.tree.flatten(outputs)
    ]


def _name_outputs(path: Path, names: list[str]) -> None:
    """Call the outputs what the model calls them; exporters number them."""
    model = onnx.load(path)
    graph = model.graph
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    pairs = zip(graph.output, names, strict=len(names) == len(graph.output))
    renamed = {
        old.name: name for old, name in pairs if name not in taken and names.count(name) == 1
    }
    for node in graph.node:
        for field in (node.input, node.output):
            for number, name in enumerate(field):
                field[number] = renamed.get(name, name)
    for output in graph.output:
        output.name = renamed.get(output.name, output.name)
    onnx.save(model, path)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
