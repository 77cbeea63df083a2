"""`dyno db`, as its users call it."""

import subprocess
import sys
from pathlib import Path

import pytest

from contracts.store_contract import new_job
from visiondyno.cli.db import command
from visiondyno.errors import Conflict, SpecError
from visiondyno.store.sql import open_store


def dyno_db(*arguments: object) -> None:
    command.main([*map(str, arguments)], "db", standalone_mode=False)


def test_upgrade_backup_restore_move_a_store_to_postgres(
    postgres_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = f"sqlite:///{tmp_path}/s.sqlite"
    file = tmp_path / "store.backup"
    dyno_db("upgrade", "--database-url", here)
    assert "schema none → 0001." in capsys.readouterr().out
    dyno_db("upgrade", "--database-url", here)
    assert "has the schema 0001 already." in capsys.readouterr().out
    store = open_store(here)
    store.jobs.add([new_job("a"), new_job("b")])
    dyno_db("backup", file, "--database-url", here)
    said = f"Written: 2 jobs, 0 submissions, 0 comparisons, 0 api keys in {file}"
    assert said in capsys.readouterr().out
    dyno_db("restore", file, "--database-url", postgres_url)
    assert "Restored: 2 jobs" in capsys.readouterr().out
    moved = open_store(postgres_url)
    assert moved.jobs.get("b") == store.jobs.get("b")
    moved.close()
    store.close()
    with pytest.raises(Conflict):
        dyno_db("restore", file, "--database-url", here)
    dyno_db("restore", file, "--database-url", here, "--force")


def test_the_servers_own_database_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("VISIONDYNO_DATABASE_URL", raising=False)
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path / "home"))
    dyno_db("upgrade")
    assert str(tmp_path / "home" / "store.sqlite") in capsys.readouterr().out
    monkeypatch.setenv("VISIONDYNO_DATABASE_URL", f"sqlite:///{tmp_path}/named.sqlite")
    dyno_db("upgrade")
    assert (tmp_path / "named.sqlite").is_file()
    monkeypatch.delenv("VISIONDYNO_DATABASE_URL")
    dyno_db("upgrade", "--home", tmp_path / "other")
    assert (tmp_path / "other" / "store.sqlite").is_file()


def test_backup_of_an_absent_database_makes_none(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no database at"):
        dyno_db("backup", tmp_path / "b", "--database-url", f"sqlite:///{tmp_path}/s.sqlite")
    assert list(tmp_path.iterdir()) == []


def test_help_of_db_needs_no_database() -> None:
    code = "from visiondyno.cli.db import command; command.main(['--help'], 'dyno db')"
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert all(name in said for name in ("upgrade", "backup", "restore"))
