"""Connections that are nobody's are ended in time, those of silos are not, and a flood is named."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from server.orchestrator.strangers import CALL_SECONDS, FLOOD_CONNECTIONS, Strangers, parse_peer
from tests.faults.federation import until


class Door:
    """A listening socket of this process, its accepted connections, and a clock that stands still."""

    def __init__(self, most: int = 10, relays: tuple[str, ...] = ()) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = int(self.listener.getsockname()[1])
        self.now = 100.0
        self.strangers = Strangers(self.port, most, relays, lambda: self.now)
        self.accepted: list[socket.socket] = []
        self.callers: list[socket.socket] = []

    def connect(self, source: str = "127.0.0.1") -> tuple[socket.socket, str]:
        """Return the caller's end of a new connection, and its name as gRPC writes it."""
        caller = socket.create_connection(
            ("127.0.0.1", self.port), source_address=(source, 0), timeout=5
        )
        self.accepted.append(self.listener.accept()[0])
        self.callers.append(caller)
        return caller, f"ipv4:{source}:{caller.getsockname()[1]}"


@contextmanager
def door(most: int = 10, relays: tuple[str, ...] = ()) -> Iterator[Door]:
    opened = Door(most, relays)
    try:
        yield opened
    finally:
        for one in [opened.listener, *opened.accepted, *opened.callers]:
            one.close()


def ended(caller: socket.socket) -> bool:
    """Whether the other side has ended the connection."""
    caller.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        return caller.recv(1) == b""
    return False


def test_who_does_not_call_is_ended_and_who_calls_is_not() -> None:
    with door() as port:
        mute, _ = port.connect()
        silo, name = port.connect()
        port.strangers.called(name)
        assert port.strangers.look() == 1
        port.now += CALL_SECONDS - 1
        port.strangers.look()
        assert not ended(mute)
        port.now += 2
        port.strangers.look()
        until(lambda: ended(mute), 5)
        assert not ended(silo)


def test_beyond_the_limit_the_address_with_most_goes_first() -> None:
    with door(most=4) as port:
        few = [port.connect("127.0.0.2")[0] for _ in range(2)]
        many = [port.connect("127.0.0.3")[0] for _ in range(8)]
        assert port.strangers.look() == 10
        until(lambda: sum(map(ended, many)) == 6, 5)
        assert not any(map(ended, few))


@pytest.mark.parametrize("how", ["a silo has called from it", "it is declared"])
def test_a_relay_s_address_is_spared(how: str) -> None:
    relays = ("127.0.0.8/32",) if how == "it is declared" else ()
    with door(most=4, relays=relays) as port:
        if not relays:
            port.strangers.called(port.connect("127.0.0.8")[1])
        through = [port.connect("127.0.0.8")[0] for _ in range(4)]
        others = [port.connect("127.0.0.9")[0] for _ in range(3)]
        port.strangers.look()
        until(lambda: all(map(ended, others)), 5)
        assert not any(map(ended, through))


def test_a_flood_is_named_once_with_its_address(caplog: pytest.LogCaptureFixture) -> None:
    with door(most=1000) as port, caplog.at_level(logging.WARNING):
        for _ in range(FLOOD_CONNECTIONS + 5):
            port.connect("127.0.0.4")
        port.connect("127.0.0.5")
        for _ in range(5):
            port.strangers.look()
    said = [one.getMessage() for one in caplog.records if "MDW-759" in one.getMessage()]
    assert len(said) == 1 and f"{FLOOD_CONNECTIONS + 5} connections from 127.0.0.4" in said[0]


def test_other_sockets_of_the_process_are_left_alone() -> None:
    with door() as port:
        pair = socket.socketpair()
        elsewhere, other_end = door_of_another()
        port.now += 10 * CALL_SECONDS
        assert port.strangers.look() == 0
        assert not ended(pair[0]) and not ended(elsewhere)
        pair[0].close()
        pair[1].close()
        elsewhere.close()
        other_end.close()


def door_of_another() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        caller = socket.create_connection(listener.getsockname(), timeout=5)
        return caller, listener.accept()[0]


def test_a_peer_is_read_as_grpc_writes_it() -> None:
    assert parse_peer("ipv4:127.0.0.1:4321") == ("127.0.0.1", 4321)
    assert parse_peer("ipv6:%5B::1%5D:4321") == ("::1", 4321)
    assert parse_peer("ipv6:[::ffff:10.0.0.1]:5") == ("10.0.0.1", 5)
    assert parse_peer("unix:/x") is None and parse_peer("ipv4:nonsense") is None
