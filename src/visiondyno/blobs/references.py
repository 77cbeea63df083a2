"""Names of blobs in texts: `sha256:` and 64 digits."""

import re

_REFERENCE = re.compile(r"sha256:([0-9a-f]{64})")


def references_in(text: str) -> set[str]:
    """The SHA-256 of every blob that a text names."""
    return set(_REFERENCE.findall(text))
