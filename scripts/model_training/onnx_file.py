"""An ONNX file that explains itself, and what it answers beside the network."""

import hashlib
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from visiondyno.specs.model_card import ModelCard

OPSET = 17


def write_onnx(
    network: nn.Module,
    example: torch.Tensor,
    output: str,
    card: ModelCard,
    file: Path,
    *,
    any_batch: bool,
) -> None:
    """Write an ONNX file with norms folded into convolutions and the card inside.

    Args:
        network: the trained one.
        example: a batch of input.
        output: the output's name; the input's is `images`.
        card: to lie in the file's metadata.
        file: to write.
        any_batch: takes batches of any size, not of the example's alone.
    """
    axes = {"images": {0: "batch"}, output: {0: "batch"}}
    with warnings.catch_warnings():
        # The exporter that folds norms and needs no further package is the one marked legacy.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval().to(memory_format=torch.contiguous_format),
            (example,),
            str(file),
            input_names=["images"],
            output_names=[output],
            dynamic_axes=axes if any_batch else None,
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load(str(file))
    note = model.metadata_props.add()
    note.key, note.value = "visiondyno.model", card.model_dump_json(by_alias=True)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(file))


def both_answers(
    network: nn.Module, file: Path, images: torch.Tensor
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What the network and the file answer to the same images."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    theirs = session.run(None, {"images": images.numpy()})[0]
    with torch.no_grad():
        mine = network(images).numpy()
    return mine, theirs


def sha256(file: Path) -> str:
    """`sha256:…` of a file."""
    return f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
