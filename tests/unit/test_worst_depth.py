"""The gallery of depth: the worst images first, each beside its predicted and its true depth."""

import base64

import cv2
import numpy as np
import pytest

from visiondyno.datasets.depth import read_depth
from visiondyno.datasets.registry import open_dataset
from visiondyno.measuring.worst_images import worst_images
from visiondyno.predictions import DepthMap
from visiondyno.specs.model_card import DepthCard
from visiondyno.vision.accuracy.depth import score_depth

HEIGHT, WIDTH = 60, 80


@pytest.fixture
def dataset(tmp_path):
    """Three images with true depth from 2 m (left) to 8 m, and a hole on the right."""
    (tmp_path / "images").mkdir()
    (tmp_path / "depth").mkdir()
    depth = np.tile(np.linspace(2, 8, WIDTH, dtype=np.float32), (HEIGHT, 1))
    depth[:, 70:] = np.nan
    for name in "abc":
        pixels = np.full((HEIGHT, WIDTH, 3), (200, 30, 30), np.uint8)
        cv2.imwrite(str(tmp_path / "images" / f"{name}.png"), pixels)
        np.save(tmp_path / "depth" / f"{name}.npy", depth)
    return open_dataset(str(tmp_path))


def gallery(dataset, factors, card):
    truths = [dataset.sample(index).truth for index in range(len(dataset))]
    maps = [
        DepthMap(np.nan_to_num(read_depth(truth), nan=8) * np.float32(factor))
        for truth, factor in zip(truths, factors, strict=True)
    ]
    return worst_images(dataset, score_depth(truths, maps, card, read_depth, resamples=100), maps)


def panels(shot):
    data = np.frombuffer(base64.b64decode(shot.jpeg_base64), np.uint8)
    strip = cv2.imdecode(data, cv2.IMREAD_COLOR).astype(int)
    assert strip.shape[:2] == (shot.height, shot.width) == (HEIGHT, 3 * WIDTH + 8)
    return strip[:, :WIDTH], strip[:, WIDTH + 4 : 2 * WIDTH + 4], strip[:, 2 * WIDTH + 8 :]


def test_the_largest_abs_rel_comes_first_and_a_perfect_map_is_left_out(dataset):
    shots = gallery(dataset, (1.1, 1.0, 1.5), DepthCard(output="depth", alignment="none"))
    assert [shot.image for shot in shots] == ["c.png", "a.png"]
    assert shots[0].caption == "AbsRel 0.500, measured 2.00–7.24 m"
    assert shots[0].errors == 60 * 70
    assert shots[1].errors == 0
    assert not shots[0].true_boxes


def test_image_predicted_and_true_depth_stand_side_by_side(dataset):
    (shot, *_) = gallery(dataset, (1.5, 1.0, 1.0), DepthCard(output="depth", alignment="none"))
    image, predicted, true = panels(shot)
    assert np.abs(image[:, :-8] - (200, 30, 30)).max() < 12
    # Near is bright, far is dark; farther than it is, is darker; the hole is grey.
    assert true[:, :10].mean() > true[:, 55:65].mean() + 40
    assert predicted[:, 5:60].mean() < true[:, 5:60].mean() - 10
    assert np.ptp(true[5:-5, 74:], axis=2).max() < 12
    assert np.abs(true[5:-5, 74:] - 96).max() < 12


def test_the_predicted_depth_is_shown_as_it_was_aligned(dataset):
    card = DepthCard(output="depth", alignment="median_scale")
    shots = gallery(dataset, (3.0, 3.0, 3.0), card)
    assert all("AbsRel 0.000" in shot.caption for shot in shots)
    for shot in shots:
        _, predicted, true = panels(shot)
        assert np.abs(predicted[:, :65] - true[:, :65]).mean() < 3
