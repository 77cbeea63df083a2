"""A client names a place, and gets its executor and its blobs."""

import asyncio
from pathlib import Path

import pytest

from visiondyno.blobs.http import HttpBlobs
from visiondyno.blobs.open import open_blobs
from visiondyno.deployments.record import Deployment
from visiondyno.errors import SpecError
from visiondyno.executors.inline import InlineExecutor
from visiondyno.executors.queued import QueueExecutor
from visiondyno.executors.runpod import RunPodExecutor
from visiondyno.executors.server import ServerExecutor
from visiondyno.executors.supervised import SupervisedExecutor
from visiondyno.places import Place, make_blobs_at, make_executor_at, make_meter
from visiondyno.settings import Settings

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
        made = make_executor_at(Place(where, workers=workers), settings(tmp_path, redis_url=REDIS))
        assert type(made) is kind
        assert made.name == name
        await made.close()

    asyncio.run(main())


@pytest.mark.parametrize("where", ["", "nowhere", "ftp://host", "INLINE", "localhost:8000"])
def test_what_is_no_place_is_refused(tmp_path: Path, where: str) -> None:
    for make in (make_executor_at, make_blobs_at):
        with pytest.raises(SpecError, match="inline, local, redis, runpod, or the URL"):
            make(Place(where), settings(tmp_path))


def test_redis_needs_its_address(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="VISIONDYNO_REDIS_URL"):
        make_executor_at(Place("redis"), settings(tmp_path, redis_url=None, redis_host=None))


@pytest.mark.parametrize("workers", [0, -1, 257])
def test_workers_are_a_number_that_can_be(tmp_path: Path, workers: int) -> None:
    with pytest.raises(SpecError, match="from 1 to 256"):
        make_executor_at(Place("local", workers=workers), settings(tmp_path))


@pytest.mark.parametrize("where", ["http://host", "https://host/v2/mine"])
def test_a_key_that_cannot_be_one_is_refused_untold(tmp_path: Path, where: str) -> None:
    with pytest.raises(SpecError) as caught:
        make_executor_at(Place(where, "hid\nden"), settings(tmp_path))
    assert "hid" not in caught.value.message


def test_runpods_key_of_the_environment_goes_to_runpod_alone(tmp_path: Path) -> None:
    told = settings(tmp_path, runpod_api_key="hid\nden")  # refused where it would be sent
    with pytest.raises(SpecError, match="key"):
        make_executor_at(Place("https://api.runpod.ai/v2/mine"), told)

    async def main() -> None:
        for where in (
            "https://host/v2/mine",
            "https://api.runpod.ai.host/v2/mine",
            "http://api.runpod.ai/v2/mine",
        ):
            await make_executor_at(Place(where), told).close()

    asyncio.run(main())


def test_blobs_lie_where_the_places_workers_find_them(tmp_path: Path) -> None:
    for where in ("inline", "local", "redis"):
        found = make_blobs_at(Place(where), settings(tmp_path))
        assert str(tmp_path / "blobs") in str(found)

    async def main() -> None:
        theirs = make_blobs_at(Place("http://host:8000/", "vd_1"), settings(tmp_path))
        assert isinstance(theirs, HttpBlobs)
        assert str(theirs) == "http://host:8000/blobs"
        await theirs.close()

    asyncio.run(main())
    with pytest.raises(SpecError, match="API key"):
        make_blobs_at(Place("http://host:8000/", "hid\nden"), settings(tmp_path))


@pytest.mark.parametrize(
    "where", ["ftp://user:secret@host/x", "http://user:secret@host/blobs", "s3://key:secret@b/x",
              "http://user:secret@host:port/blobs"],
)  # fmt: skip
def test_an_address_with_a_password_is_refused_untold(tmp_path: Path, where: str) -> None:
    with pytest.raises(SpecError, match="user name or a password") as caught:
        open_blobs(where, tmp_path)
    assert "secret" not in caught.value.message
    with pytest.raises(SpecError) as caught:
        make_executor_at(Place(where), settings(tmp_path))
    assert "secret" not in caught.value.message


def test_a_folder_of_blobs_may_have_any_name(tmp_path: Path) -> None:
    assert str(tmp_path / "a@b") in str(open_blobs(f"file://{tmp_path}/a@b", tmp_path))


# ---- RunPod


CLOUD = "https://api.runpod.ai/v2/"


@pytest.mark.parametrize(
    ("endpoint", "of_settings", "url"),
    [
        ("abc123", None, f"{CLOUD}abc123"),
        (None, "def456", f"{CLOUD}def456"),
        ("abc123", "def456", f"{CLOUD}abc123"),
        (f"{CLOUD}abc123", None, f"{CLOUD}abc123"),
        ("http://127.0.0.1:8010/v2/emulator", None, "http://127.0.0.1:8010/v2/emulator"),
    ],
)
def test_runpod_is_an_endpoint_by_id_or_url(
    tmp_path: Path, endpoint: str | None, of_settings: str | None, url: str
) -> None:
    told = settings(tmp_path, runpod_endpoint_id=of_settings)
    assert Place("runpod", endpoint=endpoint).endpoint_url(told) == url


@pytest.mark.parametrize("endpoint", ["", "a/b", "http://host:8000", "https://u:secret@host/x"])
def test_what_is_no_endpoint_is_refused_untold(tmp_path: Path, endpoint: str) -> None:
    place = Place("runpod", endpoint=endpoint)
    with pytest.raises(SpecError, match="endpoint") as caught:
        make_executor_at(place, settings(tmp_path, runpod_endpoint_id=None))
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("where", ["inline", "local", "redis", "http://host:8000"])
@pytest.mark.parametrize("option", ["endpoint", "gpu", "max_cost_usd", "fallback"])
def test_options_of_endpoints_are_refused_elsewhere(
    tmp_path: Path, where: str, option: str
) -> None:
    given = {option: 1.0 if option == "max_cost_usd" else "local"}
    place = Place(where, **given)  # type: ignore[arg-type] # one of them
    with pytest.raises(SpecError, match="for jobs on a RunPod endpoint"):
        make_executor_at(place, settings(tmp_path, redis_url=REDIS))


def test_a_limit_of_cost_needs_a_price(tmp_path: Path) -> None:
    place = Place("runpod", endpoint="abc123", max_cost_usd=1.0)
    with pytest.raises(SpecError, match="--gpu"):
        make_executor_at(place, settings(tmp_path))


def test_the_price_is_that_of_what_was_deployed(tmp_path: Path) -> None:
    deployed = Deployment(
        endpoint_id="abc123", name="cars", image="me/dyno:1", gpu="A6000", workers_min=0,
        workers_max=3, idle_timeout_s=9.0, execution_timeout_s=300.0, deployed_at=0.0,
    )  # fmt: skip
    folder = tmp_path / "deployments"
    folder.mkdir()
    (folder / "abc123.json").write_text(deployed.model_dump_json())
    told = settings(tmp_path)
    found = make_meter(Place("runpod"), f"{CLOUD}abc123", told)
    assert found is not None
    assert found.price.gpu == "A6000"
    given = make_meter(Place("runpod", gpu="0.4"), f"{CLOUD}abc123", told)
    assert given is not None
    assert given.price.usd_per_hour == 0.4
    assert make_meter(Place("runpod"), f"{CLOUD}other", told) is None
    assert make_meter(Place("runpod"), "http://127.0.0.1:8010/v2/abc123", told) is None
    (folder / "abc123.json").write_text("{}")
    with pytest.raises(SpecError, match="deploy again"):
        make_meter(Place("runpod"), f"{CLOUD}abc123", told)


def test_what_an_endpoint_does_not_get_runs_on_the_fallback(tmp_path: Path) -> None:
    async def main() -> None:
        place = Place("runpod", endpoint="abc123", fallback="inline")
        made = make_executor_at(place, settings(tmp_path))
        assert made.name == "fallback"
        await made.close()

    asyncio.run(main())
    with pytest.raises(SpecError, match="no fallback"):
        make_executor_at(Place("runpod", endpoint="a", fallback="redis"), settings(tmp_path))


def test_an_endpoint_of_this_machine_shares_its_blobs(tmp_path: Path) -> None:
    here = Place("runpod", endpoint="http://localhost:8010/v2/emulator")
    assert str(tmp_path / "blobs") in str(make_blobs_at(here, settings(tmp_path)))
    there = Place("runpod", endpoint="abc123")
    assert str(make_blobs_at(there, settings(tmp_path))) == "no blob store"
    shared = settings(tmp_path, blobs_url=f"file://{tmp_path}/shared")
    assert str(tmp_path / "shared") in str(make_blobs_at(there, shared))
