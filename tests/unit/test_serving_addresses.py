"""Which URLs of requests are fetched from where."""

import pytest

from visiondyno.errors import UrlRefused
from visiondyno.serving.addresses import AllowedHosts, read_url

PUBLIC = AllowedHosts(["public"])


def refusal(url: str, allowed: AllowedHosts, address: str = "93.184.216.34") -> str:
    with pytest.raises(UrlRefused) as raised:
        taken(url, allowed, address)
    return raised.value.message


def taken(url: str, allowed: AllowedHosts, address: str = "93.184.216.34") -> None:
    place = read_url(url)
    allowed.check_name(place)
    allowed.check_address(place, address)


@pytest.mark.parametrize(
    ("url", "authority", "target"),
    [
        ("http://Example.COM", "example.com", "/"),
        ("https://example.com:443/a?b=c#d", "example.com", "/a?b=c"),
        ("http://example.com:8000?x", "example.com:8000", "/?x"),
        ("http://[::1]:80/", "[::1]", "/"),
        ("http://b\u00fccher.example./x", "xn--bcher-kva.example", "/x"),
    ],
    ids=range(5),
)
def test_a_url_names_a_place(url: str, authority: str, target: str) -> None:
    place = read_url(url)
    assert (place.authority, place.target) == (authority, target)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("file:///etc/passwd", "another scheme"),
        ("ftp://example.com/x.jpg", "another scheme"),
        ("example.com/x.jpg", "another scheme"),
        ("http:///x.jpg", "names no host"),
        ("http://example.com:99999/", "can't be read"),
        ("http://[::1/", "can't be read"),
        ("http://a\u2024\u2024b/", "can't be read"),
        ("http://user:word@example.com/", "user name or password"),
        ("http://example.com/a b", "holds spaces"),
        ("http://example.com/a\r\nHost: b", "holds spaces"),
        ("http://example.com/" + "a" * 5000, "too long"),
    ],
    ids=range(11),
)
def test_what_is_no_plain_web_address_is_refused(url: str, says: str) -> None:
    assert says in refusal(url, PUBLIC)


INSIDE = [
    "127.0.0.1",
    "127.8.9.1",
    "10.0.0.1",
    "172.16.5.4",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "255.255.255.255",
    "198.18.0.1",
    "192.0.2.1",
    "::",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "fd00:ec2::254",
    "168.63.129.16",
    "192.0.0.192",
    "192.0.0.9",
    "::ffff:168.63.129.16",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::",
    "2001:db8::1",
]


@pytest.mark.parametrize("address", INSIDE)
def test_public_leads_nowhere_inside(address: str) -> None:
    assert "inside a network" in refusal("http://example.com/x.jpg", PUBLIC, address)


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "2606:4700::1111", "64:ff9b::5db8:d822", "::ffff:93.184.216.34"]
)
def test_public_leads_to_what_is_public(address: str) -> None:
    taken("https://example.com/x.jpg", PUBLIC, address)


def test_public_is_the_webs_ports_only() -> None:
    taken("http://example.com:443/", PUBLIC)
    assert "Port 6379" in refusal("http://example.com:6379/", PUBLIC)


def test_without_a_list_nothing_is_fetched() -> None:
    none = AllowedHosts([])
    assert not none.any
    assert "fetches nothing from URLs" in refusal("http://example.com/", none)


def test_a_list_is_of_hosts_ports_and_domains() -> None:
    allowed = AllowedHosts(["images.example", "cdn.example:8443", "*.store.example"])
    for url in (
        "http://images.example/a",
        "http://IMAGES.example.:9000/a",
        "https://cdn.example:8443/",
        "https://eu.store.example/",
        "https://a.b.store.example/",
    ):
        taken(url, allowed, "10.1.2.3")
    for url in (
        "https://cdn.example/",
        "https://store.example/",
        "http://images.example.evil.example/",
        "http://evilimages.example/",
    ):
        assert "isn't among those" in refusal(url, allowed)


def test_a_named_host_may_be_inside_but_not_the_metadata_of_a_machine() -> None:
    allowed = AllowedHosts(["images.example", "169.254.10.1", "::1"])
    taken("http://images.example/", allowed, "127.0.0.1")
    for address in (
        *("169.254.169.254", "fe80::1", "::ffff:169.254.169.254", "0.0.0.0"),
        *("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"),
    ):
        assert "nothing is fetched from" in refusal("http://images.example/", allowed, address)
    taken("http://169.254.10.1/", allowed, "169.254.10.1")
    taken("http://[::1]:8000/", allowed, "::1")
    assert "isn't among" in refusal("http://[::2]/", allowed)
