"""Where a URL of a request may lead: by its host's name, and by the address that stands behind it.

A name is judged by the operator's list, an address after the name was resolved; the connection is
then made to that very address, so that a name that answers differently the second time (DNS
rebinding) leads nowhere else.
"""

import ipaddress
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from visiondyno.errors import UrlRefused

PUBLIC = "public"
_PORTS = {"http": 80, "https": 443}
_LONGEST_URL = 4096
_METADATA = frozenset(
    map(
        ipaddress.ip_address,
        # Alibaba's, Azure's, Oracle's, Amazon's and Google's; the common one is link-local.
        ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"),
    )
)
_PROTOCOL_ASSIGNMENTS = ipaddress.ip_network("192.0.0.0/24")
"""Not global by IANA's registry; Python knows that of parts of it."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Place:
    """Where a URL leads by its own words.

    Attributes:
        url: as it is asked for, without a fragment.
        scheme: `http` or `https`.
        host: in lower case, IPv6 without brackets.
        port: also where the URL doesn't say.
        target: path and query.
    """

    url: str
    scheme: str
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """Host and port as the header `Host` has them."""
        host = _bracketed(self.host)
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def read_url(url: str) -> Place:
    """The place that a URL names.

    Raises:
        UrlRefused: it isn't a plain http or https URL.
    """
    shown = f"The URL '{url:.120}'"
    if len(url) > _LONGEST_URL or any(ord(letter) <= 32 or ord(letter) == 127 for letter in url):
        raise UrlRefused(f"{shown} is too long, or holds spaces; encode it as a URL must be.")
    try:
        parts = urlsplit(url)
        port = parts.port
        host = (parts.hostname or "").rstrip(".")
        if ":" not in host:
            # Twice: letters may become dots, and leave labels that no name has.
            host = host.encode("idna").decode().encode("idna").decode()
    except (ValueError, UnicodeError):
        raise UrlRefused(f"{shown} can't be read as one; check its host and port.") from None
    if parts.scheme not in _PORTS:
        raise UrlRefused(f"{shown} has another scheme than http and https; use one of these.")
    if not host:
        raise UrlRefused(f"{shown} names no host; give it whole.")
    if "@" in parts.netloc:
        raise UrlRefused("A URL with a user name or password isn't fetched; leave them away.")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Place(url, parts.scheme, host, port or _PORTS[parts.scheme], target)


class AllowedHosts:
    """The operator's list: `HOST`, `HOST:PORT`, `*.DOMAIN`, or `public`.

    A host that is named may be inside the operator's network; `public` is every host outside of
    it, on the ports of http and https.
    """

    def __init__(self, allowed: Collection[str]) -> None:
        named = (one.lower().rstrip(".") for one in allowed if one != PUBLIC)
        # An IPv6 address may stand without its brackets, where no port follows.
        self._named = {
            _bracketed(one) if one.count(":") > 1 and one[0] != "[" else one for one in named
        }
        self._public = PUBLIC in allowed

    @property
    def any(self) -> bool:
        """Whether URLs are taken at all."""
        return self._public or bool(self._named)

    def check_name(self, place: Place) -> None:
        """Judge before anything is resolved.

        Raises:
            UrlRefused: the host isn't allowed.
        """
        if self._is_named(place):
            return
        if not self.any:
            raise UrlRefused(
                "This server fetches nothing from URLs; send the image itself, or start it with "
                "--allow-url-host HOST."
            )
        if not self._public:
            raise UrlRefused(
                f"The host '{place.host:.120}' isn't among those that images are fetched from; "
                "send the image itself, or allow it with --allow-url-host."
            )
        if place.port not in _PORTS.values():
            raise UrlRefused(
                f"Port {place.port} isn't one of the web's (80 and 443); send the image itself, or "
                f"allow it with --allow-url-host {place.host:.120}:{place.port}."
            )

    def check_address(self, place: Place, address: str) -> None:
        """Judge what the name was resolved to.

        Raises:
            UrlRefused: it leads inside.
        """
        found = ipaddress.ip_address(address.partition("%")[0])
        if self._is_named(place):
            # A name may lead inside, but not to the metadata of a cloud's machine, unless the
            # address itself is on the list.
            wrong = place.host != str(found) and any(map(_never, _behind(found)))
        else:
            wrong = not all(map(_is_public, _behind(found)))
        if wrong:
            raise UrlRefused(
                f"The host '{place.host:.120}' has an address that nothing is fetched from (inside "
                "a network, or special); send the image itself."
            )

    def _is_named(self, place: Place) -> bool:
        for host in (_bracketed(place.host), *(f"*.{rest}" for rest in _domains(place.host))):
            if host in self._named or f"{host}:{place.port}" in self._named:
                return True
        return False


def _bracketed(host: str) -> str:
    """As a URL has it: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def _domains(host: str) -> Iterator[str]:
    rest = host
    while "." in rest:
        rest = rest.partition(".")[2]
        yield rest


def _behind(address: Address) -> Iterator[Address]:
    """The address, and the IPv4 address that it carries or leads to, if there is one."""
    yield address
    if isinstance(address, ipaddress.IPv6Address):
        carried = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
        if address in _NAT64:
            carried.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        yield from (one for one in carried if one is not None)


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and (
        address.ipv4_mapped is not None or address in _NAT64
    ):
        return True  # the IPv4 address that it leads to is judged beside it
    return address.is_global and not (
        address.is_multicast
        or address.is_reserved
        or address.is_unspecified
        or address in _PROTOCOL_ASSIGNMENTS
        or address in _METADATA
    )


def _never(address: Address) -> bool:
    return (
        address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or address in _METADATA
    )
