"""What others know of a study: its last run, its folder, and whether it runs."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from visiondyno.errors import StorageFull
from visiondyno.tuning.run_record import NAME, StudyRun, find_study, known_studies, registered

RUN = StudyRun("mnist: val_accuracy", "local", 4, ("val_accuracy:maximize",), 1000.0, gpu="L4")

HOLD = """
import sys, time
from pathlib import Path
from visiondyno.tuning.run_record import registered
with registered(Path(sys.argv[1]), Path(sys.argv[2])) as name:
    print(name, flush=True)
    time.sleep(600)
"""


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    RUN.write(tmp_path)
    assert StudyRun.read(tmp_path) == RUN
    ended = replace(RUN, ended_at=1010.5, stopped="Enough.")
    ended.write(tmp_path)
    assert StudyRun.read(tmp_path) == ended


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"format": "visiondyno.study_run/2"}',
        '{"format": "other", "title": 1}',
        '{"format": "visiondyno.study_run/1", "title": "a"}',
    ],
)
def test_another_file_is_no_run(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text)
    assert StudyRun.read(tmp_path) is None


def test_a_run_without_a_folder_is_none(tmp_path: Path) -> None:
    assert StudyRun.read(tmp_path / "nowhere") is None
    with pytest.raises(StorageFull):
        RUN.write(tmp_path / "nowhere")


def test_a_home_knows_a_study_and_whether_it_runs(tmp_path: Path) -> None:
    home, folder = tmp_path / "home", tmp_path / "my study!"
    with registered(home, folder) as name:
        assert name.startswith("my-study-")
        assert known_studies(home) == []  # its folder isn't there yet
        folder.mkdir()
        (found,) = known_studies(home)
        assert (found.name, found.folder, found.is_running) == (name, folder, True)
    found_after = find_study(home, name)
    assert found_after is not None
    assert not found_after.is_running


def test_folders_of_one_name_are_two_studies(tmp_path: Path) -> None:
    folders = [tmp_path / parent / "study" for parent in ("a", "b")]
    for folder in folders:
        folder.mkdir(parents=True)
        with registered(tmp_path, folder):
            pass
    assert {study.folder for study in known_studies(tmp_path)} == set(folders)
    with registered(tmp_path, folders[0]):
        assert [study.is_running for study in known_studies(tmp_path)].count(True) == 1


def test_a_study_whose_process_was_killed_does_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    arguments = [sys.executable, "-c", HOLD, str(tmp_path), str(folder)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            name = process.stdout.readline().strip()
            running = find_study(tmp_path, name)
            assert running is not None
            assert running.is_running
        finally:
            os.kill(process.pid, signal.SIGKILL)
    killed = find_study(tmp_path, name)
    assert killed is not None
    assert not killed.is_running


@pytest.mark.parametrize("name", ["", "unknown", "..", "../secret", "a/b", "x" * 200, "null\0"])
def test_a_name_that_is_none_finds_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "studies").mkdir()
    (tmp_path / "secret.json").write_text('{"folder": "/"}')
    assert find_study(tmp_path, name) is None


def test_a_pointer_that_is_none_is_left_out(tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    studies.mkdir()
    (studies / "a.json").write_text("{")
    (studies / "b.json").write_text('{"folder": 3}')
    assert known_studies(tmp_path) == []


def test_a_pointer_without_its_lock_is_a_study_at_rest(tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "a.json").write_text(f'{{"folder": "{tmp_path}"}}')
    (study,) = known_studies(tmp_path)
    assert not study.is_running


def test_a_home_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "studies").write_text("a file")
    with pytest.raises(StorageFull, match="VISIONDYNO_HOME"), registered(tmp_path, tmp_path / "s"):
        pass
