"""From trained weights to model files that explain themselves."""

import hashlib
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

from depth_training.network import ExportedDepth
from visiondyno.datasets.depth_scenes import SIDE_PX
from visiondyno.specs.model_card import DepthCard, InputCard, ModelCard

OPSET = 17


def depth_card() -> ModelCard:
    """The model card of the depth model: metres, so nothing is aligned before scoring."""
    return ModelCard(
        schema="visiondyno.model/1",
        task="depth",
        head="depth",
        classes=(),
        input=InputCard(height=SIDE_PX, width=SIDE_PX, resize="stretch", channels="rgb"),
        depth=DepthCard(output="depth", alignment="none"),
        license="Apache-2.0",
        source="trained by scripts/train_depth.py on the built-in depth scenes",
    )


def export(network: ExportedDepth, file: Path, batch: int | None) -> None:
    """Write an ONNX file with norms folded into convolutions and the card inside.

    Args:
        network: the trained one.
        file: to write.
        batch: the fixed batch size; None for one of any size.
    """
    example = torch.zeros(batch or 2, 3, SIDE_PX, SIDE_PX)
    any_size = {"images": {0: "batch"}, "depth": {0: "batch"}}
    with warnings.catch_warnings():
        # The exporter that folds norms and needs no further package is the one marked legacy.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval().to(memory_format=torch.contiguous_format),
            (example,),
            str(file),
            input_names=["images"],
            output_names=["depth"],
            dynamic_axes=any_size if batch is None else None,
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load(str(file))
    note = model.metadata_props.add()
    note.key, note.value = "visiondyno.model", depth_card().model_dump_json(by_alias=True)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(file))


def greatest_difference(network: ExportedDepth, file: Path, images: torch.Tensor) -> float:
    """Largest difference between the file's depth and the network's, as a share of the depth."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    theirs = session.run(None, {"images": images.numpy()})[0]
    with torch.no_grad():
        mine = network(images).numpy()
    return float((np.abs(mine - theirs) / mine).max())


def sha256(file: Path) -> str:
    """`sha256:…` of a file."""
    return f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
