"""File formats that are handed in for ONNX, told by their first bytes; imports nothing heavy."""

_FIRST_BYTES = (
    (b"PK\x03\x04", "a zip archive (a PyTorch .pt file is one)"),
    (b"\x80\x02", "a Python pickle"),
    (b"\x80\x04", "a Python pickle"),
    (b"\x80\x05", "a Python pickle"),
    (b"\x89HDF", "an HDF5 file (Keras)"),
    (b"\x1f\x8b", "a gzip archive; unpack it"),
    (b"<", "a text file (HTML or XML: an error page saved as a model?)"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file itself with 'git lfs pull'"),
)

LONGEST_SIGNATURE = max(len(start) for start, _ in _FIRST_BYTES)


def foreign_format(start: bytes) -> str | None:
    """What a file that begins with `start` is, in words, where it is known not to be ONNX."""
    return next((kind for first, kind in _FIRST_BYTES if start.startswith(first)), None)
