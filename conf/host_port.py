"""Addresses as texts: `host:port`, with brackets around an IPv6 host, and which are this machine's."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import suppress
from typing import Final

LOOPBACK: Final = "127.0.0.1"
_LOOPBACKS: Final = ((socket.AF_INET, LOOPBACK), (socket.AF_INET6, "::1"))
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


def own_loopback() -> str:
    """Return this machine's loopback address: IPv4 where it has one, as most do, else IPv6."""
    for family, address in _LOOPBACKS:
        with suppress(OSError), socket.socket(family) as tried:
            tried.bind((address, 0))
            return address
    return LOOPBACK


def listening_here(address: str) -> str:
    """Return a `host:port` to listen at, with this machine's own loopback in the place of
    127.0.0.1.
    """
    host, _, port = address.rpartition(":")
    return joined(own_loopback(), port) if host == LOOPBACK else address


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
