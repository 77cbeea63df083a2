"""Training data of a job become samples: inline or as a blob; what is wrong is named."""

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sample_cases import blob, everything, opened, worker_files
from training_cases import model_config, torch

from visiondyno.errors import Cancelled, DatasetError, StorageFull
from visiondyno.operations.worker_files import WorkerFiles
from visiondyno.state import to_safetensors
from visiondyno.training.checks import check_features
from visiondyno.training.data import TensorSamples
from visiondyno.training.modules import build_module

pytestmark = pytest.mark.torch

EMBEDDING = {"type": "sequential", "layers": [
    {"type": "embedding", "num_embeddings": 5, "embedding_dim": 2}]}  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> WorkerFiles:
    return worker_files(tmp_path)


def test_inline_samples_keep_their_numbers_and_have_a_digest_of_their_own(
    files: WorkerFiles,
) -> None:
    first = opened({"features": [[0.1, 2]], "labels": [1]}, files)
    assert everything(first.samples).equal(torch.tensor([[0.1, 2.0]]))
    assert first.samples.labels.equal(torch.tensor([1]))
    assert first.classes is None
    assert first.notes == ()
    digests = {
        opened({"features": [features], "labels": [label]}, files).digest
        for features in ([0.1, 2], [0.1, 2.0], [0.1, 3], [[0.1], [2]])
        for label in (1, 1.0)
    }
    assert len(digests) == 6, "2 and 2.0 are the same float32; a label 1 is a class and 1.0 is not"
    assert first.digest in digests


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"features": [[0.0, 1e300]], "labels": [0]}, r"'training_data.features\[0\]\[1\]' is inf"),
        ({"features": [[0.0]], "labels": [-1e300]}, r"'training_data.labels\[0\]' is -inf"),
    ],
    ids=["features", "labels"],
)
def test_inline_numbers_beyond_float32_are_refused(
    files: WorkerFiles, data: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(DatasetError, match=sentence):
        opened(data, files)


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "int16", "int64", "uint32", "float16", "float32", "float64"]
)
def test_a_blobs_features_are_float32_unscaled_whatever_their_dtype(
    files: WorkerFiles, dtype: str
) -> None:
    features = np.arange(24).reshape(6, 2, 2).astype(dtype)
    reference = blob(files, features=features, labels=np.arange(6, dtype=dtype))
    found = opened(reference, files)
    assert found.digest == reference
    assert found.samples.finite
    assert len(found.samples) == 6
    taken = found.samples.features(torch.tensor([5, 0]))
    assert taken.dtype == torch.float32
    assert taken.tolist() == [[[20, 21], [22, 23]], [[0, 1], [2, 3]]]
    is_float = dtype.startswith("float")
    assert found.samples.labels.dtype == (torch.float32 if is_float else torch.int64)
    assert found.samples.labels.tolist() == list(range(6))


def test_a_blob_of_bfloat16_and_one_without_alignment_are_read(files: WorkerFiles) -> None:
    header = (
        b'{"features":{"dtype":"BF16","shape":[2,1],"data_offsets":[1,5]},'
        b'"labels":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    )
    numbers = np.array([1.5, -2], np.float32).view(np.uint32) >> 16
    data = bytes([7]) + numbers.astype("<u2").tobytes()
    with pytest.raises(DatasetError, match=r"holds 2 samples in the blob and .* 1;"):
        opened(files.publish(len(header).to_bytes(8, "little") + header + data), files)
    header = header.replace(b"[1]", b"[2]").replace(b"[1,5]", b"[2,6]").replace(b"[0,1]", b"[0,2]")
    header += b" "  # so that the numbers begin at an odd place
    data = bytes([7]) + data
    found = opened(files.publish(len(header).to_bytes(8, "little") + header + data), files)
    assert everything(found.samples).tolist() == [[1.5], [-2]]
    assert found.samples.labels.tolist() == [7, 7]


def test_a_blobs_whole_numbers_are_looked_up_and_fractions_refused(files: WorkerFiles) -> None:
    module = build_module(model_config(EMBEDDING))
    found = opened(blob(files, features=np.array([[1, 4]], np.uint8), labels=[0]), files, module)
    assert everything(found.samples).dtype == torch.int64
    with pytest.raises(DatasetError, match=r"'training_data.features' must be whole numbers"):
        opened(blob(files, features=np.ones((1, 2), np.float32), labels=[0]), files, module)
    wrong = opened(blob(files, features=np.array([[1, 5]]), labels=[0]), files, module)
    with pytest.raises(DatasetError, match=r"features\[0\]\[1\]' is 5; layer 0 looks up"):
        check_features(wrong.samples, module)


def a_zip() -> bytes:
    file = io.BytesIO()
    np.savez(file, features=np.zeros(1), labels=np.zeros(1))
    return file.getvalue()


class _Hostile:
    def __reduce__(self) -> Any:
        return (os.abort, ())


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (pickle.dumps(_Hostile()), "zip file or a pickle"),
        (a_zip(), "zip file or a pickle"),
        (b"\x93NUMPY\x01\x00v\x00" + b" " * 200, "one array of NumPy"),
        (b"", "is empty"),
        (b"\x08" + bytes(7) + b"{      }" + b"more", "isn't safetensors, or its header is damaged"),
        (to_safetensors({}), "holds no tensor, and exactly 'features' and 'labels'"),
        (to_safetensors({"features": np.zeros(2)}), "holds 'features', and exactly"),
        (
            to_safetensors({name: np.zeros(2) for name in ("features", "labels", "ids")}),
            "holds 'features', 'ids', 'labels', and exactly",
        ),
        (to_safetensors({f"t{i}": np.zeros(1) for i in range(9)}), "and 4 more, and exactly"),
        (
            to_safetensors({"features": np.zeros(2), "labels": np.array([True, False])}),
            r"'training_data.labels' has the dtype BOOL",
        ),
        (
            to_safetensors({"features": np.zeros((2, 3)), "labels": np.zeros(3)}),
            "holds 2 samples in the blob and 'training_data.labels' 3",
        ),
        (
            to_safetensors({"features": np.zeros((0, 3)), "labels": np.zeros(0)}),
            "'training_data.features' holds no sample",
        ),
        (
            to_safetensors({"features": np.zeros(()), "labels": np.zeros(1)}),
            "'training_data.features' is one number in the blob",
        ),
        (
            to_safetensors({"features": np.array([[0, 1], [2, np.nan]]), "labels": np.zeros(2)}),
            r"'training_data.features\[1\]\[1\]' is nan as float32",
        ),
        (
            to_safetensors({"features": np.zeros((2, 1)), "labels": np.array([0, 1e39])}),
            r"'training_data.labels\[1\]' is inf as float32",
        ),
    ],
    ids=["pickle", "npz", "npy", "empty", "damaged", "nothing", "no-labels", "extra", "many",
         "bool", "lengths", "no-samples", "scalar", "nan", "overflow"],
)  # fmt: skip
def test_a_blob_of_something_else_is_refused_in_a_sentence(
    files: WorkerFiles, content: bytes, sentence: str
) -> None:
    reference = files.publish(content)
    for _ in range(2):  # what was refused isn't noted as good
        with pytest.raises(DatasetError, match=sentence) as caught:
            opened(reference, files)
        assert caught.value.message.startswith("'training_data")


def test_a_large_blob_names_the_row_of_a_wrong_number_and_can_be_cancelled(
    files: WorkerFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("visiondyno.operations.sample_blobs._SCANNED_AT_ONCE_BYTES", 16)
    features = np.zeros((9, 2), np.float32)
    features[7, 1] = -np.inf
    reference = blob(files, features=features, labels=np.zeros(9))
    with pytest.raises(DatasetError, match=r"features\[7\]\[1\]' is -inf"):
        opened(reference, files)
    looked = []

    def is_cancelled() -> bool:
        looked.append(1)
        return len(looked) > 4

    with pytest.raises(Cancelled):
        opened(reference, files, is_cancelled=is_cancelled)


def test_a_blob_that_is_evicted_again_and_again_says_what_to_raise(
    files: WorkerFiles, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(files, "fetch", lambda *_: tmp_path / "gone")
    with pytest.raises(StorageFull, match="Raise VISIONDYNO_CACHE_BYTES"):
        opened("sha256:" + "0" * 64, files)


def test_samples_that_are_known_to_be_finite_are_not_read_for_it_again() -> None:
    module = build_module(model_config({"type": "sequential", "layers": [{"type": "relu"}]}))
    samples = TensorSamples(torch.tensor([[torch.nan]]), torch.zeros(1))
    with pytest.raises(DatasetError, match="is nan"):
        check_features(samples, module)
    samples.finite = True
    check_features(samples, module)
