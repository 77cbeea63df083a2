"""What our three steps cost beside each family's own way to predict, with the same weights.

Ultralytics' `YOLO.predict`, torchvision's `model(images)` with the transforms of its weights,
transformers' pipeline, timm's transform and model, and Ultralytics' predict over OpenVINO; one
image at a time, both ways by turns image by image, on one thread of one processor.

- `FAMILY_speed_vs_own`: the family's own latency over ours, each the median over the images of a
  round; above 1 ours is faster.

Weights are random, so few boxes are found; how many, and that both find the same, is in the facts.
`--quick` measures two images and writes no record.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from families_arms import CONFIDENCE, Family, Found, as_pillow, families, found_by_us
from record import PAIRS, Ratio, record
from visiondyno.datasets.registry import open_dataset
from visiondyno.predictions import Image
from visiondyno.probes.quiet import QuietMonitor
from visiondyno.runtimes.base import LoadedModel, LoadOptions
from visiondyno.runtimes.registry import load_model
from visiondyno.vision.decode import decode_image

SHARED = Path(__file__).resolve().parents[2] / "shared" / "testdata"
IMAGES = 12
QUICK_IMAGES, QUICK_ROUNDS = 2, 5


def pictures(count: int) -> tuple[str, list[Image]]:
    """The data's name, and its first images, decoded."""
    coco = SHARED / "images" / "coco128"
    data = str(coco) if coco.is_dir() else "street:demo"
    dataset = open_dataset(data)
    paths = [dataset.sample(index).path for index in range(min(count, len(dataset)))]
    return Path(data).name, [decode_image(path.read_bytes(), path.name) for path in paths]


def timed(work: Callable[[Any], Found], image: Any) -> tuple[float, Found]:
    """Milliseconds, and what was found."""
    start = time.perf_counter_ns()
    found = work(image)
    return (time.perf_counter_ns() - start) / 1e6, found


def our_way(model: LoadedModel) -> Callable[[Image], Found]:
    """The three steps on one image."""
    return lambda image: found_by_us(model.predict([image], confidence=CONFIDENCE)[0])


def compared(
    family: Family, images: list[Image], rounds: int
) -> tuple[list[tuple[float, float]], dict[str, Any]]:
    """(own, our) milliseconds of each round, and the facts; the first, uncounted, warms up."""
    theirs = [as_pillow(image) if family.takes_pillow else image for image in images]
    pairs: list[tuple[float, float]] = []
    boxes, apart = 0, 0.0
    with load_model(family.reference, LoadOptions(intra_op_threads=1)) as model:
        ours = our_way(model)
        for number in range(rounds + 1):
            own_ms, our_ms = [], []
            for index, (image, their) in enumerate(zip(images, theirs, strict=True)):
                if (number + index) % 2:
                    (mine_ms, mine), (peer_ms, peer) = timed(ours, image), timed(family.own, their)
                else:
                    (peer_ms, peer), (mine_ms, mine) = timed(family.own, their), timed(ours, image)
                own_ms.append(peer_ms)
                our_ms.append(mine_ms)
                assert len(mine) == len(peer), f"{family.reference}: {len(mine)} ≠ {len(peer)}"
                apart = max([apart, *(abs(a - b) for a, b in zip(mine, peer, strict=True))])
                boxes += len(mine) if number == 0 else 0
            if number:
                pairs.append((statistics.median(own_ms), statistics.median(our_ms)))
        said = model.description
    found = "boxes" if said.card.task == "detection" else "probabilities"
    return pairs, {
        "model": Path(said.reference).name,
        "own": family.version,
        f"{found}_of_all_images": boxes,
        "largest_score_difference": apart,
        "precision": said.precision,
    }


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="two images, and no record")
    parser.add_argument("--only", action="append", help="a family; may be given several times")
    options = parser.parse_args()
    # OpenVINO takes its number of threads from the processors it sees, whoever calls it.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import torch

    torch.set_num_threads(1)
    rounds = QUICK_ROUNDS if options.quick else PAIRS
    data, images = pictures(QUICK_IMAGES if options.quick else IMAGES)
    monitor = QuietMonitor()
    monitor.start()
    ratios: dict[str, Ratio] = {}
    facts: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, family in families(Path(folder)).items():
            if options.only and name not in options.only:
                continue
            pairs, facts[name] = compared(family, images, rounds)
            meaning = f"{family.version}: its own latency over ours, one image at a time"
            ratios[f"{name}_speed_vs_own"] = Ratio(pairs, "ms", meaning, ">= 1")
            print(f"{name}: {ratios[f'{name}_speed_vs_own'].median:.3f}", facts[name], flush=True)
    if options.quick:
        monitor.stop()
        return
    settings = {
        "data": data,
        "images": len(images),
        "rounds": rounds,
        "confidence": CONFIDENCE,
        "threads": 1,
        "processors": 1,
        "weights": "random",
    }
    record("families", ratios, settings, monitor, facts=facts)


if __name__ == "__main__":
    main()
