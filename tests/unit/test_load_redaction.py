"""Secrets stay out of specs, URLs and messages, and a hidden one is asked for again."""

import pytest

from visiondyno.errors import SpecError
from visiondyno.loadtest.redaction import (
    HIDDEN,
    is_secret_name,
    public_headers,
    public_spec,
    public_url,
    require_secrets,
    secrets_of,
    without_secrets,
)
from visiondyno.specs.load_test import LoadTestSpec, TargetSpec, WatchedMetrics

URL = "https://ann:s3cretpass@host.example:8443/v1/predict?conf=0.2&api_key=abcd1234&sig=f00d99#x"


@pytest.mark.parametrize(
    "name",
    ["Authorization", "Proxy-Authorization", "Cookie", "X-Api-Key", "apikey", "X-Auth", "token",
     "access_token", "client_secret", "password", "X-Amz-Signature", "sig", "key"],
)  # fmt: skip
def test_names_that_are_taken_for_secrets(name):
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["Accept", "conf", "X-Request-Id", "keyboard", "classes"])
def test_names_that_are_not(name):
    assert not is_secret_name(name)


def test_a_public_url_keeps_all_but_the_secrets():
    assert public_url(URL) == (
        "https://host.example:8443/v1/predict?conf=0.2&api_key=%28hidden%29&sig=%28hidden%29"
    )
    assert public_url("http://host/a?b&c=%20d") == "http://host/a?b&c=%20d"
    assert public_url("http://u@[::1]:80/") == "http://[::1]:80/"


def test_headers_keep_their_names():
    headers = {"Authorization": "Bearer abc", "Accept": "application/json"}
    assert public_headers(headers) == {"Authorization": HIDDEN, "Accept": "application/json"}


def spec_of(**more):
    target = TargetSpec(
        url=URL, headers={"Authorization": "Bearer tok3n-value", "Accept": "*/*"}, **more
    )
    return LoadTestSpec(targets=(target,))


def test_a_public_spec_holds_no_secret():
    spec = spec_of(watch=WatchedMetrics(url="http://u:pw12345@host/metrics"))
    text = str(public_spec(spec))
    for secret in ("s3cretpass", "abcd1234", "f00d99", "tok3n-value", "pw12345"):
        assert secret not in text
    assert "conf=0.2" in text


def test_messages_lose_each_secret():
    secrets = secrets_of(spec_of().targets[0])
    text = "GET with tok3n-value (Bearer tok3n-value) as ann:s3cretpass, key abcd1234: refused"
    cleaned = without_secrets(text, secrets)
    assert cleaned == f"GET with {HIDDEN} ({HIDDEN}) as {HIDDEN}, key {HIDDEN}: refused"
    assert secrets_of(TargetSpec(url="http://host/")) == frozenset()


def test_a_spec_that_was_read_back_asks_for_its_secrets():
    again = LoadTestSpec.model_validate(public_spec(spec_of()))
    with pytest.raises(SpecError, match=r"'Authorization'.*--header"):
        require_secrets(again.targets)
    bare = again.targets[0].model_copy(update={"headers": {}})
    with pytest.raises(SpecError, match="whole URL again"):
        require_secrets([bare])
    require_secrets(spec_of().targets)
