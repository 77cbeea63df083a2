"""Pre-processing follows each toolchain's rule to the pixel, and boxes find their way back."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from visiondyno.errors import ModelError
from visiondyno.specs.model_card import InputCard, ModelCard, ResizeMode
from visiondyno.vision.preprocess import Geometry, Preprocessor, rgb_planes

PLAIN = {"scale": 1.0, "channels": "bgr"}


def picture(height: int, width: int) -> np.ndarray:
    coarse = np.random.default_rng(height * 1000 + width).integers(0, 256, (5, 5, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def as_image(tensor: np.ndarray) -> np.ndarray:
    return tensor.transpose(1, 2, 0)


def test_letterbox_rounds_and_puts_the_odd_pixel_right_and_bottom() -> None:
    image = picture(100, 64)
    # Height 100 → 33, ratio .33; width 64 → round(21.12) = 21.
    batch = Preprocessor(InputCard(height=33, width=34, **PLAIN))([image])
    canvas = as_image(batch.tensor[0])
    # 34 - 21 = 13 columns of padding: 6 left, 7 right.
    assert (canvas[:, :6] == 114).all()
    assert (canvas[:, 27:] == 114).all()
    expected = cv2.resize(image, (21, 33), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(canvas[:, 6:27], expected)
    assert batch.geometries[0] == Geometry(21 / 64, 33 / 100, 6, 0, 64, 100)


def test_letterbox_scales_up_too() -> None:
    batch = Preprocessor(InputCard(height=64, width=64, **PLAIN))([picture(16, 32)])
    canvas = as_image(batch.tensor[0])
    assert (canvas[:16] == 114).all()
    assert (canvas[48:] == 114).all()
    assert batch.geometries[0] == Geometry(2, 2, 0, 16, 32, 16)


def test_letterbox_top_left_truncates() -> None:
    image = picture(100, 64)
    card = InputCard(height=33, width=33, resize="letterbox_top_left", pad_value=7, **PLAIN)
    batch = Preprocessor(card)([image])
    canvas = as_image(batch.tensor[0])
    expected = cv2.resize(image, (int(64 * 0.33), 33), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(canvas[:, :21], expected)
    assert (canvas[:, 21:] == 7).all()
    assert batch.geometries[0] == Geometry(0.33, 0.33, 0, 0, 64, 100)


def test_stretch_ignores_the_ratio() -> None:
    image = picture(100, 64)
    card = InputCard(height=32, width=48, resize="stretch", interpolation="area", **PLAIN)
    batch = Preprocessor(card)([image])
    expected = cv2.resize(image, (48, 32), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(as_image(batch.tensor[0]), expected)
    assert batch.geometries[0] == Geometry(48 / 64, 32 / 100, 0, 0, 64, 100)


@pytest.mark.parametrize("shape", [(100, 67), (67, 100), (256, 256)])
def test_shortest_side_crop_crops_the_centre(shape: tuple[int, int]) -> None:
    image = picture(*shape)
    card = InputCard(height=56, width=56, resize="shortest_side_crop", crop_from=64, **PLAIN)
    batch = Preprocessor(card)([image])
    height, width = shape
    long = int(64 * max(shape) / min(shape))
    size = (long, 64) if width > height else (64, long)
    scaled = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    top, left = round((scaled.shape[0] - 56) / 2), round((scaled.shape[1] - 56) / 2)
    expected = scaled[top : top + 56, left : left + 56]
    np.testing.assert_array_equal(as_image(batch.tensor[0]), expected)


def test_values_follow_the_formula_in_the_cards_channel_order() -> None:
    image = picture(20, 20)
    card = InputCard(
        height=20, width=20, channels="rgb", mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3)
    )
    tensor = Preprocessor(card)([image]).tensor
    assert tensor.shape == (1, 3, 20, 20)
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous
    rgb = image[..., ::-1].astype(np.float64)
    expected = (rgb / 255 - [0.4, 0.5, 0.6]) / [0.2, 0.25, 0.3]
    np.testing.assert_allclose(as_image(tensor[0]), expected, atol=2e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_layout_and_half_precision(dtype: str) -> None:
    image = picture(24, 16)
    card = InputCard(height=24, width=16, layout="nhwc", dtype=dtype, mean=(0.5, 0.5, 0.5))
    tensor = Preprocessor(card)([image, image]).tensor
    assert tensor.shape == (2, 24, 16, 3)
    assert tensor.dtype == dtype
    np.testing.assert_allclose(tensor[1], image[..., ::-1] / 255 - 0.5, atol=1e-3)


@given(
    st.sampled_from(["uint8", "int8"]),
    st.floats(1e-3, 0.1),
    st.integers(-128, 127),
    st.sampled_from(["nchw", "nhwc"]),
)
def test_quantised_inputs_are_the_nearest_step(
    dtype: str, scale: float, zero_point: int, layout: str
) -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    said = {"height": 8, "width": 8, "mean": mean, "std": std, "layout": layout}
    image = np.random.default_rng(5).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    real = Preprocessor(InputCard.model_validate(said))([image]).tensor.astype(np.float64)
    said |= {"dtype": dtype, "quantisation": {"scale": scale, "zero_point": zero_point}}
    tensor = Preprocessor(InputCard.model_validate(said))([image]).tensor
    assert tensor.dtype == np.dtype(dtype)
    limits = np.iinfo(dtype)
    inside = (tensor > limits.min) & (tensor < limits.max)
    back = (tensor.astype(np.float64) - zero_point) * scale
    assert (np.abs(back - real)[inside] <= scale * 0.5 + 1e-4).all()
    # What can't be held is held at the end.
    assert (real[tensor == limits.max] >= (limits.max - zero_point - 0.5) * scale - 1e-4).all()
    assert (real[tensor == limits.min] <= (limits.min - zero_point + 0.5) * scale + 1e-4).all()


def test_uint8_takes_pixels_as_they_are() -> None:
    image = picture(24, 16)
    card = InputCard(height=24, width=16, dtype="uint8", **PLAIN)
    tensor = Preprocessor(card)([image]).tensor
    assert tensor.dtype == np.uint8
    np.testing.assert_array_equal(as_image(tensor[0]), image)


def test_images_of_many_sizes_in_one_batch_are_as_alone() -> None:
    prepare = Preprocessor(InputCard(height=32, width=48))
    images = [picture(h, w) for h, w in [(10, 90), (32, 48), (90, 10), (1, 1), (200, 301)]]
    together = prepare(images)
    assert len(together) == 5
    for index, image in enumerate(images):
        alone = prepare([image])
        np.testing.assert_array_equal(together.tensor[index], alone.tensor[0])
        assert together.geometries[index] == alone.geometries[0]


def strided(height: int, width: int, stride: int = 32) -> InputCard:
    said = {"height": height, "width": width, "stride": stride}
    return InputCard.model_validate(PLAIN | said | {"resize": "letterbox_to_stride"})


def test_padding_to_a_stride_is_no_more_than_needed() -> None:
    # 100 x 60 at a ratio of .64: 64 x 38, and 26 columns to the next multiple of 32.
    (batch,) = Preprocessor(strided(64, 128)).by_shape([picture(100, 60)]).batches
    assert batch.tensor.shape == (1, 3, 64, 64)
    assert batch.geometries[0] == Geometry(38 / 60, 64 / 100, 13, 0, 60, 100)
    canvas = as_image(batch.tensor[0])
    assert (canvas[:, :13] == 114).all()
    assert (canvas[:, 51:] == 114).all()


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=1, max_size=6))
def test_groups_hold_every_image_once_as_it_is_alone(sizes: list[tuple[int, int]]) -> None:
    prepare = Preprocessor(strided(64, 96))
    images = [picture(*size) for size in sizes]
    groups = prepare.by_shape(images)
    assert len(groups) == len(images)
    assert sorted(place for places in groups.places for place in places) == list(range(len(images)))
    shapes = [batch.tensor.shape[2:] for batch in groups.batches]
    assert len(set(shapes)) == len(shapes)
    for batch, places in zip(groups.batches, groups.places, strict=True):
        assert all(side % 32 == 0 for side in batch.tensor.shape[2:])
        for row, place in enumerate(places):
            alone = prepare([images[place]])
            np.testing.assert_array_equal(batch.tensor[row], alone.tensor[0])
            assert batch.geometries[row] == alone.geometries[0]


def test_one_batch_of_many_shapes_is_refused() -> None:
    prepare = Preprocessor(strided(64, 64))
    with pytest.raises(ModelError, match="don't fit one batch"):
        prepare([picture(64, 64), picture(20, 64)])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stride": 32}, "takes no 'stride'"),
        ({"resize": "letterbox_to_stride"}, "needs 'stride'"),
        ({"resize": "letterbox_to_stride", "stride": 48}, "multiples of its stride, 48"),
    ],
)
def test_a_stride_goes_with_its_mode_only(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        InputCard.model_validate({"height": 64, "width": 64} | fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"head": "yolox"},
        {"head": "detr"},
        {"head": "end_to_end", "output": {"boxes": "cxcywh_normalised"}},
    ],
)
def test_heads_that_need_the_inputs_size_are_fed_one_size(fields: dict[str, object]) -> None:
    said = {"schema": "visiondyno.model/1", "task": "detection", "input": strided(64, 64)}
    with pytest.raises(ValidationError, match="use 'letterbox'"):
        ModelCard.model_validate(said | fields)


def test_the_image_itself_is_not_changed() -> None:
    image = picture(32, 32)
    before = image.copy()
    tensor = Preprocessor(InputCard(height=32, width=32, **PLAIN))([image]).tensor
    tensor[:] = 0
    np.testing.assert_array_equal(image, before)


@given(
    st.sampled_from(
        ["letterbox", "letterbox_to_stride", "letterbox_top_left", "stretch", "shortest_side_crop"]
    ),
    st.integers(1, 400),
    st.integers(1, 400),
)
def test_boxes_find_their_way_back(resize: ResizeMode, height: int, width: int) -> None:
    stride = 32 if resize == "letterbox_to_stride" else None
    card = InputCard(height=64, width=96, resize=resize, crop_from=96, stride=stride)
    geometry = Preprocessor(card)([np.zeros((height, width, 3), np.uint8)]).geometries[0]
    original = np.array([[0, 0, width, height], [width / 3, height / 4, width / 2, height]])
    scale = np.array([geometry.scale_x, geometry.scale_y] * 2)
    offset = np.array([geometry.offset_x, geometry.offset_y] * 2)
    there = (original * scale + offset).astype(np.float32)
    if resize.startswith("letterbox") or resize == "stretch":
        # The truncating letterbox may cut a part of one input pixel.
        assert (there >= -1e-3).all()
        assert (there <= np.array([96, 64, 96, 64]) + 1e-3).all()
    tolerance = 1e-3 * max(height, width, 10)
    np.testing.assert_allclose(geometry.to_original(there, clip=True), original, atol=tolerance)
    outside = there + np.array([-500, -500, 500, 500], np.float32)
    cut = geometry.to_original(outside, clip=True)
    assert (cut >= 0).all()
    assert (cut <= [width, height, width, height]).all()
    assert (geometry.to_original(outside, clip=False)[0, :2] < 0).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"resize": "shortest_side_crop"}, "crop_from"),
        ({"resize": "shortest_side_crop", "crop_from": 31}, "crop_from"),
        ({"std": (1.0, 0.0, 1.0)}, "'std' holds a 0"),
        ({"dtype": "uint8"}, "scale: 1"),
    ],
)
def test_cards_that_feed_nonsense_are_refused(fields: dict[str, object], message: str) -> None:
    card = InputCard.model_validate({"height": 32, "width": 32} | fields)
    with pytest.raises(ModelError, match=message):
        Preprocessor(card)


def test_an_image_too_narrow_for_its_crop_is_refused() -> None:
    card = InputCard(height=224, width=224, resize="shortest_side_crop", crop_from=256, **PLAIN)
    for shape in ((1, 16384, 3), (16384, 1, 3)):
        with pytest.raises(ModelError, match=r"too narrow for this model.* would have 4194304"):
            Preprocessor(card)([np.zeros(shape, np.uint8)])
    assert Preprocessor(card)([np.zeros((16, 4000, 3), np.uint8)]).tensor.shape == (1, 3, 224, 224)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 3))
def test_channels_apart_are_those_of_the_image(height: int, width: int, cut: int) -> None:
    pixels = np.arange(height * (width + cut) * 3) % 251
    image = pixels.astype(np.uint8).reshape(height, width + cut, 3)[:, :width]
    planes = rgb_planes(image)
    assert planes.flags.c_contiguous
    assert np.array_equal(planes, np.stack([image[..., 2], image[..., 1], image[..., 0]]))


def test_channels_of_other_numbers_are_refused() -> None:
    with pytest.raises(ModelError, match="uint8 BGR"):
        rgb_planes(np.zeros((2, 2, 3), np.float32))
