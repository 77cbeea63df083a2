"""Whether a data set changed since it was read, told without reading it."""

from pathlib import Path

from class_images import age, noise, write_classes, write_png

from dataset_factory import write_idx
from visiondyno.datasets.fingerprint import fingerprint


def test_a_fingerprint_sees_what_a_data_set_is_read_from(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_classes(root, noise(0, 3, 3), noise(1, 3, 3))
    age(root)
    seen = []

    def sha256() -> str:
        found = fingerprint(root)
        assert found is not None
        seen.append(found.sha256)
        return found.sha256

    assert sha256() == sha256()
    (root / ".hidden").write_bytes(b"")
    assert sha256() == seen[0]
    (root / "empty class").mkdir()
    assert sha256() != seen[0]
    (root / "class0" / "link.png").symlink_to(tmp_path / "later.png")
    without = sha256()
    write_png(tmp_path / "later.png", noise(2, 3, 3))
    assert sha256() != without
    before = sha256()
    (root / "class0").rename(root / "class00")
    assert sha256() != before
    (root / "round").symlink_to(root)
    assert sha256() != before, "a link that leads back ends"
    assert fingerprint(tmp_path / "later.png") is None


def test_of_idx_files_only_their_folder_counts(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_idx(root, {"t10k": 2})
    before = fingerprint(root)
    assert before is not None
    (root / "inner").mkdir()
    (root / "inner" / "huge").write_bytes(b"1")
    assert fingerprint(root) == before
    assert fingerprint(root / "t10k-images-idx3-ubyte.gz") == before
    (root / "classes.txt").write_text("a\nb\n")
    assert fingerprint(root) != before


def test_times_within_a_tick_of_now_are_not_settled(tmp_path: Path) -> None:
    write_idx(tmp_path / "data", {"t10k": 2})
    age(tmp_path / "data")
    found = fingerprint(tmp_path / "data")
    assert found is not None
    assert found.newest_ns == 1_600_000_000 * 10**9
    assert not found.settled(found.newest_ns + 10**9)
    assert found.settled(found.newest_ns + 3 * 10**9)
