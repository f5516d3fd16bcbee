"""Hosts and ports are joined so that they can be taken apart again; this machine is known by its text."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest

from conf.host_port import is_loopback, joined, listening_here, own_loopback


def test_an_ipv6_host_has_brackets_once() -> None:
    assert joined("::1", 9092) == joined("[::1]", "9092") == "[::1]:9092"
    assert joined("127.0.0.1", 1) == "127.0.0.1:1" and joined("hub.example", 2) == "hub.example:2"


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.0.0.1:9092", "127.8.9.1:1", "::1", "[::1]", "[::1]:9092"),
        *("localhost", "localhost:1", "LOCALHOST.:1", "a.localhost:1", "0:0:0:0:0:0:0:1"),
    ],
)
def test_this_machine(address: str) -> None:
    assert is_loopback(address)


@pytest.mark.parametrize(
    "address",
    ["", "hub:9092", "localhost.example:1", "10.0.0.1:1", "[2001:db8::1]:1", "1270.0.0.1", "::2"],
)
def test_any_other(address: str) -> None:
    assert not is_loopback(address)


class NoIpv4(socket.socket):
    """A machine on which nobody can listen at 127.0.0.1."""

    def bind(self, address: Any) -> None:
        if self.family == socket.AF_INET:
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        super().bind(address)


def test_loopback_is_ipv4_where_the_machine_has_it_and_else_ipv6(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert own_loopback() == "127.0.0.1"
    assert listening_here("127.0.0.1:9092") == "127.0.0.1:9092"
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    monkeypatch.setattr(socket, "socket", NoIpv4)
    assert own_loopback() == "::1"
    assert listening_here("127.0.0.1:9092") == "[::1]:9092"
    assert listening_here("0.0.0.0:9092") == "0.0.0.0:9092"
