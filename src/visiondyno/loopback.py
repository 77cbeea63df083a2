"""Addresses of this machine, which are asked without the environment's proxies."""

import ipaddress
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Whether a host, as a URL has it, is this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def past_proxies(url: str) -> dict[str, None]:
    """What an httpx client takes as `mounts`, so that an address of this machine has no proxy.

    `HTTP_PROXY` is for addresses elsewhere. A proxy would look for ours on its own machine, and be
    given the key that goes with the request.
    """
    host = urlsplit(url).hostname or ""
    if not is_loopback(host):
        return {}
    return {f"all://[{host}]" if ":" in host else f"all://{host}": None}
