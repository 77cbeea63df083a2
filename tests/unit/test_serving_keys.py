"""The file of API keys."""

from pathlib import Path

import pytest

from visiondyno.errors import SpecError, Unauthorized
from visiondyno.serving.keys import Keys

KEY, OTHER = "0123456789abcdef-one", "0123456789abcdef-two"


def keys_of(folder: Path, text: str | bytes) -> Keys:
    path = folder / "keys"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Keys(path)


def test_every_key_of_the_file_is_good_and_no_other(tmp_path: Path) -> None:
    keys = keys_of(tmp_path, f"# ours\n{KEY}  # of the team\n\n  {OTHER}\n")
    keys.check(f"Bearer {KEY}")
    keys.check(f"bearer  {OTHER} ")
    for given in (None, "", KEY, f"Basic {KEY}", "Bearer", f"Bearer {KEY}x", "Bearer # ours"):
        with pytest.raises(Unauthorized):
            keys.check(given)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no key"),
        ("# none yet\n", "holds no key"),
        (f"{KEY}\nshort\n", "Line 2 .* is no key"),
        ("two words that are long\n", "Line 1 .* is no key"),
        (b"\xff\xfe0123456789abcdef", "it isn't UTF-8"),
    ],
    ids=range(5),
)
def test_a_file_without_good_keys_is_refused(tmp_path: Path, text: str | bytes, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        keys_of(tmp_path, text)


def test_a_file_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="can't be read: No such file"):
        Keys(tmp_path / "keys")
