"""How images reach classifiers that answer "is there any in the image": trained and run alike."""

from visiondyno.specs.model_card import InputCard

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def image_level_input(side_pixels: int) -> InputCard:
    """The input of a classifier with `level: image` that was trained at `side_pixels`.

    The whole image is stretched: the usual crop of the centre would hide what stands at its edges.
    Shrinking averages (`area`), as small objects would else fall between the samples. Mean and
    standard deviation are ImageNet's, which pretrained backbones expect.
    """
    return InputCard(
        height=side_pixels,
        width=side_pixels,
        resize="stretch",
        interpolation="area",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
