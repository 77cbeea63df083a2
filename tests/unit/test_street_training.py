"""The parts of the detectors' training whose mistakes would not show as a crash."""

from pathlib import Path

import numpy as np
import pytest

from visiondyno.datasets.street import HEIGHT, WIDTH

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def recipe(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))


def truth_of(boxes, classes):
    from street_training.assignment import Truth

    return Truth(
        torch.zeros(len(boxes), dtype=torch.int64),
        torch.tensor(boxes, dtype=torch.float32),
        torch.tensor(classes),
    )


@pytest.mark.parametrize("name", ["street-n", "street-s"])
def test_every_anchor_is_where_its_cell_is(name):
    from street_training.network import DESIGNS, StreetDetector

    network = StreetDetector(DESIGNS[name])
    expected = sum(
        (WIDTH // stride) * (HEIGHT // stride) for stride in set(network.strides.tolist())
    )
    assert len(network.centres) == expected
    assert network.strides.min() == DESIGNS[name].finest
    assert (network.centres % network.strides[:, None] == network.strides[:, None] / 2).all()
    logits, distances = network(torch.zeros(2, 3, HEIGHT, WIDTH))
    assert logits.shape == (2, 4, expected)
    assert distances.shape == (2, 4, expected)
    assert (distances >= 0).all()


@pytest.mark.parametrize("name", ["street-n", "street-s"])
def test_the_file_answers_as_the_network_does_for_any_batch(name, tmp_path):
    from street_training.export import export, greatest_difference, street_card
    from street_training.network import DESIGNS, ExportedDetector, StreetDetector

    torch.manual_seed(3)
    network = ExportedDetector(StreetDetector(DESIGNS[name])).train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.rand(2, 3, HEIGHT, WIDTH))  # norms with statistics of their own
    network.eval()
    export(network, street_card(0.6), tmp_path / "model.onnx")
    for batch in (1, 3):
        images = torch.rand(batch, 3, HEIGHT, WIDTH)
        assert greatest_difference(network, tmp_path / "model.onnx", images) < 1e-4


def test_a_perfect_prediction_is_assigned_to_its_box_with_a_target_of_one():
    from street_training.assignment import assign
    from street_training.network import DESIGNS, StreetDetector

    network = StreetDetector(DESIGNS["street-n"])
    truth = truth_of([[40.0, 40, 120, 100], [200, 60, 208, 66]], [0, 3])
    boxes = torch.zeros(1, len(network.centres), 4)
    middle = torch.tensor([[80.0, 70.0]])
    best = ((network.centres - middle) ** 2).sum(1).argmin()
    boxes[0, best] = truth.boxes[0]
    scores = torch.full((1, len(network.centres), 4), 0.5)
    found = assign(truth, scores, boxes, network.centres, network.strides)
    place = (found.anchor == best).nonzero().item()
    assert found.box[place] == 0
    assert found.target[place] == pytest.approx(1.0, abs=1e-4)
    # The small box lies between centres, and still has anchors that learn it.
    assert (found.box == 1).any()


def test_an_anchor_learns_one_box_only():
    from street_training.assignment import assign
    from street_training.network import DESIGNS, StreetDetector

    network = StreetDetector(DESIGNS["street-n"])
    truth = truth_of([[50.0, 50, 100, 100], [55, 55, 105, 105], [48, 52, 98, 102]], [0, 0, 1])
    reach = network.strides[:, None] * 3
    boxes = torch.cat((network.centres - reach, network.centres + reach), 1)[None]
    scores = torch.rand(1, len(network.centres), 4, generator=torch.Generator().manual_seed(0))
    found = assign(truth, scores, boxes, network.centres, network.strides)
    assert len(found.anchor.unique()) == len(found.anchor)
    assert set(found.box.tolist()) == {0, 1, 2}


def test_generalised_iou_by_hand():
    from street_training.losses import generalised_iou

    first = torch.tensor([[0.0, 0, 2, 2], [0, 0, 1, 1], [0, 0, 4, 4]])
    second = torch.tensor([[1.0, 0, 3, 2], [3, 0, 4, 1], [0, 0, 4, 4]])
    # Overlap 2 of 6, hull 6; no overlap, hull 4 of which 2 are empty; the same box.
    expected = [1 / 3, -0.5, 1.0]
    assert generalised_iou(first, second).tolist() == pytest.approx(expected, abs=1e-5)


def test_variation_moves_boxes_with_their_pixels():
    from street_training.batches import Scenes, batches
    from visiondyno.predictions import BoxTruth

    image = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
    image[60:120, 100:220] = 220
    truth = BoxTruth(
        np.array([[100.0, 60, 220, 120]]), np.array([2]), np.zeros(1, bool), np.array([7200.0])
    )
    scenes = Scenes([image] * 24, [truth] * 24)
    seen = 0
    for images, labels in batches(scenes, 8, np.random.default_rng(0)):
        for place, box in zip(labels.image.tolist(), labels.boxes.numpy(), strict=True):
            rows, columns = np.nonzero(images[place, 1].numpy() > 0.55)
            changed = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert box.tolist() == pytest.approx(changed, abs=1.1)
            seen += 1
    assert seen == 24
