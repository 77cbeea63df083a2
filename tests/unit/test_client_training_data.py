"""Training data on their way to a worker: the same numbers arrive, whatever they are sent as."""

import json
import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy
from pydantic import TypeAdapter
from training_cases import torch

from visiondyno.blobs.folder import FolderBlobs
from visiondyno.client import training_data
from visiondyno.client.training_data import (
    INLINE_LIMIT_BYTES,
    features_to_wire,
    pack_samples,
    to_wire,
)
from visiondyno.errors import DatasetError, SpecError, TooLarge
from visiondyno.operations.context import OperationContext
from visiondyno.operations.training_samples import open_samples
from visiondyno.operations.worker_cache import WorkerCache
from visiondyno.operations.worker_files import WorkerFiles
from visiondyno.specs.inline_data import InlineData
from visiondyno.specs.training_data import ImageData, TrainingData
from visiondyno.state import from_safetensors

DataLoader, Dataset = torch.utils.data.DataLoader, torch.utils.data.Dataset
Subset, TensorDataset = torch.utils.data.Subset, torch.utils.data.TensorDataset


class Place:
    """A worker's files, and what a client has put there."""

    def __init__(self, folder: Path) -> None:
        cache = WorkerCache(folder / "cache", 10_000_000)
        self.files = WorkerFiles(lambda: FolderBlobs(folder / "blobs"), cache)
        self.put: list[str] = []
        self.asked: list[str] = []

    def put_blob(self, data: bytes) -> str:
        self.put.append(self.files.publish(data))
        return self.put[-1]

    def has_blob(self, reference: str) -> bool:
        self.asked.append(reference)
        return reference in self.put

    def wire(self, data: object) -> Any:
        # A job is JSON on its way.
        return json.loads(json.dumps(to_wire(data, self.put_blob, self.has_blob)))

    def arrived(self, wire: Any) -> tuple[Any, Any]:
        typed: Any = TypeAdapter(TrainingData).validate_python(wire)
        samples = open_samples(typed, None, "training_data", self.files, OperationContext()).samples
        return samples.features(torch.arange(len(samples))), samples.labels


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def refused(data: object, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        to_wire(data, lambda _: pytest.fail("uploaded"), lambda _: False)


FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    features=st.one_of(
        hypothesis_numpy.arrays(np.float32, (3, 2), elements=FINITE),
        hypothesis_numpy.arrays(np.float64, (3,), elements=FINITE),
        hypothesis_numpy.arrays(np.uint8, (3, 1, 2)),
    ),
    labels=st.one_of(
        hypothesis_numpy.arrays(np.int64, (3,)),
        hypothesis_numpy.arrays(np.float32, (3, 2), elements=FINITE),
    ),
)
def test_every_number_arrives_by_both_ways(
    place: Place, features: np.ndarray, labels: np.ndarray
) -> None:
    inline = place.wire((features, labels))
    assert isinstance(inline, dict)
    blob = place.files.publish(pack_samples(features, labels))
    for wire in (inline, blob):
        taken, targets = place.arrived(wire)
        assert taken.dtype == torch.float32
        assert taken.numpy().tobytes() == features.astype(np.float32).tobytes(), "to the bit"
        assert targets.numpy().dtype == labels.dtype
        assert targets.numpy().tobytes() == labels.tobytes()


def test_a_large_set_is_uploaded_once_under_its_hash(place: Place) -> None:
    features = np.random.default_rng(0).normal(size=(500, 40)).astype(np.float32)
    labels = np.arange(500)
    first = place.wire((features, labels))
    again = place.wire({"features": torch.from_numpy(features), "labels": labels.tolist()})
    assert place.put == [first]
    assert place.asked == [first, again]
    assert first == again
    taken, targets = place.arrived(first)
    assert np.array_equal(taken.numpy(), features)
    assert targets.tolist() == labels.tolist()


def test_the_limit_of_inline_data_is_that_of_their_json(place: Place) -> None:
    def of(count: int) -> Any:
        return place.wire((np.zeros((count, 1)), np.zeros(count, np.int64)))

    largest = next(n for n in range(9999, 0, -1) if isinstance(of(n), dict))
    assert INLINE_LIMIT_BYTES - 10 <= len(json.dumps(of(largest))) <= INLINE_LIMIT_BYTES
    assert of(largest + 1).startswith("sha256:")


class Squares(Dataset):
    """Numbers and their squares, counting how often one is taken."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.taken: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        self.taken.append(index)
        return torch.full((2,), float(index)), index**2


FEATURES = [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]
LABELS = [0, 1, 4]


@pytest.mark.parametrize(
    "data",
    [
        (FEATURES, LABELS),
        [((0, 0), (1, 1), (2, 2)), tuple(LABELS)],
        {"features": FEATURES, "labels": LABELS},
        InlineData(features=FEATURES, labels=LABELS),
        (np.array(FEATURES, ">f8"), np.array(LABELS, "u8")),
        (np.array(FEATURES, np.float16), np.array(LABELS, np.int8)),
        (np.array(FEATURES, ml_dtypes.bfloat16), np.array(LABELS)),
        (torch.tensor(FEATURES, dtype=torch.bfloat16), torch.tensor(LABELS)),
        (torch.tensor(FEATURES, dtype=torch.float8_e5m2), torch.tensor(LABELS)),
        (torch.tensor(FEATURES, requires_grad=True), [np.int64(label) for label in LABELS]),
        (torch.tensor(FEATURES).T.contiguous().T, list(torch.tensor(LABELS))),
        (list(torch.tensor(FEATURES)), [torch.tensor(0), 1, np.int32(4)]),
        TensorDataset(torch.tensor(FEATURES), torch.tensor(LABELS)),
        Squares(3),
        Subset(Squares(9), [0, 1, 2]),
    ],
    ids=["lists", "tuples", "dict", "inline", "big-endian", "small", "ml-bfloat16", "bfloat16",
         "float8", "requires-grad", "strided", "list-of-tensors", "tensor-dataset", "dataset",
         "subset"],
)  # fmt: skip
@pytest.mark.parametrize("way", ["in the job", "as a blob"])
def test_whatever_holds_them_the_same_samples_arrive(
    place: Place, monkeypatch: pytest.MonkeyPatch, data: object, way: str
) -> None:
    if way == "as a blob":
        monkeypatch.setattr(training_data, "INLINE_LIMIT_BYTES", 0)
    features, labels = place.arrived(place.wire(data))
    assert features.tolist() == FEATURES
    assert labels.dtype == torch.int64
    assert labels.tolist() == LABELS
    assert len(place.put) == (way == "as a blob")


def test_each_item_of_a_data_set_is_taken_once(place: Place) -> None:
    squares = Squares(5)
    place.wire(squares)
    assert squares.taken == [0, 1, 2, 3, 4]


def test_truth_values_become_numbers(place: Place) -> None:
    wire = place.wire((torch.tensor([[True], [False]]), np.array([True, False])))
    assert wire == {"features": [[1], [0]], "labels": [1, 0]}


@pytest.mark.parametrize(
    ("data", "wire"),
    [
        ("mnist:train", "mnist:train"),
        (Path("data") / "photos", f"data{os.sep}photos"),
        ("sha256:" + "a" * 64, "sha256:" + "a" * 64),
        (ImageData(data="digits", image_size=8, skip_bad=True),
         {"data": "digits", "image_size": 8, "skip_bad": True}),
        ({"data": "digits", "mean": (0.5,), "std": [0.25]},
         {"data": "digits", "mean": [0.5], "std": [0.25]}),
    ],
    ids=["reference", "path", "blob", "images", "image-fields"],
)  # fmt: skip
def test_references_travel_as_they_are(place: Place, data: object, wire: Any) -> None:
    assert place.wire(data) == wire
    TypeAdapter(TrainingData).validate_python(wire)
    assert place.asked == []


def test_features_alone_are_sent_as_predict_takes_them(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = torch.tensor([[0.5], [-1.0]])
    assert features_to_wire(values, place.put_blob, place.has_blob) == [[0.5], [-1.0]]
    monkeypatch.setattr(training_data, "INLINE_LIMIT_BYTES", 0)
    reference = features_to_wire(values, place.put_blob, place.has_blob)
    assert place.arrived(reference)[0].equal(values)
    with pytest.raises(DatasetError, match=r"'features\[1\]\[0\]' is nan"):
        features_to_wire(np.array([[0], [np.nan]]), place.put_blob, place.has_blob)


def test_packed_samples_are_safetensors_of_half_the_bytes_of_float64() -> None:
    packed = pack_samples(np.zeros((10, 8)), np.zeros(10, np.int32))
    arrays = from_safetensors(packed)
    assert {name: array.dtype.name for name, array in arrays.items()} == {
        "features": "float32",
        "labels": "int32",
    }
    assert packed == pack_samples(np.zeros((10, 8), np.float32), np.zeros(10, np.int32))


class Odd(Dataset):
    """Items as given."""

    def __init__(self, *items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (None, r"'training_data' is of type NoneType\. Taken are a dataset reference"),
        (7, "'training_data' is of type int"),
        ("", "a reference of 1 to 4096 characters"),
        ("sha256:12", "after 'sha256:' come 64 digits"),
        ({"features": []}, "has the fields 'features'; give"),
        ({}, "has the fields none; give"),
        (np.zeros((3, 2)), "one array; give features and labels"),
        (([[1]], [1], [1]), "holds 3 parts"),
        (TensorDataset(torch.zeros(2)), "holds 1 parts"),
        (DataLoader(Squares(2)), "is of type DataLoader; give its 'dataset'"),
        (([[1.0, 2.0], [3.0]], [0, 1]), r"'training_data.features\[1\]' must hold 2 values"),
        (([[1.0], [2.0]], [0, "cat"]), r"'training_data.labels\[1\]' must be a number, got 'cat'"),
        (([[1.0], [float("nan")]], [0, 1]), r"'training_data.features\[1\]\[0\]' is nan"),
        ((np.array([[1.0], [np.inf]]), [0, 1]), r"features\[1\]\[0\]' is inf as float32"),
        ((np.ones((2, 1)), np.array([0, 1e39])), r"labels\[1\]' is inf as float32"),
        ((np.ones((2, 1)), [0, 1, 2]), "features' holds 2 samples and 'training_data.labels' 3"),
        ((np.ones(()), [0]), "'training_data.features' is one number"),
        ((np.ones((0, 2)), []), r"'training_data.features' of shape \(0, 2\) holds no number"),
        ((np.array(["a"]), [0]), "'training_data.features' holds <U1, and only real numbers"),
        ((np.ones(1, complex), [0]), "holds complex128, and only real"),
        ((np.ones(1), np.array([2**63], np.uint64)), "'training_data.labels' holds a whole number"),
        ((torch.eye(2).to_sparse(), [0, 1]), "'training_data.features' is sparse"),
        (([np.zeros(2), np.zeros(3)], [0, 1]), r"features\[1\]' has shape \(3,\), and the first"),
        (Odd(), "'training_data' holds no sample"),
        (Odd(3), r"'training_data\[0\]' is int; each sample must be \(features, label\)"),
        (Odd((1, 2, 3)), r"'training_data\[0\]' is 3 parts"),
        (Odd((object(), 0)), r"'training_data\[0\]' has features of type object"),
        (Odd((1.0, 0), (2.0, "a")), r"'training_data\[1\]\[1\]' holds <U1"),
        (Odd((torch.zeros(2), 0), (torch.zeros(3), 0)), r"\[1\]': .* its features is \(3,\)"),
        (Odd((1.0, 0), (1.0, 0.5)), r"\[1\]': the shape of its label is \(\), of float32"),
    ],
    ids=["none", "number", "no-reference", "no-blob", "fields", "no-fields", "one-array", "three",
         "one-tensor", "loader", "ragged", "text", "nan", "infinity", "overflow", "lengths",
         "scalar", "nothing", "texts", "complex", "too-whole", "sparse", "shapes", "empty-set",
         "no-pair", "triple", "object", "text-label", "other-shape", "other-dtype"],
)  # fmt: skip
def test_what_is_wrong_is_found_before_anything_is_sent(data: object, sentence: str) -> None:
    refused(data, DatasetError, sentence)


def test_wrong_fields_of_images_are_named() -> None:
    refused({"data": "digits", "channels": 2}, SpecError, "'training_data.channels': Input should")
    refused({"data": "digits", "mean": [0.5]}, SpecError, "'mean' and 'std' go together")


def test_more_than_is_sent_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_data, "MAX_DATA_BYTES", 999)
    squares = Squares(1000)
    refused(squares, TooLarge, r"'training_data' takes 16,000 bytes, and 999 at most .* by a data")
    assert squares.taken == [0]
    with pytest.raises(TooLarge):
        pack_samples(np.zeros((100, 10)), np.zeros(100))
