"""The file that a study goes on from, torn, foreign, damaged and locked."""

import json
import resource
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.errors import Conflict, SpecError, StorageFull
from visiondyno.tuning.journal import FORMAT, NAME, Journal

STUDY = {"seed": 3, "objectives": ["val_accuracy"]}


def written(folder: Path, trials: list[Any]) -> bytes:
    journal = Journal.begin(folder, STUDY)
    for trial in trials:
        journal.write("trial", {"trial": trial})
    journal.close()
    return (folder / NAME).read_bytes()


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    written(tmp_path / "new" / "folder", [{"number": 0}, {"number": 1, "x": float("inf")}])
    journal, first, trials = Journal.go_on(tmp_path / "new" / "folder")
    journal.close()
    assert first == {"kind": "study", "format": FORMAT, **STUDY}
    assert trials == [{"number": 0}, {"number": 1, "x": float("inf")}]


@given(
    texts=st.lists(st.text(max_size=20), min_size=1, max_size=4),
    share=st.floats(0, 1, exclude_max=True),
    zeros=st.integers(0, 3),
)
def test_a_journal_torn_at_any_byte_goes_on_after_its_last_whole_line(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], share: float, zeros: int
) -> None:
    folder = tmp_path_factory.mktemp("torn")
    whole = written(folder, [{"text": text} for text in texts])
    first_line = whole.index(b"\n") + 1
    at = first_line + int(share * (len(whole) - first_line))
    # A power cut may leave a block that was never filled.
    (folder / NAME).write_bytes(whole[:at] + b"\0" * zeros)
    journal, _, trials = Journal.go_on(folder)
    assert [t["text"] for t in trials] == texts[: whole[first_line:at].count(b"\n")]
    journal.write("trial", {"trial": {"text": "more"}})
    journal.close()
    journal, _, again = Journal.go_on(folder)
    journal.close()
    assert again == [*trials, {"text": "more"}]


def test_a_study_torn_in_its_first_line_was_never_begun(tmp_path: Path) -> None:
    whole = written(tmp_path, [])
    for at in range(len(whole)):
        (tmp_path / NAME).write_bytes(whole[:at])
        with pytest.raises(SpecError, match="never begun"):
            Journal.go_on(tmp_path)
        journal = Journal.begin(tmp_path, {"at": at})
        journal.close()
        journal, first, _ = Journal.go_on(tmp_path)
        journal.close()
        assert first["at"] == at


@pytest.mark.parametrize(
    "content",
    [b"a list\nof things\n", b'{"kind": "study", "format": "other/1"}\n', b"[1]\n", b"no end"],
    ids=["text", "other format", "other JSON", "no line"],
)
def test_somebody_elses_file_is_neither_read_nor_changed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(SpecError, match="no study's journal"):
        Journal.go_on(tmp_path)
    with pytest.raises(Conflict, match="holds a study already"):
        Journal.begin(tmp_path, STUDY)
    assert (tmp_path / NAME).read_bytes() == content


def test_damage_before_whole_lines_is_named_and_nothing_is_cut_off(tmp_path: Path) -> None:
    lines = written(tmp_path, [{"number": n} for n in range(4)]).splitlines(keepends=True)
    lines[2] = lines[2].replace(b"{", b"\xff", 1)
    damaged = b"".join(lines)
    (tmp_path / NAME).write_bytes(damaged)
    with pytest.raises(SpecError, match=r"Line 3 of .* is damaged"):
        Journal.go_on(tmp_path)
    assert (tmp_path / NAME).read_bytes() == damaged
    del lines[2]
    (tmp_path / NAME).write_bytes(b"".join(lines))
    journal, _, trials = Journal.go_on(tmp_path)
    journal.close()
    assert [trial["number"] for trial in trials] == [0, 2, 3]


def test_lines_of_later_kinds_are_left_alone(tmp_path: Path) -> None:
    journal = Journal.begin(tmp_path, STUDY)
    journal.write("note", {"text": "hello"}, is_final=False)
    journal.write("trial", {"trial": {"number": 0}})
    journal.close()
    journal, _, trials = Journal.go_on(tmp_path)
    journal.close()
    assert trials == [{"number": 0}]
    assert json.loads((tmp_path / NAME).read_text().splitlines()[1])["text"] == "hello"


def test_while_it_is_open_no_one_else_opens_it(tmp_path: Path) -> None:
    journal = Journal.begin(tmp_path, STUDY)
    with pytest.raises(Conflict, match="Another process"):
        Journal.go_on(tmp_path)
    with pytest.raises(Conflict, match="Another process"):
        Journal.begin(tmp_path, STUDY)
    journal.close()
    Journal.go_on(tmp_path)[0].close()


def test_a_begun_study_is_not_begun_again(tmp_path: Path) -> None:
    before = written(tmp_path, [{"number": 0}])
    with pytest.raises(Conflict, match="--resume"):
        Journal.begin(tmp_path, STUDY)
    assert (tmp_path / NAME).read_bytes() == before


def test_no_study_to_go_on_with(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="holds no study"):
        Journal.go_on(tmp_path)


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for opened in (lambda: Journal.begin(tmp_path / "file", STUDY),
                   lambda: Journal.go_on(tmp_path / "file")):  # fmt: skip
        with pytest.raises(StorageFull, match="can't be written"):
            opened()


def test_a_full_disk_is_told_and_what_was_written_stays(tmp_path: Path) -> None:
    journal = Journal.begin(tmp_path, STUDY)
    journal.write("trial", {"trial": {"number": 0}})
    size = (tmp_path / NAME).stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, before[1]))
    try:
        with pytest.raises(StorageFull, match="choose a folder"):
            journal.write("trial", {"trial": {"number": 1, "text": "x" * 100}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    journal.close()
    journal, _, trials = Journal.go_on(tmp_path)
    journal.close()
    assert trials == [{"number": 0}]


def test_a_line_is_in_the_file_before_write_returns(tmp_path: Path) -> None:
    journal = Journal.begin(tmp_path, STUDY)
    size = (tmp_path / NAME).stat().st_size
    journal.write("trial", {"trial": {"number": 0}}, is_final=False)
    assert (tmp_path / NAME).stat().st_size > size
    journal.close()
