"""Addresses of the network, written in one way, and lists of networks that hold them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache


@lru_cache(maxsize=4096)
def plain_address(text: str) -> str:
    """Return an address without its zone, and an IPv4 address that IPv6 has mapped as IPv4."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return text
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped if mapped is not None else address)


class Networks:
    """Addresses and networks as a person writes them: `10.1.2.3`, `10.1.0.0/16`."""

    def __init__(self, written: Iterable[str]) -> None:
        """Raises ValueError for what is neither."""
        self._networks = [ipaddress.ip_network(one, strict=False) for one in written]

    def __contains__(self, address: str) -> bool:
        """Return whether one of them holds an address."""
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(found in network for network in self._networks)
