"""What a body is, by its content: names and declared types are often wrong."""

from visiondyno.datasets.image_archive import ZIP_BEGINS
from visiondyno.errors import SpecError, TooLarge, UnsupportedMedia
from visiondyno.vision.announced import announced_size, is_known_image
from visiondyno.vision.video_form import LONGEST_BEGIN_BYTES, STILL_BRANDS, is_video

__all__ = ["LONGEST_BEGIN_BYTES", "TAKEN", "check_image", "is_video"]

TAKEN = (
    "Images are taken as JPEG, PNG, WebP or BMP (any Content-Type), as multipart/form-data, or in "
    "application/json as base64 or URL, or in a zip file; videos as MP4, MOV, MKV, WebM, AVI or "
    "MPEG."
)

_MAX_SIDE_PIXELS = 16_384
_OTHERS = {
    (b"GIF87a", b"GIF89a"): "a GIF file",
    (b"II*\0", b"MM\0*"): "a TIFF file",
    ZIP_BEGINS: "a zip file among images (it comes alone, and isn't looked for in another)",
}


def check_image(data: bytes, name: str, max_pixels: float) -> None:
    """Refuse what needs no decoder to be refused.

    Raises:
        SpecError: it is empty.
        UnsupportedMedia: it isn't an image of a kind that is taken.
        DatasetError: its header is damaged.
        TooLarge: it announces more pixels than are taken.
    """
    if not data:
        raise SpecError(f"{name} is empty (0 bytes); send the file's content.")
    if not is_known_image(data):
        found = _other_kind(data)
        raise UnsupportedMedia(f"{name} is {found}, not an image that is taken. {TAKEN}")
    width, height = announced_size(data, name)
    if width * height > max_pixels or max(width, height) > _MAX_SIDE_PIXELS:
        raise TooLarge(
            f"{name} announces {width}×{height} pixels ({width * height / 1e6:.1f} megapixels); at "
            f"most {max_pixels / 1e6:g} megapixels and {_MAX_SIDE_PIXELS} a side are taken. Scale "
            "it down first."
        )


def _other_kind(data: bytes) -> str:
    if data[4:8] == b"ftyp" and data[8:12] in STILL_BRANDS:
        return "an HEIC or AVIF file"
    for begins, found in _OTHERS.items():
        if data.startswith(begins):
            return found
    if is_video(data[:LONGEST_BEGIN_BYTES]):
        return "a video"
    if data.lstrip()[:1] in (b"{", b"["):
        return "JSON that isn't declared as such (send 'Content-Type: application/json')"
    return "a file of another kind"
