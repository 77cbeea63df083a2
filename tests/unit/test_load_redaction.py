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


def test_secrets_in_a_body_and_in_metrics_are_hidden_and_asked_for_again():
    body = {"images": ["x"], "auth": {"token": "abcd1234", "n": 1}, "list": [{"api_key": 12}]}
    watched = WatchedMetrics(url="http://host:9/metrics?token=abcd1234")
    target = TargetSpec(url="http://host/", json_body=body, watch=watched)
    shown = public_spec(LoadTestSpec(targets=(target,)))
    assert "abcd1234" not in str(shown)
    assert shown["targets"][0]["json_body"] == {
        "images": ["x"], "auth": {"token": HIDDEN, "n": 1}, "list": [{"api_key": HIDDEN}],
    }  # fmt: skip
    again = LoadTestSpec.model_validate(shown).targets[0]
    with pytest.raises(SpecError, match="URL http://host:9/metrics"):
        require_secrets([again])
    with pytest.raises(SpecError, match="JSON body for http://host/"):
        require_secrets([again.model_copy(update={"watch": None})])


def test_a_user_name_in_a_url_is_asked_for_again():
    target = TargetSpec(url="http://ann:s3cretpass@host/a")
    shown = public_spec(LoadTestSpec(targets=(target,)))
    assert "s3cretpass" not in str(shown)
    again = LoadTestSpec.model_validate(shown)
    with pytest.raises(SpecError, match="the URL http://host/a was hidden"):
        require_secrets(again.targets)


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
