"""One endpoint at RunPod, never a second one, whatever fails in the middle."""

from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest
from deployed_cases import WANTED, counts, deployed

from runpod_rest import KEY, Fault, StandIn, runpod_rest
from visiondyno.deployments.endpoint import (
    Volume,
    check_volume_fits,
    deploy_endpoint,
)
from visiondyno.deployments.rest_api import RunPodRest, checked_rest_url
from visiondyno.errors import (
    Conflict,
    Forbidden,
    NotFound,
    RateLimited,
    SpecError,
    TransportDown,
    Unauthorized,
    Unavailable,
    VisionDynoError,
)


@pytest.fixture
def account() -> Iterator[StandIn]:
    with runpod_rest() as found:
        yield found


def test_a_new_endpoint_is_as_the_defaults_say(account: StandIn) -> None:
    found = deployed(account)
    assert found.is_new
    assert found.changes == ("template made", "endpoint made")
    assert account.template["env"] == {"TOKEN": "geheim-1"}
    assert account.template["containerDiskInGb"] == 50
    assert account.template["isServerless"] is True
    endpoint = account.endpoint
    assert endpoint["gpuTypeIds"] == ["NVIDIA RTX A4000"]
    assert (endpoint["workersMin"], endpoint["workersMax"]) == (0, 3)
    assert (endpoint["idleTimeout"], endpoint["executionTimeoutMs"]) == (5, 300_000)
    assert endpoint["minCudaVersion"] == "13.0"


def test_again_nothing_is_sent(account: StandIn) -> None:
    deployed(account)
    before = list(account.writes)
    assert deployed(account).changes == ()
    assert account.writes == before


def test_only_what_is_named_changes(account: StandIn) -> None:
    deployed(account, replace(WANTED, registry_auth_id="auth1", data_centers=("EU-RO-1",)))
    account.endpoint.update(workersMax=9, idleTimeout=77, scalerValue=2)
    account.template.update(readme="mine")
    wanted = replace(WANTED, image="docker.io/u/worker:2", gpus=("L4", "A100"), env={"B": "2"})
    assert deployed(account, wanted).changes == ("template changed", "endpoint changed")
    assert account.template["env"] == {"TOKEN": "geheim-1", "B": "2"}
    assert account.template["imageName"] == "docker.io/u/worker:2"
    assert account.template["containerRegistryAuthId"] == "auth1"
    assert account.template["readme"] == "mine"
    endpoint = account.endpoint
    assert (endpoint["workersMax"], endpoint["idleTimeout"], endpoint["scalerValue"]) == (9, 77, 2)
    assert endpoint["dataCenterIds"] == ["EU-RO-1"]
    assert endpoint["gpuTypeIds"] == [
        "NVIDIA L4", "NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe",
    ]  # fmt: skip
    # A change carries the other fields too, in case a missing one were set to its default.
    patched = [body for method, path, body in account.requests if method == "PATCH"][-1]
    assert patched is not None
    assert patched["idleTimeout"] == 77


def test_every_option_arrives(account: StandIn) -> None:
    deployed(account)
    wanted = replace(
        WANTED, workers=(1, 7), idle_timeout_s=60, execution_timeout_s=900, disk_gb=80,
        min_cuda="12.8", flashboot=False, data_centers=("US-KS-2", "EU-NL-1"),
        registry_auth_id="auth2", removed=frozenset({"TOKEN"}), env={},
    )  # fmt: skip
    deployed(account, wanted)
    expected = {
        "workersMin": 1, "workersMax": 7, "idleTimeout": 60, "executionTimeoutMs": 900_000,
        "minCudaVersion": "12.8", "flashboot": False, "dataCenterIds": ["US-KS-2", "EU-NL-1"],
    }  # fmt: skip
    assert expected.items() <= account.endpoint.items()
    assert account.template["env"] == {}
    assert account.template["containerDiskInGb"] == 80
    assert account.template["containerRegistryAuthId"] == "auth2"


def test_data_centres_as_one_text_are_sent_as_a_list(account: StandIn) -> None:
    deployed(account)
    account.endpoint["dataCenterIds"] = "EU-RO-1,EU-NL-1"
    assert deployed(account).changes == ()
    deployed(account, replace(WANTED, idle_timeout_s=9))
    assert account.endpoint["dataCenterIds"] == ["EU-RO-1", "EU-NL-1"]


def test_an_endpoint_is_found_by_its_id_its_record_or_its_name(account: StandIn) -> None:
    endpoint_id = deployed(account).endpoint["id"]
    account.endpoint["name"] = "renamed"
    recorded = replace(WANTED, recorded_id=endpoint_id, idle_timeout_s=6)
    assert deployed(account, recorded).endpoint["id"] == endpoint_id
    named = replace(WANTED, endpoint_id=endpoint_id, idle_timeout_s=7)
    assert deployed(account, named).endpoint["idleTimeout"] == 7
    with pytest.raises(NotFound, match="leave --endpoint out"):
        deployed(account, replace(WANTED, endpoint_id="gone"))


def test_a_recorded_endpoint_that_was_removed_is_made_anew(account: StandIn) -> None:
    gone = deployed(account).endpoint["id"]
    account.things["endpoints"].clear()
    found = deployed(account, replace(WANTED, recorded_id=gone))
    assert found.is_new
    assert counts(account) == [1, 1, 0]


def test_of_two_endpoints_with_one_name_the_user_says_which(account: StandIn) -> None:
    deployed(account)
    account.things["endpoints"]["other"] = {**account.endpoint, "id": "other"}
    with pytest.raises(Conflict, match="other"):
        deployed(account)
    assert deployed(account, replace(WANTED, endpoint_id="other")).endpoint["id"] == "other"


def test_another_endpoint_never_gets_this_ones_template(account: StandIn) -> None:
    deployed(account)
    other = {**account.endpoint, "id": "other", "name": "foreign", "templateId": "of-somebody"}
    account.things["endpoints"]["other"] = other
    deployed(account, replace(WANTED, endpoint_id="other", image="docker.io/u/worker:2"))
    names = {one["name"]: one["imageName"] for one in account.things["templates"].values()}
    assert names == {"vd-worker": WANTED.image, "foreign-worker": "docker.io/u/worker:2"}
    assert account.things["endpoints"]["other"]["templateId"] != "of-somebody"


# ---- volumes


def test_a_volume_is_made_once_and_ties_the_endpoint_to_its_data_centre(account: StandIn) -> None:
    wanted = replace(WANTED, volume=Volume("EU-RO-1", 30))
    assert "volume of 30 GB made in EU-RO-1" in deployed(account, wanted).changes
    (volume,) = account.things["networkvolumes"].values()
    assert (volume["size"], volume["dataCenterId"]) == (30, "EU-RO-1")
    assert account.endpoint["networkVolumeId"] == volume["id"]
    assert account.endpoint["dataCenterIds"] == ["EU-RO-1"]
    assert deployed(account, wanted).changes == ()
    assert deployed(account, replace(WANTED, volume=Volume(volume["id"]))).changes == ()
    with pytest.raises(NotFound, match="no network volume"):
        deployed(account, replace(WANTED, volume=Volume("gone")))
    assert counts(account) == [1, 1, 1]


def test_a_volume_and_another_data_centre_are_refused() -> None:
    check_volume_fits(replace(WANTED, volume=Volume("EU-RO-1"), data_centers=("EU-RO-1",)))
    with pytest.raises(SpecError, match="leave --data-center"):
        check_volume_fits(replace(WANTED, volume=Volume("EU-RO-1"), data_centers=("US-KS-2",)))


# ---- faults


WRITES = [("POST", "networkvolumes"), ("POST", "templates"), ("POST", "endpoints")]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("status", [0, 500, 502, 504], ids=["cut", "500", "502", "504"])
@pytest.mark.parametrize(("method", "collection"), WRITES, ids=["volume", "template", "endpoint"])
def test_a_doubt_never_makes_a_second_one(
    account: StandIn, method: str, collection: str, status: int, after: bool
) -> None:
    account.faults.append(Fault(method, collection, status, after))
    deployed(account, replace(WANTED, volume=Volume("EU-RO-1")))
    assert counts(account) == [1, 1, 1]


@pytest.mark.parametrize("status", [0, 504], ids=["cut", "504"])
@pytest.mark.parametrize(("method", "collection"), WRITES, ids=["volume", "template", "endpoint"])
def test_what_is_listed_late_isnt_made_again(
    account: StandIn, method: str, collection: str, status: int
) -> None:
    account.faults.append(Fault(method, collection, status, after=True, lists_late=2))
    waited: list[float] = []
    with RunPodRest(account.url, KEY, sleep=waited.append) as rest:
        deploy_endpoint(rest, replace(WANTED, volume=Volume("EU-RO-1")))
    assert counts(account) == [1, 1, 1]
    assert sum(waited) >= 6  # it isn't asked for three times in the same moment


def test_a_name_that_the_unanswered_request_took_is_found(account: StandIn) -> None:
    # The look comes too early, so it is made again, and refused: its name is taken by itself.
    account.faults += [
        Fault("POST", "templates", 504, after=True),
        Fault("POST", "templates", 500),
    ]
    deployed(account)
    assert counts(account) == [1, 1, 0]


@pytest.mark.parametrize("collection", ["templates", "endpoints"])
def test_what_failed_in_the_middle_is_gone_on_with(account: StandIn, collection: str) -> None:
    account.faults += [Fault("POST", collection, 500) for _ in range(5)]
    with pytest.raises(TransportDown, match="500"):
        deployed(account)
    deployed(account)
    assert counts(account) == [1, 1, 0]
    account.faults += [Fault("PATCH", collection, 503) for _ in range(5)]
    changed = replace(WANTED, image="docker.io/u/worker:3", idle_timeout_s=8)
    with pytest.raises(TransportDown, match="503"):
        deployed(account, changed)
    deployed(account, changed)
    assert account.template["imageName"] == "docker.io/u/worker:3"
    assert account.endpoint["idleTimeout"] == 8


def test_it_waits_as_long_as_it_is_asked_to(account: StandIn) -> None:
    waited: list[float] = []
    account.faults.append(Fault("GET", "endpoints", 429, headers={"Retry-After": "7"}))
    account.faults.append(Fault("POST", "endpoints", 429, headers={"Retry-After": "3"}))
    with RunPodRest(account.url, KEY, sleep=waited.append) as rest:
        deploy_endpoint(rest, WANTED)
    assert 7 <= waited[0] <= 8
    assert 3 <= waited[1] <= 4
    account.faults.append(Fault("GET", "endpoints", 429, headers={"Retry-After": "3600"}))
    with pytest.raises(RateLimited) as refused:
        deployed(account)
    assert refused.value.retry_after_s == 3600


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        (401, Unauthorized, "make a new one"),
        (403, Forbidden, "may not GET"),
        (400, SpecError, "refuses"),
        (404, NotFound, "removed"),
        (302, Unavailable, "isn't RunPod's API"),
    ],
    ids=["401", "403", "400", "404", "302"],
)
def test_a_refusal_is_a_sentence(
    account: StandIn, status: int, kind: type[VisionDynoError], says: str
) -> None:
    account.faults.append(Fault("GET", "endpoints", status))
    with pytest.raises(kind, match=says):
        deployed(account)
    assert account.writes == []


def test_a_wrong_key_changes_nothing(account: StandIn) -> None:
    with pytest.raises(Unauthorized) as refused:
        deployed(account, key="rpa_WRONG")
    assert "rpa_WRONG" not in str(refused.value)
    assert counts(account) == [0, 0, 0]


def test_what_runpod_says_is_told_without_secrets(account: StandIn) -> None:
    account.faults.append(Fault("POST", "templates", 400, says=f"env geheim-1 of {KEY} is bad"))
    with pytest.raises(SpecError) as refused:
        deployed(account)
    assert str(refused.value).endswith("env **** of **** is bad; correct the option that it names.")
    account.faults.append(Fault("POST", "templates", 400))  # quotes the body
    with pytest.raises(SpecError, match="imageName") as refused:
        deployed(account)
    assert "geheim" not in str(refused.value)


def test_no_server_is_a_sentence() -> None:
    with (
        RunPodRest("http://127.0.0.1:9/v1", KEY, sleep=lambda _: None) as rest,
        pytest.raises(TransportDown, match="can't be made"),
    ):
        rest.listed("/endpoints")


@pytest.mark.parametrize("text", ["[1]", '"x"', "<html>"], ids=["numbers", "text", "html"])
def test_something_elses_answer_is_a_sentence(text: str) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, text=text))
    with RunPodRest("https://rest.example", KEY, transport=transport) as rest:
        with pytest.raises(Unavailable, match="isn't RunPod's API"):
            rest.listed("/endpoints")
        with pytest.raises(Unavailable, match="isn't RunPod's API"):
            rest.changed("/endpoints/a", {})


def test_the_key_isnt_sent_unencrypted() -> None:
    with pytest.raises(SpecError, match="https://"):
        RunPodRest("http://rest.example/v1", KEY)
    with pytest.raises(SpecError, match="RUNPOD_API_KEY is empty"):
        RunPodRest("https://rest.example/v1", " ")
    assert checked_rest_url("http://localhost:9/v1/") == "http://localhost:9/v1"
