from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts.store_contract import NOW, StoreContract
from visiondyno.store.sql import SqlStore, open_store


class TestSqliteStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[SqlStore]:
        store = open_store(f"sqlite:///{tmp_path}/s.sqlite", clock=lambda: NOW)
        yield store
        store.close()
