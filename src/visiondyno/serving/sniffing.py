"""What a body is, by its content: names and declared types are often wrong."""

from visiondyno.errors import SpecError, TooLarge, UnsupportedMedia
from visiondyno.vision.announced import announced_size, is_known_image

LONGEST_BEGIN_BYTES = 192
"""So much of a body's beginning tells whether it is a video."""

TAKEN = (
    "Images are taken as JPEG, PNG, WebP or BMP (any Content-Type), as multipart/form-data, or in "
    "application/json as base64 or URL; videos as MP4, MOV, MKV, WebM, AVI or MPEG."
)

_MAX_SIDE_PIXELS = 16_384
_PROGRAM_STREAM, _MPEG_VIDEO, _MATROSKA = b"\0\0\x01\xba", b"\0\0\x01\xb3", b"\x1aE\xdf\xa3"
_TRANSPORT_PACKET_BYTES = 188
_MP4_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"})
_STILL_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis"})


def is_video(begin: bytes) -> bool:
    """Whether it begins as a plain video file.

    Playlists and other text that names further files isn't: a decoder would open those.
    """
    if begin.startswith((_PROGRAM_STREAM, _MPEG_VIDEO, _MATROSKA)):
        return True
    if begin[:4] == b"RIFF":
        return begin[8:12] == b"AVI "
    if begin[4:8] in _MP4_BOXES:
        return not (begin[4:8] == b"ftyp" and begin[8:12] in _STILL_BRANDS)
    packet = begin[_TRANSPORT_PACKET_BYTES : _TRANSPORT_PACKET_BYTES + 1]
    return begin[:1] == b"G" and packet == b"G"


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
    if data[4:8] == b"ftyp" and data[8:12] in _STILL_BRANDS:
        return "an HEIC or AVIF file"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "a GIF file"
    if data.startswith((b"II*\0", b"MM\0*")):
        return "a TIFF file"
    if is_video(data[:LONGEST_BEGIN_BYTES]):
        return "a video"
    if data.lstrip()[:1] in (b"{", b"["):
        return "JSON that isn't declared as such (send 'Content-Type: application/json')"
    return "a file of another kind"
