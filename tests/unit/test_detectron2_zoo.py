"""detectron2 where it isn't: names, the missing package, and pickles that may hold arrays only."""

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from visiondyno.errors import ModelError, Unavailable
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.pytorch.detectron2_zoo import (
    DETECTORS,
    config_of,
    read_zoo_weights,
    weights_of,
)
from visiondyno.runtimes.registry import fetch_weights, load_model, runtime

REFERENCE = "detectron2:COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml"


@pytest.mark.parametrize("name", DETECTORS)
def test_every_detector_is_found_with_and_without_its_suffix(name: str) -> None:
    config = config_of(f"detectron2:{name}")
    assert config == config_of(f"detectron2:{name}.yaml") == f"{name}.yaml"
    file = weights_of(config)
    assert file.url == f"https://dl.fbaipublicfiles.com/detectron2/{name}/{DETECTORS[name]}"
    assert "/" not in file.name


def test_no_two_detectors_keep_their_weights_under_one_name() -> None:
    assert len({weights_of(f"{name}.yaml").name for name in DETECTORS}) == len(DETECTORS)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("COCO-Detection/faster_rcnn_R_50_FPN_9x", "no detector.*did you mean.*R_50_FPN_"),
        ("qq", "no detector 'qq'; did you mean detectron2:COCO-Detection/faster_rcnn_R_50_FPN_3x"),
        ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml", "instance segmentation"),
        ("COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x.yaml", "keypoint detection"),
        ("COCO-Detection/rpn_R_50_FPN_1x.yaml", "proposing regions only"),
        ("../../etc/passwd", "no detector"),
    ],
    ids=range(6),
)
def test_other_names_are_refused(name: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        runtime("detectron2").fetch(f"detectron2:{name}")


@pytest.mark.torch
def test_without_the_package_the_way_to_it_and_the_stand_in_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setitem(sys.modules, "detectron2", None)
    for call in (lambda: load_model(REFERENCE, LoadOptions()), lambda: fetch_weights(REFERENCE)):
        with pytest.raises(Unavailable, match=r"pip install .*detectron2\.git") as raised:
            call()
        assert "torchvision:fasterrcnn_resnet50_fpn_v2" in raised.value.message


@settings(max_examples=40)
@given(
    st.dictionaries(
        st.text(max_size=20),
        arrays.arrays(
            st.sampled_from([np.float32, np.float16, np.int64, np.bool_]),
            arrays.array_shapes(min_dims=0, max_side=4),
        ),
        max_size=4,
    ),
    st.integers(0, pickle.HIGHEST_PROTOCOL),
)
def test_arrays_of_any_protocol_are_read(
    tmp_path_factory: pytest.TempPathFactory, state: dict[str, Any], protocol: int
) -> None:
    path = tmp_path_factory.mktemp("zoo") / "weights.pkl"
    path.write_bytes(pickle.dumps({"model": state, "__author__": "someone"}, protocol))
    found = read_zoo_weights(path, REFERENCE)
    assert list(found) == list(state)
    for name, array in state.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


class RunsThis:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = function, arguments

    def __reduce__(self) -> Any:
        return self._call


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({"model": {"w": RunsThis(Path.touch, Path("was-run"))}}),
        pickle.dumps({"model": {"w": RunsThis(eval, "open('was-run', 'w')")}}, 2),
        pickle.dumps({"model": {"w": RunsThis(np.load, "x", None, True)}}),
        pickle.dumps({"model": np.zeros(3)})[:-9],
        b"",
    ],
    ids=range(5),
)
def test_what_would_run_code_or_is_damaged_is_refused(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pkl"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"can't be read: .*dyno models pull"):
        read_zoo_weights(path, REFERENCE)
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        {"blobs": {"w": np.zeros(2)}},
        {"model": {"w": "text"}},
        {"model": {"w": np.array([None])}},
    ],
    ids=range(4),
)
def test_other_content_is_no_weights(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ModelError, match="aren't arrays by name"):
        read_zoo_weights(path, REFERENCE)
