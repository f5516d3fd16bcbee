"""Addresses as texts: `host:port`, with brackets around an IPv6 host, and which are this machine's."""

from __future__ import annotations

import ipaddress
from typing import Final

LOCAL_NAME: Final = "localhost"


def joined(host: str, port: int | str) -> str:
    """Return `host:port`; an IPv6 host has brackets then, whether it was given with them or not."""
    bare = host.strip("[]")
    return f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}"


def is_loopback(address: str) -> bool:
    """Return whether a host, or a `host:port`, is this machine by its loopback interface.

    By the text alone: no name is looked up.
    """
    host = address.strip("[]")
    if not _is_ip(host):
        host = address.rpartition(":")[0].strip("[]") or address
    if _is_ip(host):
        return ipaddress.ip_address(host).is_loopback
    name = host.rstrip(".").lower()
    return name == LOCAL_NAME or name.endswith(f".{LOCAL_NAME}")


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
