"""Network policies of deploy/kubernetes: exactly these connections, and no others."""

import ipaddress
from dataclasses import dataclass, field
from typing import Any

import pytest
from kustomize_build import FOLDER, Object, build, pod_of

NAMESPACE = "visiondyno"
PORTS = [
    (53, "UDP"),
    *((port, "TCP") for port in (22, 53, 80, 443, 3000, 5432, 6379, 6443, 8000, 8080, 9090)),
]


@dataclass(frozen=True)
class End:
    """One end of a connection: a pod of some namespace, or an address outside the cluster."""

    name: str
    namespace: str | None = None
    namespace_labels: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    address: str | None = None


ELSEWHERE = [
    End("ingress", "ingress-nginx", {"visiondyno/ingress": "true"}),
    End("monitoring", "monitoring", {"visiondyno/monitoring": "true"}),
    End("dns", "kube-system", labels={"k8s-app": "kube-dns"}),
    End("kube-system", "kube-system", labels={"k8s-app": "other"}),
    End("stranger", "default"),
    End("stores", address="10.20.30.40"),
    End("internet", address="203.0.113.7"),
    End("metadata", address="169.254.169.254"),
]

WEB = {
    ("ingress", "api", 8000),
    ("monitoring", "api", 8000),
    ("ingress", "serve", 8080),
    ("monitoring", "serve", 8080),
    ("api", "internet", 443),
    ("worker", "internet", 443),
    # An address is an address: what is on 443 in the private network is reached as well.
    ("api", "stores", 443),
    ("worker", "stores", 443),
}
IN_THE_CLUSTER = {
    ("api", "redis", 6379),
    ("worker", "redis", 6379),
    ("api", "postgres", 5432),
    ("database-schema", "postgres", 5432),
}
MANAGED = {
    ("api", "stores", 6379),
    ("worker", "stores", 6379),
    ("api", "stores", 5432),
    ("database-schema", "stores", 5432),
}


def _selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    assert set(selector) <= {"matchLabels", "matchExpressions"}
    for rule in selector.get("matchExpressions", []):
        assert rule["operator"] == "In"
        if labels.get(rule["key"]) not in rule["values"]:
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


def _is_peer(peer: dict[str, Any], end: End) -> bool:
    assert set(peer) <= {"podSelector", "namespaceSelector", "ipBlock"}
    if "ipBlock" in peer:
        if end.address is None:
            return False
        address = ipaddress.ip_address(end.address)
        excepted = [ipaddress.ip_network(each) for each in peer["ipBlock"].get("except", [])]
        return address in ipaddress.ip_network(peer["ipBlock"]["cidr"]) and not any(
            address in each for each in excepted
        )
    if end.address is not None:
        return False
    if "namespaceSelector" in peer:
        named = {**end.namespace_labels, "kubernetes.io/metadata.name": end.namespace or ""}
        if not _selects(peer["namespaceSelector"], named):
            return False
    elif end.namespace != NAMESPACE:
        return False
    return _selects(peer.get("podSelector", {}), end.labels)


def _lets(policies: list[Object], way: str, end: End, other: End, port: tuple[int, str]) -> bool:
    """Whether `end` may be entered from, or left to, `other`: one policy that lets it is enough."""
    if end.namespace != NAMESPACE:
        return True
    applying = [
        each["spec"]
        for each in policies
        if way in each["spec"]["policyTypes"] and _selects(each["spec"]["podSelector"], end.labels)
    ]
    key, side = ("from", "ingress") if way == "Ingress" else ("to", "egress")
    return not applying or any(
        any(_is_peer(peer, other) for peer in rule[key])
        and any((each["port"], each["protocol"]) == port for each in rule["ports"])
        for spec in applying
        for rule in spec.get(side, [])
    )


def _flows(objects: list[Object]) -> set[tuple[str, str, int | str]]:
    policies = [each for each in objects if each["kind"] == "NetworkPolicy"]
    pods = [
        End(each["metadata"]["name"], NAMESPACE, {}, pod["metadata"]["labels"])
        for each in objects
        if (pod := pod_of(each)) is not None
    ]
    return {
        (source.name, target.name, "names" if number == 53 else number)
        for source in [*pods, *ELSEWHERE]
        for target in [*pods, *ELSEWHERE]
        if NAMESPACE in (source.namespace, target.namespace)
        for number, protocol in PORTS
        if _lets(policies, "Egress", source, target, (number, protocol))
        and _lets(policies, "Ingress", target, source, (number, protocol))
    }


@pytest.mark.parametrize(
    ("overlay", "stores"),
    [
        ("local-cpu", IN_THE_CLUSTER),
        ("gpu", MANAGED),
        ("monitoring", MANAGED),
        ("scale-to-zero", MANAGED),
        ("serve-on-queue", MANAGED),
    ],
)
def test_only_these_connections_are_let_through(
    overlay: str, stores: set[tuple[str, str, int]]
) -> None:
    objects = build(FOLDER / "overlays" / overlay)
    pods = [each["metadata"]["name"] for each in objects if pod_of(each) is not None]
    names = {(pod, "dns", "names") for pod in pods}
    assert _flows(objects) == WEB | stores | names


def test_without_policies_everything_would_be_let_through() -> None:
    objects = build(FOLDER / "overlays/local-cpu")
    open_to_all = [each for each in objects if each["kind"] != "NetworkPolicy"]
    assert ("stranger", "postgres", 5432) in _flows(open_to_all)
    assert ("serve", "redis", 6379) in _flows(open_to_all)


def test_a_load_test_reaches_the_inference_server_and_nobody_else() -> None:
    objects = build(FOLDER / "overlays/local-cpu")
    before = _flows(objects)
    added = _flows([*objects, *build(FOLDER / "loadtest")]) - before
    assert added == {("loadtest", "serve", 8080), ("loadtest", "dns", "names")}
