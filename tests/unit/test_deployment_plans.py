"""RunPod's documented answers are understood; a plan is what is then sent, without secrets."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from deployed_cases import WANTED, deployed
from hypothesis import given
from hypothesis import strategies as st

from runpod_rest import KEY, StandIn, runpod_rest
from visiondyno.deployments.endpoint import (
    Volume,
    deploy_endpoint,
)
from visiondyno.deployments.planned import PlannedCalls, console_settings
from visiondyno.deployments.rest_api import RunPodRest


@pytest.fixture
def account() -> Iterator[StandIn]:
    with runpod_rest() as found:
        yield found


DOCUMENTED_TEMPLATE = {
    "category": "NVIDIA",
    "containerDiskInGb": 50,
    "containerRegistryAuthId": "clzdaifot0001l90809257ynb",
    "dockerEntrypoint": [],
    "dockerStartCmd": [],
    "earned": 100,
    "env": {"ENV_VAR": "value"},
    "id": "30zmvf89kd",
    "imageName": "runpod/pytorch:2.1.0-py3.10-cuda11.8.0-devel-ubuntu22.04",
    "isPublic": False,
    "isRunpod": True,
    "isServerless": True,
    "name": "my template",
    "ports": ["8888/http", "22/tcp"],
    "readme": "",
    "runtimeInMin": 123,
    "volumeInGb": 20,
    "volumeMountPath": "/workspace",
}
DOCUMENTED_ENDPOINT = {
    "allowedCudaVersions": ["12.8"],
    "computeType": "GPU",
    "createdAt": "2024-07-12T19:14:40.144Z",
    "dataCenterIds": "EU-NL-1,EU-RO-1,EU-SE-1",
    "env": {"ENV_VAR": "value"},
    "executionTimeoutMs": 600000,
    "gpuCount": 1,
    "gpuTypeIds": ["NVIDIA GeForce RTX 4090"],
    "id": "jpnw0v75y3qoql",
    "idleTimeout": 5,
    "instanceIds": ["cpu3c-8-16"],
    "name": "my endpoint",
    "networkVolumeId": "agv6w2qcg7",
    "scalerType": "QUEUE_DELAY",
    "scalerValue": 4,
    "template": DOCUMENTED_TEMPLATE,
    "templateId": "30zmvf89kd",
    "userId": "user_2PyTJrLzeuwfZilRZ7JhCQDuSqo",
    "version": 0,
    "workers": [],
    "workersMax": 3,
    "workersMin": 0,
}


def test_the_documented_answers_are_understood(account: StandIn) -> None:
    account.things["templates"]["30zmvf89kd"] = dict(DOCUMENTED_TEMPLATE)
    account.things["endpoints"]["jpnw0v75y3qoql"] = dict(DOCUMENTED_ENDPOINT)
    wanted = replace(WANTED, name="my endpoint")
    found = deployed(account, replace(wanted, execution_timeout_s=300))
    assert found.changes == ("template changed", "endpoint changed")
    assert account.template["imageName"] == WANTED.image
    assert account.template["env"] == {"ENV_VAR": "value", "TOKEN": "geheim-1"}
    assert account.template["ports"] == ["8888/http", "22/tcp"]
    assert account.endpoint["executionTimeoutMs"] == 300_000
    assert account.endpoint["networkVolumeId"] == "agv6w2qcg7"
    assert deployed(account, wanted).changes == ()


def test_a_plan_is_what_is_then_sent(account: StandIn) -> None:
    for wanted in (WANTED, replace(WANTED, image="docker.io/u/worker:2", gpus=("L4",))):
        already = len(account.writes)
        with RunPodRest(account.url, KEY) as rest:
            plan = PlannedCalls(rest)
            deploy_endpoint(plan, wanted)
        assert len(account.writes) == already
        deployed(account, wanted)
        sent = [
            (method, path.removeprefix("/v1"), body)
            for method, path, body in account.requests
            if method != "GET"
        ][already:]
        assert len(plan.requests) == len(sent)
        for planned, (method, path, body) in zip(plan.requests, sent, strict=True):
            assert body is not None
            assert (planned.method, planned.path) == (method, path)
            hidden = {"env": planned.body.get("env"), "templateId": planned.body.get("templateId")}
            assert {**body, **{k: v for k, v in hidden.items() if k in body}} == planned.body


names = st.from_regex(r"[A-Z][A-Z_]{2,12}", fullmatch=True).filter(
    lambda name: not name.startswith(("VISIONDYNO", "RUNPOD", "AWS_REGION"))
)


@given(env=st.dictionaries(names, st.uuids().map(str), min_size=1))
def test_no_plan_shows_a_secret(env: dict[str, str]) -> None:
    plan = PlannedCalls(None)
    found = deploy_endpoint(plan, replace(WANTED, env=env))
    rows = console_settings(found.template, found.endpoint)
    shown: list[Any] = [[request.body for request in plan.requests], rows]
    text = json.dumps(shown)
    assert not any(value in text for value in env.values())
    assert all(name in text for name in env)


def test_without_a_key_what_is_named_by_an_id_is_changed() -> None:
    plan = PlannedCalls(None)
    found = deploy_endpoint(plan, replace(WANTED, endpoint_id="abc", volume=Volume("vol1")))
    assert [(one.method, one.path) for one in plan.requests] == [
        ("POST", "/templates"), ("PATCH", "/endpoints/abc"),
    ]  # fmt: skip
    rows = dict(console_settings(found.template, found.endpoint))
    assert rows["Network volume"] == "vol1"
    assert rows["Max workers"] == rows["GPU configuration"] == rows["CUDA versions"] == "as it is"
    assert rows["FlashBoot"] == rows["Execution timeout"] == "as it is"
    assert (
        dict(console_settings({}, {"gpuTypeIds": ["NVIDIA A30"], "dataCenterIds": "EU-RO-1"}))[
            "GPU configuration"
        ]
        == "NVIDIA A30"
    )
