"""What every runtime must do: subclass `RuntimeContract` and give it a `target`."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from visiondyno.errors import ModelError, SpecError, Unavailable
from visiondyno.predictions import Classification, DepthMap, Detections, Image, Predictions
from visiondyno.runtimes.base import GraphModel, LoadedModel, LoadOptions, Runtime
from visiondyno.runtimes.native_model import NativeModel

DATATYPES = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "INT8": np.int8,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}


@dataclass(frozen=True)
class Target:
    """What a contract suite runs against.

    Attributes:
        references: models of this runtime to try: detectors, classifiers, fixed batches …
        missing: a reference that names nothing.
    """

    runtime: Runtime
    references: tuple[str, ...]
    missing: str


def some_images(count: int) -> list[Image]:
    random = np.random.default_rng(7)
    sizes = [(48, 64), (64, 48), (33, 97), (120, 80), (50, 50)]
    return [
        random.integers(0, 256, (*sizes[index % len(sizes)], 3), dtype=np.uint8)
        for index in range(count)
    ]


def assert_same(left: Predictions, right: Predictions) -> None:
    assert type(left) is type(right)
    if isinstance(left, Classification):
        assert isinstance(right, Classification)
        np.testing.assert_allclose(left.probabilities, right.probabilities, atol=1e-5)
    elif isinstance(left, DepthMap):
        assert isinstance(right, DepthMap)
        np.testing.assert_allclose(left.depth, right.depth, rtol=1e-4, atol=1e-5)
    else:
        assert isinstance(right, Detections)
        np.testing.assert_array_equal(left.class_ids, right.class_ids)
        np.testing.assert_allclose(left.scores, right.scores, atol=1e-5)
        np.testing.assert_allclose(left.boxes_xyxy, right.boxes_xyxy, atol=1e-2)


def random_feeds(graph: GraphModel, rows: int) -> dict[str, NDArray[Any]]:
    """Tensors that the graph takes: `rows` where it is free, 32 for every other free size."""
    random = np.random.default_rng(rows)
    feeds = {}
    for one in graph.inputs:
        shape = [rows if one.shape[0] == -1 else one.shape[0], *one.shape[1:]]
        shape = [32 if size == -1 else size for size in shape]
        feeds[one.name] = random.integers(0, 100, shape).astype(DATATYPES[one.datatype])
    return feeds


def datatype_of(array: NDArray[Any]) -> str:
    return next(name for name, dtype in DATATYPES.items() if array.dtype == dtype)


class RuntimeContract:
    @pytest.fixture
    def target(self) -> Target:
        raise NotImplementedError("a subclass gives the fixture `target`")

    def load_each(self, target: Target) -> list[LoadedModel]:
        return [target.runtime.load(one, LoadOptions()) for one in target.references]

    def test_predict_is_the_three_steps(self, target: Target) -> None:
        for model in self.load_each(target):
            images = some_images(3)
            prepared = model.preprocess(images)
            by_steps = model.postprocess(model.infer(prepared), prepared)
            for left, right in zip(model.predict(images), by_steps, strict=True):
                assert_same(left, right)
            model.close()

    @pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9])
    def test_every_batch_size_gives_what_single_images_give(
        self, target: Target, count: int
    ) -> None:
        for model in self.load_each(target):
            images = some_images(count)
            together = model.predict(images)
            assert len(together) == count
            for image, prediction in zip(images, together, strict=True):
                assert_same(model.predict([image])[0], prediction)
            model.close()

    def test_predictions_have_the_promised_form(self, target: Target) -> None:
        for model in self.load_each(target):
            names = model.description.card.classes
            for image, prediction in zip(
                some_images(4), model.predict(some_images(4)), strict=True
            ):
                if isinstance(prediction, Classification):
                    assert prediction.probabilities.shape == (len(names),)
                    assert prediction.probabilities.dtype == np.float32
                    assert prediction.probabilities.sum() == pytest.approx(1, abs=1e-3)
                    continue
                if isinstance(prediction, DepthMap):
                    assert prediction.depth.shape == image.shape[:2]
                    assert prediction.depth.dtype == np.float32
                    continue
                assert len(prediction) > 0, "the target must find something"
                height, width = image.shape[:2]
                boxes = prediction.boxes_xyxy
                assert boxes.dtype == np.float32
                assert prediction.scores.dtype == np.float32
                assert prediction.class_ids.dtype == np.int64
                assert boxes.shape == (len(prediction), 4)
                assert (boxes >= 0).all()
                assert (boxes <= [width, height, width, height]).all()
                assert (np.diff(prediction.scores) <= 0).all()
                assert ((prediction.class_ids >= 0) & (prediction.class_ids < len(names))).all()
            model.close()

    def test_confidence_replaces_the_cards(self, target: Target) -> None:
        for model in self.load_each(target):
            image = some_images(1)
            everything = model.predict(image)[0]
            if isinstance(everything, Detections):
                cut = float(np.median(everything.scores))
                some = model.predict(image, confidence=cut)[0]
                assert isinstance(some, Detections)
                assert (some.scores > cut).all()
                assert len(model.predict(image, confidence=1.0)[0]) == 0  # type: ignore[arg-type]
            model.close()

    def test_steps_around_inference_may_run_in_other_threads(self, target: Target) -> None:
        for model in self.load_each(target):
            images = some_images(5)
            expected = [model.predict([image])[0] for image in images]
            found: list[Predictions | None] = [None] * len(images)
            lock = threading.Lock()

            def work(index: int, model=model, images=images, found=found, lock=lock) -> None:
                prepared = model.preprocess([images[index]])
                with lock:
                    outputs = model.infer(prepared)
                found[index] = model.postprocess(outputs, prepared)[0]

            threads = [threading.Thread(target=work, args=(i,)) for i in range(len(images))]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            for left, right in zip(expected, found, strict=True):
                assert right is not None
                assert_same(left, right)
            model.close()

    def test_nothing_works_after_close(self, target: Target) -> None:
        for model in self.load_each(target):
            prepared = model.preprocess(some_images(1))
            outputs = model.infer(prepared)
            model.close()
            model.close()
            calls: tuple[Callable[[], object], ...] = (
                lambda model=model: model.preprocess(some_images(1)),
                lambda model=model, prepared=prepared: model.infer(prepared),
                lambda model=model, prepared=prepared, outputs=outputs: model.postprocess(
                    outputs, prepared
                ),
                lambda model=model: model.predict(some_images(1)),
            )
            for call in calls:
                with pytest.raises(ModelError, match="closed"):
                    call()

    def test_a_graph_runs_as_it_is_and_not_after_close(self, target: Target) -> None:
        for model in self.load_each(target):
            if (graph := model.graph) is None:
                model.close()
                continue
            feeds = random_feeds(graph, rows=2)
            names = [one.name for one in graph.outputs]
            outputs = graph.run_graph(feeds, names)
            for said, output in zip(graph.outputs, outputs, strict=True):
                assert len(said.shape) == output.ndim
                assert all(a in (-1, b) for a, b in zip(said.shape, output.shape, strict=True))
                assert datatype_of(output) == said.datatype
            for left, right in zip(outputs, graph.run_graph(feeds, names), strict=True):
                np.testing.assert_array_equal(left, right)
            (last,) = graph.run_graph(feeds, names[-1:])
            np.testing.assert_array_equal(last, outputs[-1])
            with pytest.raises(ModelError, match="stopped while running"):
                graph.run_graph({name: feed[..., None] for name, feed in feeds.items()}, names)
            model.close()
            with pytest.raises(ModelError, match="closed"):
                graph.run_graph(feeds, names)

    def test_rows_said_to_be_free_can_be_joined_and_taken_apart(self, target: Target) -> None:
        for model in self.load_each(target):
            if (graph := model.graph) is not None and graph.has_free_rows:
                names = [one.name for one in graph.outputs]
                parts = [random_feeds(graph, rows) for rows in (1, 2)]
                joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
                together = graph.run_graph(joined, names)
                apart = [graph.run_graph(part, names) for part in parts]
                for whole, *pieces in zip(together, *apart, strict=True):
                    np.testing.assert_allclose(whole, np.concatenate(pieces), atol=1e-4)
            model.close()

    def test_nan_is_an_error_that_names_the_output(self, target: Target) -> None:
        for model in self.load_each(target):
            if isinstance(model, NativeModel):
                # What it passes from step to step is its own; its suite damages its weights.
                model.close()
                continue
            prepared = model.preprocess(some_images(1))
            outputs = [np.array(output) for output in model.infer(prepared)]
            outputs[0].flat[-1] = np.nan
            with pytest.raises(ModelError, match="'output' holds NaN"):
                model.postprocess(outputs, prepared)
            model.close()

    def test_description_is_complete(self, target: Target) -> None:
        for reference in target.references:
            with target.runtime.load(reference, LoadOptions()) as model:
                said = model.description
                assert said.reference == reference
                assert said.device == "cpu"
                assert said.runtime.split()[1]
                assert said.digest.startswith("sha256:")
                assert {"task", "head", "classes", "input"} <= said.card_source.keys()

    def test_a_given_card_beats_all(self, target: Target) -> None:
        for reference in target.references:
            with target.runtime.load(reference, LoadOptions()) as model:
                card = model.description.card
            names = tuple(f"other {name}" for name in card.classes)
            changed = card.model_copy(update={"classes": names})
            with target.runtime.load(reference, LoadOptions(card=changed)) as model:
                assert model.description.card.classes == names
                assert model.description.card_source["classes"] == "given"

    def test_a_missing_model_is_named(self, target: Target) -> None:
        with pytest.raises(ModelError, match=target.missing):
            target.runtime.load(target.missing, LoadOptions())

    def test_a_device_that_is_not_here_is_an_error(self, target: Target) -> None:
        with pytest.raises((Unavailable, SpecError), match="tpu"):
            target.runtime.load(target.references[0], LoadOptions(device="tpu"))

    def test_no_image_and_wrong_images_are_errors(self, target: Target) -> None:
        with target.runtime.load(target.references[0], LoadOptions()) as model:
            for bad in ([], [np.zeros((4, 4), np.uint8)], [np.zeros((4, 4, 3), np.float32)]):
                with pytest.raises(ModelError):
                    model.preprocess(bad)
