"""Write the small .tflite files that tests read: `scripts/litert_test_models.py FOLDER`.

Needs TensorFlow, which the development environment hasn't got: `pip install 'tensorflow>=2.16'` in
an environment of its own. The files are in tests/litert_models; the random numbers are seeded, so
another run changes them only where TensorFlow's converter does.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

SIDE, CLASSES, FILTERS = 16, 3, 32


def detector(batch: int | None, layout: str) -> Any:
    """A YOLOv8-like output for a 32 × 32 input that moves with the image's mean."""
    random = np.random.default_rng(1)
    base = np.zeros((1, 7, 6), np.float32)
    base[0, :2] = random.uniform(8, 24, (2, 6))
    base[0, 2:4] = random.uniform(6, 12, (2, 6))
    base[0, 4:] = random.uniform(0, 0.6, (3, 6))
    slope = np.zeros_like(base)
    slope[0, 0], slope[0, 4:] = 4, 0.3
    shape = (batch, 32, 32, 3) if layout == "nhwc" else (batch, 3, 32, 32)

    class Module(tf.Module):  # type: ignore[misc]  # TensorFlow has no types
        @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32, name="images")])  # type: ignore[untyped-decorator]
        def answer(self, images: Any) -> dict[str, Any]:
            mean = tf.reshape(tf.reduce_mean(images, axis=[1, 2, 3]), [-1, 1, 1])
            return {"output": base + slope * mean}

    return Module()


def classifier() -> Any:
    """Two convolutions, mean over the image, softmax: a batch of any size."""
    random = np.random.default_rng(3)
    first = random.normal(0, 0.5, (3, 3, 3, FILTERS)).astype(np.float32)
    second = random.normal(0, 0.1, (3, 3, FILTERS, FILTERS)).astype(np.float32)
    last = random.normal(0, 1.0, (FILTERS, CLASSES)).astype(np.float32)

    class Module(tf.Module):  # type: ignore[misc]  # TensorFlow has no types
        @tf.function(  # type: ignore[untyped-decorator]
            input_signature=[tf.TensorSpec((None, SIDE, SIDE, 3), tf.float32, name="images")]
        )
        def answer(self, images: Any) -> dict[str, Any]:
            maps = tf.nn.relu(tf.nn.conv2d(images, first, strides=2, padding="SAME"))
            maps = tf.nn.relu(tf.nn.conv2d(maps, second, strides=2, padding="SAME"))
            return {"output": tf.nn.softmax(tf.reduce_mean(maps, axis=[1, 2]) @ last)}

    return Module()


def converter(module: Any) -> Any:
    """TensorFlow's converter of the module's one function."""
    function = module.answer.get_concrete_function()
    return tf.lite.TFLiteConverter.from_concrete_functions([function], module)


def some_images() -> Iterator[list[Any]]:
    """What the quantised models are calibrated with: images of one colour each, with noise."""
    random = np.random.default_rng(9)
    for _ in range(60):
        colour = random.uniform(0, 1, (1, 1, 1, 3))
        noise = random.uniform(-0.08, 0.08, (1, SIDE, SIDE, 3))
        yield [np.clip(colour + noise, 0, 1).astype(np.float32)]


def quantised(dtype: Any) -> Any:
    """The classifier's converter for arithmetic in 8 bits, with `dtype` at its edges."""
    found = converter(classifier())
    found.optimizations = [tf.lite.Optimize.DEFAULT]
    found.representative_dataset = some_images
    found.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    found.inference_input_type = found.inference_output_type = dtype
    return found


def main(folder: Path) -> None:
    """Write every file into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    half, dynamic = converter(classifier()), converter(classifier())
    half.optimizations = dynamic.optimizations = [tf.lite.Optimize.DEFAULT]
    half.target_spec.supported_types = [tf.float16]
    made = {
        "detector-1": converter(detector(1, "nhwc")),
        "detector-4": converter(detector(4, "nhwc")),
        "detector-any": converter(detector(None, "nhwc")),
        "detector-nchw": converter(detector(2, "nchw")),
        "classifier": converter(classifier()),
        "classifier-half": half,
        "classifier-dynamic": dynamic,
        "classifier-int8": quantised(tf.int8),
        "classifier-uint8": quantised(tf.uint8),
        "classifier-inside-int8": quantised(tf.float32),
    }
    for name, one in made.items():
        content = one.convert()
        (folder / f"{name}.tflite").write_bytes(content)
        print(f"{name}: {len(content)} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
