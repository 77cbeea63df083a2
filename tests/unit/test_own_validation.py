"""What a training is scored on where only its data are named."""

from pathlib import Path

import pytest

from block_images import write_blocks
from visiondyno.client.own_validation import HELD_BACK, choose_validation
from visiondyno.errors import DatasetError


@pytest.mark.parametrize(
    ("reference", "data", "validation"),
    [
        ("street", "street:train", "street:val"),
        ("street:train:40", "street:train:40", "street:val"),
        ("street:demo", "street:demo", "street:val"),
    ],
)
def test_built_in_data_are_scored_on_their_own_split(
    reference: str, data: str, validation: str
) -> None:
    chosen = choose_validation(reference)
    assert (chosen.data, chosen.validation_data) == (data, validation)
    assert chosen.validation_share is None
    assert validation in chosen.said


@pytest.mark.parametrize("reference", ["street:val", "street:val:20", "elsewhere"])
def test_a_share_is_held_back_of_what_has_no_other_split(reference: str) -> None:
    chosen = choose_validation(reference)
    assert (chosen.data, chosen.validation_data) == (reference, None)
    assert chosen.validation_share == HELD_BACK
    assert "held back" in chosen.said


@pytest.mark.parametrize("suffix", ["", "/data.yaml", ":train", "/data.yaml:train"])
def test_splits_of_a_data_yaml_are_used(tmp_path: Path, suffix: str) -> None:
    root = write_blocks(tmp_path / "blocks", train=2, val=1)
    chosen = choose_validation(f"{root}{suffix}")
    stem = f"{root}{suffix.removesuffix(':train')}"
    assert (chosen.data, chosen.validation_data) == (f"{stem}:train", f"{stem}:val")


def test_folders_of_splits_are_used_and_others_divided(tmp_path: Path) -> None:
    root = write_blocks(tmp_path / "blocks", train=2, val=1)
    (root / "data.yaml").unlink()
    assert choose_validation(str(root)).validation_share == HELD_BACK
    for split in ("train", "test"):
        (tmp_path / "parts" / split).mkdir(parents=True)
    assert choose_validation(str(tmp_path / "parts")).validation_data == f"{tmp_path}/parts:test"


def test_a_yaml_that_is_broken_is_told(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("[unfinished")
    with pytest.raises(DatasetError, match="isn't valid YAML"):
        choose_validation(str(tmp_path))
