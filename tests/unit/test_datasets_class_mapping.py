"""How a model's classes meet the data's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.class_names import COCO_80
from visiondyno.datasets.class_mapping import SYNONYMS, ClassMapping, apply, map_classes
from visiondyno.errors import ClassMismatch
from visiondyno.predictions import Classification, DepthMap, Detections

VOC_20 = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip

names = st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=8, unique=True)


def named(mapping: ClassMapping) -> dict[str, str | None]:
    return {
        name: mapping.dataset_classes[to] if to >= 0 else None
        for name, to in zip(mapping.model_classes, mapping.to_dataset, strict=True)
    }


@given(names)
def test_equal_names_match_in_any_order_without_a_note(classes: list[str]) -> None:
    mapping = map_classes(classes, classes[::-1])
    assert named(mapping) == {name: name for name in classes}
    assert mapping.scored == tuple(classes[::-1])
    assert mapping.notes == ()
    assert mapping.to_dataset.dtype == np.int64


@given(names, names)
def test_either_every_class_to_score_matches_or_both_sides_are_listed(
    model: list[str], data: list[str]
) -> None:
    missing = [name for name in data if name not in model]
    if not missing:
        assert map_classes(model, data).scored == tuple(data)
        return
    with pytest.raises(ClassMismatch) as caught:
        map_classes(model, data)
    for name in (*model, *data):
        assert f"'{name}'" in caught.value.message


@pytest.mark.parametrize(
    ("model", "data"),
    [
        ("Car", "car"),
        ("traffic_light", "traffic light"),
        ("Stop-Sign", "stop sign"),
        ("pottedplant", "potted plant"),
        ("diningtable", "dining table"),
    ],
)
def test_spelling_is_no_difference_and_is_noted(model: str, data: str) -> None:
    mapping = map_classes([model], [data])
    assert named(mapping) == {model: data}
    assert mapping.notes == (
        f"Model class '{model}' is taken for '{data}' of the data (spelling aside)",
    )


def test_pascal_s_names_are_found_in_coco_and_back() -> None:
    synonyms = {
        "aeroplane": "airplane",
        "motorbike": "motorcycle",
        "sofa": "couch",
        "tvmonitor": "tv",
    }
    mapping = map_classes(COCO_80, VOC_20)
    assert set(mapping.scored) == set(VOC_20)
    found = {to: name for name, to in named(mapping).items() if to}
    assert {voc: found[voc] for voc in synonyms} == synonyms
    assert sum("(a synonym)" in note for note in mapping.notes) == len(synonyms)
    assert "'bicycle'" not in " ".join(mapping.notes)
    back = map_classes(VOC_20, COCO_80, counts=dict.fromkeys(synonyms.values(), 1))
    assert len(back.scored) == len(VOC_20)


def test_synonyms_are_plain_and_belong_to_one_group() -> None:
    every = [name for group in SYNONYMS for name in group]
    assert len(every) == len(set(every))
    assert all(name == name.lower() and name.isalpha() for name in every)


def test_the_same_name_goes_before_a_synonym() -> None:
    mapping = map_classes(["pedestrian", "person"], ["person", "pedestrian"])
    assert named(mapping) == {"pedestrian": "pedestrian", "person": "person"}


def test_two_names_that_could_both_be_meant_are_no_match() -> None:
    with pytest.raises(ClassMismatch, match="The model lacks 'Car', 'car_'"):
        map_classes(["c-ar"], ["Car", "car_"])


def test_two_model_classes_may_stand_for_one_of_the_data() -> None:
    mapping = map_classes(["person", "pedestrian", "dog"], ["person"])
    assert named(mapping) == {"person": "person", "pedestrian": "person", "dog": None}
    notes = " ".join(mapping.notes)
    assert "'person', 'pedestrian' all count as 'person'" in notes
    assert "dropped: 'dog'" in notes


def test_a_mismatch_says_what_to_type() -> None:
    with pytest.raises(ClassMismatch) as caught:
        map_classes(["car", "bus", "stop sign"], ["car", "tram", "stop sign"])
    assert "The model lacks 'tram'" in caught.value.message
    assert '--classes "car,stop sign"' in caught.value.message
    with pytest.raises(ClassMismatch, match="no class in common"):
        map_classes(["cat"], ["car"])


def test_long_lists_are_cut() -> None:
    with pytest.raises(ClassMismatch, match="and 980 more"):
        map_classes([f"n{index:04}" for index in range(1000)], ["car"])


def test_a_class_without_labels_needs_no_counterpart() -> None:
    counts = {"car": 3, "tram": 0, "bus": 0}
    mapping = map_classes(["car", "bus"], ["car", "tram", "bus"], counts=counts)
    assert mapping.scored == ("car", "bus")
    assert mapping.notes == (
        "Data classes without a label that the model lacks aren't scored: 'tram'",
    )
    with pytest.raises(ClassMismatch, match="has a label in the data: 'tram', 'bus'"):
        map_classes(["car", "bus"], ["car", "tram", "bus"], ["bus", "tram"], counts=counts)


def test_requested_classes_are_scored_and_need_to_match_only() -> None:
    mapping = map_classes(["bus", "car"], ["tram", "car", "bus"], ["Bus", "car", "car"])
    assert mapping.scored == ("car", "bus")
    assert mapping.scored_ids.tolist() == [1, 2]
    assert mapping.notes == ("Requested class 'Bus' is 'bus' in the data",)
    with pytest.raises(ClassMismatch, match="lacks 'tram'"):
        map_classes(["bus", "car"], ["tram", "car", "bus"], ["tram"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cars", "Did you mean 'car'"),
        ("motorbike", "Did you mean 'motorcycle'"),
        ("zebra", "no class 'zebra'. Its classes: 'car', 'motorcycle'"),
    ],
)
def test_an_unknown_requested_class_names_those_near(name: str, words: str) -> None:
    with pytest.raises(ClassMismatch) as caught:
        map_classes(["car", "motorcycle"], ["car", "motorcycle"], [name])
    assert words in caught.value.message


def test_nothing_requested_is_nothing_to_score() -> None:
    with pytest.raises(ClassMismatch, match="Choose other classes"):
        map_classes(["car"], ["car"], [])


def test_detections_of_other_classes_are_dropped_in_order() -> None:
    mapping = map_classes(["dog", "bus", "car"], ["car", "bus"], ["car"])
    boxes = np.arange(16, dtype=np.float32).reshape(4, 4)
    scores = np.array([0.9, 0.8, 0.7, 0.6], np.float32)
    found = apply(mapping, Detections(boxes, scores, np.array([2, 0, 1, 2])))
    assert found.class_ids.tolist() == [0, 0]
    np.testing.assert_array_equal(found.boxes_xyxy, boxes[[0, 3]])
    np.testing.assert_array_equal(found.scores, scores[[0, 3]])
    assert found.class_ids.dtype == np.int64
    assert len(apply(mapping, Detections())) == 0


def test_probabilities_are_moved_added_and_not_scaled() -> None:
    mapping = map_classes(
        ["person", "pedestrian", "dog", "bus"],
        ["bus", "tram", "person"],
        counts={"bus": 1, "person": 1},
    )
    found = apply(mapping, Classification(np.array([0.1, 0.2, 0.3, 0.4], np.float32)))
    np.testing.assert_allclose(found.probabilities, [0.4, 0, 0.3], rtol=1e-6)
    assert found.probabilities.dtype == np.float32


def test_a_class_that_is_not_scored_can_still_be_the_wrong_answer() -> None:
    mapping = map_classes(["car", "bus"], ["bus", "car"], ["car"])
    found = apply(mapping, Classification(np.array([0.3, 0.7], np.float32)))
    assert found.top(1).tolist() == [0]


def test_depth_has_no_classes_to_match() -> None:
    mapping = map_classes((), (), counts={})
    assert (mapping.scored, mapping.notes, len(mapping.to_dataset)) == ((), (), 0)
    depth = DepthMap(np.ones((2, 3), np.float32))
    assert apply(mapping, depth) is depth
    with pytest.raises(ClassMismatch, match="no class 'car'"):
        map_classes((), (), ["car"])
