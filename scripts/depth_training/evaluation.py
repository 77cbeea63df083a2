"""Validation: quick at half size while training, and of the file as the product runs it."""

from pathlib import Path

import numpy as np
import torch

from depth_training.batches import Scenes, to_input
from depth_training.network import DepthNetwork, enlarged
from visiondyno.datasets.depth import read_depth
from visiondyno.datasets.depth_folder import open_depth_folder
from visiondyno.datasets.indexed import OpenOptions
from visiondyno.measuring.images import EncodedImages
from visiondyno.measuring.pipeline import predict_each
from visiondyno.predictions import DepthMap, DepthTruth
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.onnx import OnnxRuntime
from visiondyno.vision.accuracy.depth import score_depth

_BATCH = 25


def errors(network: DepthNetwork, val: Scenes) -> tuple[float, float]:
    """AbsRel and delta1 at half size, the mean over scenes."""
    network.eval()
    abs_rel, delta1 = [], []
    for start in range(0, len(val), _BATCH):
        images = to_input(val.images[start : start + _BATCH])
        with torch.no_grad():
            answer = network(images.contiguous(memory_format=torch.channels_last))
        gaps = enlarged(answer, 2)[:, 0].numpy() - val.depths[start : start + _BATCH]
        for gap in gaps.astype(np.float64):
            known = gap[~np.isnan(gap)]
            abs_rel.append(float(np.abs(np.expm1(known)).mean()))
            delta1.append(float((np.abs(known) < np.log(1.25)).mean()))
    return float(np.mean(abs_rel)), float(np.mean(delta1))


def measures_of_file(file: Path, folder: Path) -> dict[str, float]:
    """abs_rel, rmse and delta1 of an exported model on a folder of scenes, as `dyno` scores it."""
    dataset = open_depth_folder(folder, OpenOptions(str(folder)))
    samples = [dataset.sample(index) for index in range(len(dataset))]
    truths = [sample.truth for sample in samples if isinstance(sample.truth, DepthTruth)]
    with OnnxRuntime().load(str(file), LoadOptions(intra_op_threads=1)) as model:
        images = EncodedImages([sample.path for sample in samples])
        found = list(predict_each(model, images))
        card = model.description.card.depth
    assert card is not None
    maps = [answer for answer in found if isinstance(answer, DepthMap)]
    measures = score_depth(truths, maps, card, read_depth).measures
    values = {name: measures[name].value for name in ("abs_rel", "rmse", "delta1")}
    return {name: value for name, value in values.items() if value is not None}
