"""A client names a place, and gets its executor and its blobs."""

import asyncio
from pathlib import Path

import pytest

from visiondyno.blobs.http import HttpBlobs
from visiondyno.blobs.open import open_blobs
from visiondyno.errors import SpecError
from visiondyno.executors.inline import InlineExecutor
from visiondyno.executors.queued import QueueExecutor
from visiondyno.executors.runpod import RunPodExecutor
from visiondyno.executors.server import ServerExecutor
from visiondyno.executors.supervised import SupervisedExecutor
from visiondyno.settings import Settings
from visiondyno.wiring import make_blobs_at, make_executor_at

REDIS = "redis://127.0.0.1:1/0"


def settings(folder: Path, **given: object) -> Settings:
    return Settings.model_validate({"home": folder, **given})


@pytest.mark.parametrize(
    ("where", "workers", "kind", "name"),
    [
        ("inline", None, InlineExecutor, "inline"),
        ("local", None, SupervisedExecutor, "local"),
        ("local", 2, SupervisedExecutor, "local"),
        ("redis", None, QueueExecutor, "redis"),
        ("redis", 2, SupervisedExecutor, "redis"),
        ("http://host:8000", None, ServerExecutor, "server"),
        ("https://host/v2/mine", None, RunPodExecutor, "runpod"),
    ],
)
def test_each_place_has_its_executor(
    tmp_path: Path, where: str, workers: int | None, kind: type, name: str
) -> None:
    async def main() -> None:
        made = make_executor_at(where, settings(tmp_path, redis_url=REDIS), workers=workers)
        assert type(made) is kind
        assert made.name == name
        await made.close()

    asyncio.run(main())


@pytest.mark.parametrize("where", ["", "nowhere", "ftp://host", "INLINE", "localhost:8000"])
def test_what_is_no_place_is_refused(tmp_path: Path, where: str) -> None:
    for make in (make_executor_at, make_blobs_at):
        with pytest.raises(SpecError, match="inline, local, redis or the URL"):
            make(where, settings(tmp_path))


def test_redis_needs_its_address(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="VISIONDYNO_REDIS_URL"):
        make_executor_at("redis", settings(tmp_path, redis_url=None, redis_host=None))


@pytest.mark.parametrize("workers", [0, -1, 257])
def test_workers_are_a_number_that_can_be(tmp_path: Path, workers: int) -> None:
    with pytest.raises(SpecError, match="from 1 to 256"):
        make_executor_at("local", settings(tmp_path), workers=workers)


@pytest.mark.parametrize("where", ["http://host", "https://host/v2/mine"])
def test_a_key_that_cannot_be_one_is_refused_untold(tmp_path: Path, where: str) -> None:
    with pytest.raises(SpecError) as caught:
        make_executor_at(where, settings(tmp_path), "hid\nden")
    assert "hid" not in caught.value.message


def test_runpods_key_of_the_environment_goes_to_runpod_alone(tmp_path: Path) -> None:
    told = settings(tmp_path, runpod_api_key="hid\nden")  # refused where it would be sent
    with pytest.raises(SpecError, match="key"):
        make_executor_at("https://api.runpod.ai/v2/mine", told)

    async def main() -> None:
        for where in (
            "https://host/v2/mine",
            "https://api.runpod.ai.host/v2/mine",
            "http://api.runpod.ai/v2/mine",
        ):
            await make_executor_at(where, told).close()

    asyncio.run(main())


def test_blobs_lie_where_the_places_workers_find_them(tmp_path: Path) -> None:
    for where in ("inline", "local", "redis"):
        found = make_blobs_at(where, settings(tmp_path))
        assert str(tmp_path / "blobs") in str(found)

    async def main() -> None:
        theirs = make_blobs_at("http://host:8000/", settings(tmp_path), "vd_1")
        assert isinstance(theirs, HttpBlobs)
        assert str(theirs) == "http://host:8000/blobs"
        await theirs.close()

    asyncio.run(main())
    with pytest.raises(SpecError, match="API key"):
        make_blobs_at("http://host:8000/", settings(tmp_path), "hid\nden")


@pytest.mark.parametrize(
    "where", ["ftp://user:secret@host/x", "http://user:secret@host/blobs", "s3://key:secret@b/x",
              "http://user:secret@host:port/blobs"],
)  # fmt: skip
def test_an_address_with_a_password_is_refused_untold(tmp_path: Path, where: str) -> None:
    with pytest.raises(SpecError, match="user name or a password") as caught:
        open_blobs(where, tmp_path)
    assert "secret" not in caught.value.message
    with pytest.raises(SpecError) as caught:
        make_executor_at(where, settings(tmp_path))
    assert "secret" not in caught.value.message


def test_a_folder_of_blobs_may_have_any_name(tmp_path: Path) -> None:
    assert str(tmp_path / "a@b") in str(open_blobs(f"file://{tmp_path}/a@b", tmp_path))
