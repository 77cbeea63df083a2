"""Training data of a job become samples: inline, as a blob, as images; what is wrong is named."""

import io
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from training_cases import model_config, torch

from dataset_factory import idx_bytes, write_coco, write_depth, write_idx, write_image_folder
from visiondyno.blobs.folder import FolderBlobs
from visiondyno.datasets.fingerprint import fingerprint
from visiondyno.errors import Cancelled, DatasetError, SpecError, StorageFull, TooLarge
from visiondyno.operations import prepared_images, sample_images
from visiondyno.operations.context import OperationContext
from visiondyno.operations.prepared_images import map_images, resized
from visiondyno.operations.training_samples import OpenedSamples, open_samples
from visiondyno.operations.worker_cache import WorkerCache
from visiondyno.operations.worker_files import WorkerFiles
from visiondyno.specs.training_data import ImageData, TrainingData
from visiondyno.state import to_safetensors
from visiondyno.training.checks import check_features
from visiondyno.training.data import TensorSamples
from visiondyno.training.modules import build_module

EMBEDDING = {"type": "sequential", "layers": [
    {"type": "embedding", "num_embeddings": 5, "embedding_dim": 2}]}  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> WorkerFiles:
    cache = WorkerCache(tmp_path / "cache", 10_000_000)
    return WorkerFiles(lambda: FolderBlobs(tmp_path / "blobs"), cache)


@pytest.fixture(autouse=True)
def own_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def opened(data: Any, files: WorkerFiles, module: Any = None, **context: Any) -> OpenedSamples:
    typed = TypeAdapter(TrainingData).validate_python(data)
    return open_samples(typed, module, "training_data", files, OperationContext(**context))


def everything(samples: Any) -> Any:
    return samples.features(torch.arange(len(samples)))


def blob(files: WorkerFiles, **tensors: Any) -> str:
    return files.publish(to_safetensors({name: np.asarray(t) for name, t in tensors.items()}))


def write_png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(".png", pixels)
    assert done
    path.write_bytes(data.tobytes())


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def write_classes(root: Path, *images: np.ndarray) -> None:
    """One image a class, BGR or grey."""
    for index, pixels in enumerate(images):
        write_png(root / f"class{index}" / "image.png", pixels)


def age(root: Path) -> None:
    """As if the files were from long ago: only then a later change is sure to show."""
    for path in root.rglob("*"):
        os.utime(path, (1_600_000_000, 1_600_000_000))


# Inline


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


# Blobs


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


# Images


def test_images_are_what_torchvision_makes_of_them(files: WorkerFiles, tmp_path: Path) -> None:
    from torchvision.transforms.functional import normalize, to_tensor

    images = [noise(seed, 6, 5, 3) for seed in range(3)]
    write_classes(tmp_path / "data", *images)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    asked = {"data": str(tmp_path / "data"), "mean": mean, "std": std}
    found = opened(asked, files)
    taken = found.samples.features(torch.tensor([2, 0]))
    for sample, index in zip(taken, (2, 0), strict=True):
        rgb = np.ascontiguousarray(images[index][:, :, ::-1])
        assert sample.equal(normalize(to_tensor(rgb), mean, std)), "to the bit"
    assert found.classes == ("class0", "class1", "class2")
    assert found.samples.labels.tolist() == [0, 1, 2]
    assert found.samples.labels.dtype == torch.int64
    other = opened(asked | {"layout": "hwc"}, files)
    assert everything(other.samples).equal(everything(found.samples).permute(0, 2, 3, 1))
    assert other.digest != found.digest


def test_images_are_grey_only_if_all_are_unless_it_is_said(
    files: WorkerFiles, tmp_path: Path
) -> None:
    grey, colour = noise(0, 4, 3), noise(1, 4, 3, 3)
    write_classes(tmp_path / "grey", grey, np.repeat(grey[::-1, :, None], 3, axis=2))
    write_classes(tmp_path / "mixed", *[grey] * 40, colour, grey)
    found = everything(opened(str(tmp_path / "grey"), files).samples)
    assert found.shape == (2, 1, 4, 3)
    assert np.array_equal(found[1, 0].numpy(), grey[::-1] / np.float32(255))
    mixed = everything(opened(str(tmp_path / "mixed"), files).samples)
    assert mixed.shape == (42, 3, 4, 3)
    order = sorted(range(42), key=str).index(40)
    assert np.array_equal(
        mixed[order].numpy(), colour[:, :, ::-1].transpose(2, 0, 1) / np.float32(255)
    )
    for index in set(range(42)) - {order}:
        assert np.array_equal(mixed[index].numpy(), np.stack([grey] * 3) / np.float32(255))
    one = everything(opened({"data": str(tmp_path / "mixed"), "channels": 1}, files).samples)
    made_grey = cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY)
    assert np.array_equal(one[order, 0].numpy(), made_grey / np.float32(255))
    three = everything(opened({"data": str(tmp_path / "grey"), "channels": 3}, files).samples)
    assert three.shape == (2, 3, 4, 3)
    assert three[:, 0].equal(found[:, 0])
    assert three[:, 2].equal(found[:, 0])


def test_a_folder_below_the_data_folder_is_found_by_its_name(
    files: WorkerFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISIONDYNO_DATA", str(tmp_path / "all"))
    write_classes(tmp_path / "all" / "pets" / "train", noise(0, 3, 3), noise(1, 3, 3))
    write_classes(tmp_path / "all" / "pets" / "val", noise(2, 3, 3), noise(3, 3, 3))
    age(tmp_path / "all")
    first, other = opened("pets:train", files), opened("pets:val", files)
    assert first.digest != other.digest
    monkeypatch.setattr(sample_images, "open_dataset", lambda *_, **__: pytest.fail("opened"))
    assert opened("pets:train", files).digest == first.digest


def test_images_of_several_sizes_need_one_to_be_resized_to(
    files: WorkerFiles, tmp_path: Path
) -> None:
    write_image_folder(tmp_path / "data")
    with pytest.raises(
        DatasetError, match=r"b.png is 21×30 pixels and the first image 20×30; give"
    ):
        opened(str(tmp_path / "data"), files)
    found = opened({"data": str(tmp_path / "data"), "image_size": [6, 40]}, files)
    assert everything(found.samples).shape == (4, 3, 6, 40)
    assert found.classes == ("cat", "dog", "eel")
    assert found.samples.labels.tolist() == [0, 0, 1, 1]
    square = opened({"data": str(tmp_path / "data"), "image_size": 8}, files)
    assert everything(square.samples).shape == (4, 3, 8, 8)


@given(
    sides=st.tuples(*[st.integers(1, 12)] * 4),
    value=st.integers(0, 255),
)
def test_resizing_gives_the_size_asked_for_and_keeps_what_is_even(
    sides: tuple[int, int, int, int], value: int
) -> None:
    image = np.full((*sides[:2], 3), value, np.uint8)
    assert np.array_equal(resized(image, *sides[2:]), np.full((*sides[2:], 3), value, np.uint8))


def test_images_that_shrink_are_averaged_over_areas() -> None:
    image = np.array([[0, 100, 50], [20, 80, 150]], np.uint8)
    shown = np.repeat(image[:, :2, None], 3, axis=2)
    assert resized(shown, 1, 1).tolist() == [[[50, 50, 50]]]
    wide = resized(np.repeat(image[:, :, None], 3, axis=2), 1, 6)
    assert wide.shape == (1, 6, 3)
    assert wide[0, 0].tolist() == [10, 10, 10], "the mean of the first column, then stretched"


@pytest.mark.parametrize("name", ["mean", "std"])
def test_a_normalisation_for_other_channels_is_refused(
    files: WorkerFiles, tmp_path: Path, name: str
) -> None:
    write_classes(tmp_path / "data", noise(0, 3, 3), noise(1, 3, 3))
    moments = {"mean": [0.5], "std": [0.5]} | {name: [0.5] * 3}
    with pytest.raises(SpecError, match=rf"'training_data.data.{name}' holds 3 numbers, .* 1 chan"):
        opened({"data": str(tmp_path / "data"), **moments}, files)


def test_a_damaged_image_stops_the_job_or_is_left_out_and_said(
    files: WorkerFiles, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    write_classes(root, noise(0, 8, 8), noise(1, 8, 8), noise(2, 8, 8))
    whole = (root / "class1" / "image.png").read_bytes()
    # Its header and its end are right: only decoding shows it.
    (root / "class1" / "image.png").write_bytes(whole[:45] + bytes(20) + whole[65:])
    (root / "class2" / "empty.png").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"^'training_data': .*empty.png is empty"):
        opened(str(root), files)
    (root / "class2" / "empty.png").unlink()
    with pytest.raises(DatasetError, match=r"^'training_data': .*class1/image.png is damaged"):
        opened(str(root), files)
    (root / "class2" / "empty.png").write_bytes(b"")
    found = opened({"data": str(root), "skip_bad": True}, files)
    assert found.samples.labels.tolist() == [0, 2]
    assert np.array_equal(everything(found.samples)[1, 0].numpy() * 255, noise(2, 8, 8))
    assert [note.partition(",")[0] for note in found.notes] == [
        "1 images were left out as bad",
        "1 images were left out as damaged",
    ]
    for index in (0, 2):
        (root / f"class{index}" / "image.png").write_bytes(whole[:45] + bytes(20) + whole[65:])
    with pytest.raises(DatasetError, match="each of its 3 images is bad"):
        opened({"data": str(root), "skip_bad": True}, files)


@pytest.mark.parametrize(
    ("write", "task"), [(write_coco, "detection"), (write_depth, "depth")], ids=["coco", "depth"]
)
def test_data_without_one_class_an_image_are_refused(
    files: WorkerFiles, tmp_path: Path, write: Any, task: str
) -> None:
    write(tmp_path / "data")
    with pytest.raises(DatasetError, match=rf"data' is a {task} data set, and training takes imag"):
        opened(str(tmp_path / "data"), files)


def test_built_in_scenes_are_refused_before_they_are_drawn(
    files: WorkerFiles, tmp_path: Path
) -> None:
    for name, task in (("street:train", "detection"), ("depth-scenes", "depth")):
        with pytest.raises(DatasetError, match=f"'{name}' is a {task} data set"):
            opened(name, files)
    assert not (tmp_path / "xdg").exists()


@pytest.mark.parametrize(
    "reference", ["nowhere", "nul\0byte", "digits:train:0"], ids=["nowhere", "nul", "none"]
)
def test_data_that_are_nowhere_are_named(files: WorkerFiles, reference: str) -> None:
    with pytest.raises(DatasetError, match=r"^'training_data.data': "):
        opened({"data": reference}, files)


def test_more_than_the_worker_may_keep_is_told_before_it_is_decoded(tmp_path: Path) -> None:
    files = WorkerFiles(
        lambda: FolderBlobs(tmp_path / "blobs"), WorkerCache(tmp_path / "cache", 100)
    )
    write_classes(tmp_path / "data", noise(0, 8, 8), noise(1, 8, 8))
    events: list[dict[str, Any]] = []
    with pytest.raises(TooLarge, match=r"^'training_data': the images of .* take 128 bytes"):
        opened(str(tmp_path / "data"), files, on_progress=events.append)
    assert [event["done"] for event in events if "done" in event] == [0]
    write_classes(tmp_path / "more", *[noise(0, 7, 7)] * 2)
    write_png(tmp_path / "more" / "class2" / "a.png", noise(0, 2, 2, 3))
    assert len(opened({"data": str(tmp_path / "more"), "max_images": 2}, files).samples) == 2
    with pytest.raises(TooLarge, match="take 108 bytes"):
        opened({"data": str(tmp_path / "more"), "image_size": [3, 4]}, files)


def test_few_large_images_are_in_memory_at_a_time(
    tmp_path: Path, files: WorkerFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight images of 16,384 × 16,384 pixels would take 6 GB while they wait to be written."""
    write_classes(tmp_path / "data", *[noise(index, 8, 8) for index in range(8)])
    waiting: list[int] = []
    decode, add = prepared_images._image, prepared_images._PixelFile.add

    def decoded(*arguments: Any, **more: Any) -> Any:
        waiting.append(1)
        return decode(*arguments, **more)

    def added(*arguments: Any) -> None:
        add(*arguments)
        assert len(waiting) == 1
        waiting.clear()

    monkeypatch.setattr(prepared_images, "_image", decoded)
    monkeypatch.setattr(prepared_images._PixelFile, "add", added)
    monkeypatch.setattr(prepared_images, "_AT_ONCE_BYTES", 3 * 100 * 100)
    found = opened({"data": str(tmp_path / "data"), "image_size": 100}, files)
    assert len(found.samples) == 8


# What is known already


def test_data_that_did_not_change_are_not_opened_again(
    files: WorkerFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    write_idx(root, {"t10k": 20})
    age(root)
    first = opened(f"{root}:train", files)
    assert len(first.samples) == 16
    assert "'train' is 16 of its 20 images" in first.notes[0]

    def refused(*_: Any, **__: Any) -> Any:
        raise AssertionError("the data set was opened")

    with monkeypatch.context() as patch:
        patch.setattr(sample_images, "open_dataset", refused)
        again = opened(f"{root}:train", files)
        other_way = opened({"data": f"{root}:train", "layout": "hwc"}, files)
        with pytest.raises(AssertionError, match="was opened"):
            opened(f"{root}:test", files)
    assert (again.digest, again.notes, again.classes) == (first.digest, first.notes, first.classes)
    assert everything(again.samples).equal(everything(first.samples))
    assert other_way.digest != first.digest


def test_a_change_of_the_same_size_is_seen_even_where_its_time_was_set_back(
    files: WorkerFiles, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    root.mkdir()
    (root / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(noise(0, 4, 3, 3)))
    labels = root / "t10k-labels-idx1-ubyte"
    labels.write_bytes(idx_bytes(np.array([0, 1, 2, 3], np.uint8)))
    age(root)
    before, status = opened(str(root), files), labels.stat()
    with labels.open("r+b") as file:
        file.write(idx_bytes(np.array([3, 2, 1, 0], np.uint8)))
    age(root)
    assert (labels.stat().st_size, labels.stat().st_mtime_ns, labels.stat().st_ino) == (
        status.st_size, status.st_mtime_ns, status.st_ino
    )  # fmt: skip
    after = opened(str(root), files)
    assert after.samples.labels.tolist() == [3, 2, 1, 0]
    assert after.digest != before.digest


def test_files_of_just_now_are_not_relied_upon(
    files: WorkerFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    write_classes(root, noise(0, 3, 3), noise(1, 3, 3))
    opens = []
    real = sample_images.open_dataset

    def counted(*args: Any, **kwargs: Any) -> Any:
        opens.append(args)
        return real(*args, **kwargs)

    monkeypatch.setattr(sample_images, "open_dataset", counted)
    digests = {opened(str(root), files).digest for _ in range(2)}
    assert (len(opens), len(digests)) == (2, 1)
    age(root)
    digests |= {opened(str(root), files).digest for _ in range(2)}
    assert (len(opens), len(digests)) == (3, 1)


def test_data_that_change_while_they_are_read_are_refused(
    files: WorkerFiles, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    write_classes(root, noise(0, 3, 3), noise(1, 3, 3))
    age(root)

    def meddle(event: dict[str, Any]) -> None:
        if event.get("done") == 0:
            write_png(root / "class1" / "image.png", noise(9, 3, 3))

    with pytest.raises(DatasetError, match="was changed while it was read"):
        opened(str(root), files, on_progress=meddle)
    found = opened(str(root), files)
    assert np.array_equal(everything(found.samples)[1, 0].numpy() * 255, noise(9, 3, 3))


def test_copies_of_the_same_data_share_their_arrays(files: WorkerFiles, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_classes(tmp_path / name, noise(0, 3, 3), noise(1, 3, 3))
    first = opened(str(tmp_path / "one"), files)
    events: list[dict[str, Any]] = []
    second = opened(str(tmp_path / "two"), files, on_progress=events.append)
    assert first.digest == second.digest
    assert [event["stage"] for event in events] == ["reading the data"]


def test_arrays_that_are_damaged_or_evicted_are_made_anew(
    files: WorkerFiles, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    write_classes(root, noise(0, 3, 3), noise(1, 3, 3))
    age(root)
    first = opened(str(root), files)
    values = everything(first.samples)
    pixels = next(files.cache.folder.rglob("pixels.bin"))
    for damage in (lambda: os.truncate(pixels, 5), (pixels.parent / "labels.npy").unlink):
        damage()
        assert map_images(pixels.parent) is None
        again = opened(str(root), files)
        assert again.digest == first.digest
        assert everything(again.samples).equal(values)
    note = next(files.cache.folder.rglob("samples-known/*"))
    note.write_text("[]")
    assert opened(str(root), files).digest == first.digest


def test_arrays_that_cannot_be_kept_say_what_to_raise(
    files: WorkerFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_classes(tmp_path / "data", noise(0, 3, 3), noise(1, 3, 3))
    monkeypatch.setattr(sample_images, "map_images", lambda _: None)
    with pytest.raises(StorageFull, match="Raise VISIONDYNO_CACHE_BYTES"):
        opened(str(tmp_path / "data"), files)


def test_samples_outlive_their_files(files: WorkerFiles, tmp_path: Path) -> None:
    write_classes(tmp_path / "data", noise(0, 3, 3), noise(1, 3, 3))
    reference = blob(files, features=noise(2, 4, 4), labels=np.arange(4))
    images, tensors = opened(str(tmp_path / "data"), files), opened(reference, files)
    shutil.rmtree(files.cache.folder)
    shutil.rmtree(tmp_path / "blobs")
    assert np.array_equal(everything(images.samples)[1, 0].numpy() * 255, noise(1, 3, 3))
    assert np.array_equal(everything(tensors.samples).numpy(), noise(2, 4, 4))


def test_preparing_tells_its_progress_and_stops_when_cancelled(
    files: WorkerFiles, tmp_path: Path
) -> None:
    write_classes(tmp_path / "data", *[noise(seed, 3, 3) for seed in range(70)])
    events: list[dict[str, Any]] = []
    with pytest.raises(Cancelled):
        opened(
            str(tmp_path / "data"),
            files,
            on_progress=events.append,
            is_cancelled=lambda: bool(events) and events[-1].get("done") == 40,
        )
    assert events[0] == {"stage": "reading the data", "data": str(tmp_path / "data")}
    assert events[-1] == {"stage": "preparing the data", "done": 40, "total": 70}
    assert not list(files.cache.folder.rglob("pixels.bin")), "half of the work isn't kept"
    assert len(opened(str(tmp_path / "data"), files).samples) == 70


def test_a_fingerprint_sees_what_a_data_set_is_read_from(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_classes(root, noise(0, 3, 3), noise(1, 3, 3))
    age(root)
    seen = []

    def sha256() -> str:
        found = fingerprint(root)
        assert found is not None
        seen.append(found.sha256)
        return found.sha256

    assert sha256() == sha256()
    (root / ".hidden").write_bytes(b"")
    assert sha256() == seen[0]
    (root / "empty class").mkdir()
    assert sha256() != seen[0]
    (root / "class0" / "link.png").symlink_to(tmp_path / "later.png")
    without = sha256()
    write_png(tmp_path / "later.png", noise(2, 3, 3))
    assert sha256() != without
    before = sha256()
    (root / "class0").rename(root / "class00")
    assert sha256() != before
    (root / "round").symlink_to(root)
    assert sha256() != before, "a link that leads back ends"
    assert fingerprint(tmp_path / "later.png") is None


def test_of_idx_files_only_their_folder_counts(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_idx(root, {"t10k": 2})
    before = fingerprint(root)
    assert before is not None
    (root / "inner").mkdir()
    (root / "inner" / "huge").write_bytes(b"1")
    assert fingerprint(root) == before
    assert fingerprint(root / "t10k-images-idx3-ubyte.gz") == before
    (root / "classes.txt").write_text("a\nb\n")
    assert fingerprint(root) != before


def test_times_within_a_tick_of_now_are_not_settled(tmp_path: Path) -> None:
    write_idx(tmp_path / "data", {"t10k": 2})
    age(tmp_path / "data")
    found = fingerprint(tmp_path / "data")
    assert found is not None
    assert found.newest_ns == 1_600_000_000 * 10**9
    assert not found.settled(found.newest_ns + 10**9)
    assert found.settled(found.newest_ns + 3 * 10**9)


def test_image_data_give_their_size_for_both_sides() -> None:
    assert ImageData(data="x", image_size=8).size == (8, 8)
    assert ImageData(data="x").size is None
