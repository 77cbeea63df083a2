"""What the tests of deployments want, and the calls that have it."""

from runpod_rest import KEY, StandIn
from visiondyno.deployments.endpoint import (
    Deployed,
    Wanted,
    deploy_endpoint,
)
from visiondyno.deployments.rest_api import RunPodRest

WANTED = Wanted(name="vd", image="docker.io/u/worker:20261122-120000", env={"TOKEN": "geheim-1"})


def deployed(account: StandIn, wanted: Wanted = WANTED, key: str = KEY) -> Deployed:
    with RunPodRest(account.url, key, sleep=lambda _: None) as rest:
        return deploy_endpoint(rest, wanted)


def counts(account: StandIn) -> list[int]:
    return [len(things) for things in account.things.values()]
