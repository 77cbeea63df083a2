"""API keys: shown once, kept as digests, checked, revoked."""

import asyncio
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from visiondyno.errors import NotFound, SpecError, Unauthorized
from visiondyno.service.keys import KeyService
from visiondyno.store.base import Store
from visiondyno.store.records import KeyScope
from visiondyno.store.sql import open_store


class Now:
    def __init__(self) -> None:
        self.at = 1_000_000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_store(f"sqlite:///{tmp_path / 'store.sqlite'}")
    yield store
    store.close()


def test_a_key_is_found_again_and_is_kept_nowhere(store: Store, tmp_path: Path) -> None:
    keys = KeyService(store.keys)
    record, key = asyncio.run(keys.create("ci", KeyScope.SUBMIT))
    found = asyncio.run(keys.check(key))
    assert (found.id, found.name, found.scope) == (record.id, "ci", KeyScope.SUBMIT)
    assert key.startswith("vd_")
    assert key not in str(asdict(record))
    assert not any(key.encode() in file.read_bytes() for file in tmp_path.iterdir())


def test_two_keys_differ_and_are_listed_newest_first(store: Store) -> None:
    clock = Now()
    keys = KeyService(store.keys, clock)
    first = asyncio.run(keys.create("a"))
    clock.at += 1
    second = asyncio.run(keys.create("a"))
    assert first[1] != second[1]
    assert [key.id for key in asyncio.run(keys.list())] == [second[0].id, first[0].id]


@pytest.mark.parametrize(
    "key",
    ["", "vd_", "vd_" + "A" * 43, "VD_" + "A" * 43, "vd_" + "é" * 43, "x" * 100_000],
    ids=range(6),
)
def test_what_is_no_key_is_refused(store: Store, key: str) -> None:
    with pytest.raises(Unauthorized, match="dyno keys create"):
        asyncio.run(KeyService(store.keys).check(key))


@pytest.mark.parametrize("name", ["", "  ", "a\x00b", "two\nlines", "x" * 101], ids=range(5))
def test_a_key_needs_a_name_that_can_be_shown(store: Store, name: str) -> None:
    with pytest.raises(SpecError, match="1 to 100 characters"):
        asyncio.run(KeyService(store.keys).create(name))


def test_a_revoked_key_is_refused_here_at_once_and_elsewhere_soon(store: Store) -> None:
    clock = Now()
    here, elsewhere = KeyService(store.keys, clock), KeyService(store.keys, clock)
    record, key = asyncio.run(here.create("a"))
    asyncio.run(here.check(key))
    asyncio.run(elsewhere.check(key))
    asyncio.run(here.revoke(record.id))
    with pytest.raises(Unauthorized):
        asyncio.run(here.check(key))
    asyncio.run(elsewhere.check(key))
    clock.at += 5
    with pytest.raises(Unauthorized):
        asyncio.run(elsewhere.check(key))


def test_only_a_key_in_force_can_be_revoked(store: Store) -> None:
    keys = KeyService(store.keys)
    record, _ = asyncio.run(keys.create("a"))
    asyncio.run(keys.revoke(record.id))
    for key_id in (record.id, "key_000000000000"):
        with pytest.raises(NotFound, match="dyno keys list"):
            asyncio.run(keys.revoke(key_id))


def test_its_last_use_is_noted_once_a_minute(store: Store) -> None:
    clock = Now()
    keys = KeyService(store.keys, clock)
    _, key = asyncio.run(keys.create("a"))
    seen = []
    for _ in range(4):
        clock.at += 31
        asyncio.run(keys.check(key))
        seen.append(asyncio.run(keys.list())[0].last_used_at)
    assert seen == [1_000_031, 1_000_031, 1_000_093, 1_000_093]


def test_no_more_keys_are_trusted_unasked_than_is_said(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("visiondyno.service.keys._TRUSTED_KEYS", 3)
    keys = KeyService(store.keys)

    async def main() -> list[str]:
        made = [await keys.create(f"{number}") for number in range(5)]
        for _, key in made:
            await keys.check(key)
        return [record.name for record, _ in keys._trusted.values()]

    assert asyncio.run(main()) == ["2", "3", "4"]
