"""The overlapped pass gives each image its own predictions, in order, and stops cleanly."""

import itertools
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from measuring_stand_ins import ManualClock, TimedModel, write_numbered_images
from visiondyno.errors import DatasetError
from visiondyno.measuring.images import EncodedImages
from visiondyno.measuring.pipeline import predict_each, stream
from visiondyno.predictions import Detections, Predictions


def numbers_of(predictions: list[Predictions]) -> list[int]:
    return [int(p.boxes_xyxy[0, 0]) for p in predictions if isinstance(p, Detections)]


def pipeline_threads() -> list[str]:
    names = ("decode-preprocess", "postprocess")
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(names)]


@given(count=st.integers(1, 40), batch_size=st.integers(1, 9))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_every_image_is_predicted_once_in_order(
    count: int, batch_size: int, tmp_path: Path
) -> None:
    images = EncodedImages(write_numbered_images(tmp_path, count))
    model = TimedModel(ManualClock())
    done: list[int] = []
    found = list(predict_each(model, images, batch_size=batch_size, on_done=done.append))
    assert numbers_of(found) == list(range(count))
    assert done[-1] == count
    assert done == sorted(done)
    assert sum(model.batch_sizes) == count
    assert max(model.batch_sizes) <= batch_size
    assert not pipeline_threads()


def test_a_bad_image_stops_the_pass_with_its_own_error(tmp_path: Path) -> None:
    paths = write_numbered_images(tmp_path, 12)
    paths[7].write_bytes(b"")
    with pytest.raises(DatasetError, match=r"007\.png"):
        list(predict_each(TimedModel(ManualClock()), EncodedImages(paths)))
    assert not pipeline_threads()


def test_an_error_of_the_model_stops_the_pass(tmp_path: Path) -> None:
    model = TimedModel(ManualClock())

    def fail(query: int) -> float:
        if query == 5:
            raise RuntimeError("the accelerator went away")
        return 1.0

    model.inference_ms = fail
    with pytest.raises(RuntimeError, match="went away"):
        list(predict_each(model, EncodedImages(write_numbered_images(tmp_path, 12))))
    assert not pipeline_threads()


def test_an_endless_stream_can_be_closed(tmp_path: Path) -> None:
    images = EncodedImages(write_numbered_images(tmp_path, 3))
    running = stream(TimedModel(ManualClock()), images, itertools.cycle([(0,), (1, 2)]))
    assert [indices for indices, _ in itertools.islice(running, 4)] == [(0,), (1, 2), (0,), (1, 2)]
    running.close()
    assert not pipeline_threads()


def test_files_are_read_once_and_vanished_ones_are_named(tmp_path: Path) -> None:
    paths = write_numbered_images(tmp_path, 2)
    images = EncodedImages(paths)
    first = images.read(0)
    for path in paths:
        path.unlink()
    assert images.read(0) == first
    with pytest.raises(DatasetError, match=r"001\.png can't be read"):
        images.read(1)


def test_shuffled_order_shows_every_image_once_a_round_and_follows_the_seed(
    tmp_path: Path,
) -> None:
    images = EncodedImages(write_numbered_images(tmp_path, 9))
    order = list(itertools.islice(images.shuffled(3), 27))
    assert [sorted(order[start : start + 9]) for start in (0, 9, 18)] == [list(range(9))] * 3
    assert order == list(itertools.islice(images.shuffled(3), 27))
    assert order != list(itertools.islice(images.shuffled(4), 27))
