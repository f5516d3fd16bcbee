"""Hosts and ports are joined so that they can be taken apart again; this machine is known by its text."""

from __future__ import annotations

import pytest

from conf.host_port import is_loopback, joined


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
