"""From trained weights to model files that explain themselves."""

from pathlib import Path

import numpy as np
import torch

from depth_training.network import ExportedDepth
from model_training.onnx_file import both_answers, write_onnx
from visiondyno.datasets.depth_scenes import SIDE_PX
from visiondyno.specs.model_card import DepthCard, InputCard, ModelCard


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
    write_onnx(network, example, "depth", depth_card(), file, any_batch=batch is None)


def greatest_difference(network: ExportedDepth, file: Path, images: torch.Tensor) -> float:
    """Largest difference between the file's depth and the network's, as a share of the depth."""
    mine, theirs = both_answers(network, file, images)
    return float((np.abs(mine - theirs) / mine).max())
