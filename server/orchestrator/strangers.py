"""Connections to the port that are nobody's: counted, ended in time, and named when they are many.

gRPC ends a TLS handshake that takes too long, and says nothing of who began it, so a flood would
show itself in nothing but other silos' silence. This module looks at the process's own sockets: a
connection to the port over which no admitted silo has called within `CALL_SECONDS` is shut down.
Where there are more than `most` of them, the surplus is shut down at once: first those
of the address that has most, and of addresses that carry silos or were declared as relays (a NAT,
a gateway) only where nothing else is left. So descriptors and memory are left for silos that come
back, whatever a stranger opens.

    MDW-759 a flood of connections
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from server.orchestrator.addresses import Networks, plain_address

log = logging.getLogger(__name__)

CALL_SECONDS: Final = 10.0
"""A silo calls as soon as it is connected; the handshake before that has 5 s."""
LOOK_SECONDS: Final = 1.0
FLOOD_CONNECTIONS: Final = 100
"""From one address within `FLOOD_SECONDS`, from which on they are named in the log."""
FLOOD_SECONDS: Final = 60.0
SILO_SECONDS: Final = 900.0
"""How long the address of a silo that called is spared after its last call."""
_DESCRIPTORS: Final = ("/proc/self/fd", "/dev/fd")

Peer = tuple[str, int]
"""Address and port of the other side; a mapped IPv4 address is written as IPv4."""


@dataclass
class Connection:
    """One open socket of the port."""

    peer: Peer
    descriptor: int
    since: float
    """Monotonic seconds of the first look that saw it."""


class Strangers:
    """Watches the connections to one port; `look` does what the module says, `called` tells it of
    silos.
    """

    def __init__(
        self,
        port: int,
        most: int,
        relays: Collection[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`most` connections that are nobody's are left open at once; `relays` are addresses or
        networks (CIDR) that carry silos.
        """
        self._port = port
        self._most = most
        self._relays = Networks(relays)
        self._clock = clock
        self._lock = threading.Lock()
        self._calls: dict[Peer, float] = {}
        self._by_relay: dict[Peer, tuple[str, float]] = {}
        self._addresses: dict[str, float] = {}
        self._seen: dict[Peer, float] = {}
        self._recent: Counter[str] = Counter()
        self._window = clock()
        self._named: set[str] = set()

    def called(self, peer: str) -> None:
        """Note that an admitted silo has called over a connection (gRPC's name of its peer)."""
        parsed = parse_peer(peer)
        if parsed is None:
            return
        now = self._clock()
        with self._lock:
            self._calls[parsed] = now
            self._addresses[parsed[0]] = now

    def comes_by_relay(self, peer: Peer, key: str) -> None:
        """Note that a connection is that of a silo's key, which a relay carries.

        All of them have one address, this machine's own: so they are counted by their keys.
        """
        with self._lock:
            self._by_relay[peer] = key, self._clock()

    def is_by_relay(self, peer: str) -> bool:
        """Whether a connection (gRPC's name of its peer) came by a relay."""
        parsed = parse_peer(peer)
        with self._lock:
            return parsed is not None and parsed in self._by_relay

    def _whose(self, peer: Peer) -> str:
        """Return by what a connection is counted: its address, or the key that a relay carries."""
        known = self._by_relay.get(peer)
        return peer[0] if known is None else known[0]

    def look(self) -> int:
        """Shut down what is to be shut down, and return how many connections are nobody's."""
        now = self._clock()
        open_now = list(connections(self._port, now))
        peers = {one.peer for one in open_now}
        with self._lock:
            self._forget(peers, now)
            strangers = [one for one in open_now if one.peer not in self._calls]
        for one in strangers:
            if one.peer not in self._seen:
                self._seen[one.peer] = now
                self._recent[self._whose(one.peer)] += 1
            one.since = self._seen[one.peer]
        late = [one for one in strangers if now - one.since >= CALL_SECONDS]
        waiting = [one for one in strangers if now - one.since < CALL_SECONDS]
        surplus = self._surplus(waiting, now)
        for one in [*late, *surplus]:
            shut_down(one)
        self._name_floods(now)
        return len(strangers)

    def _forget(self, peers: set[Peer], now: float) -> None:
        """Drop what is known of connections that are closed; holds the lock."""
        for peer in self._calls.keys() - peers:
            # A call may be noted between the look at the sockets and this one.
            if now - self._calls[peer] > LOOK_SECONDS:
                del self._calls[peer]
        for peer in self._by_relay.keys() - peers:
            # It is told of before gRPC has accepted it.
            if now - self._by_relay[peer][1] > CALL_SECONDS:
                del self._by_relay[peer]
        for peer in self._seen.keys() - peers:
            del self._seen[peer]
        for address, last in list(self._addresses.items()):
            if now - last > SILO_SECONDS:
                del self._addresses[address]

    def _surplus(self, waiting: list[Connection], now: float) -> list[Connection]:
        """Return which of the connections have to go so that `most` are left."""
        over = len(waiting) - self._most
        if over <= 0:
            return []
        count = Counter(self._whose(one.peer) for one in waiting)
        with self._lock:
            silos = set(self._addresses)

        def order(one: Connection) -> tuple[bool, int, float]:
            whose = self._whose(one.peer)
            spared = whose in silos or whose in self._relays
            return spared, -count[whose], one.since

        return sorted(waiting, key=order)[:over]

    def _name_floods(self, now: float) -> None:
        """Log each address with many connections once in a window."""
        for address, number in self._recent.items():
            if number >= FLOOD_CONNECTIONS and address not in self._named:
                self._named.add(address)
                log.warning(
                    "MDW-759: %d connections from %s within %.0f s, over which no admitted silo"
                    " has called. They are ended; silos are served.",
                    number,
                    address,
                    max(1.0, now - self._window),
                )
        if now - self._window >= FLOOD_SECONDS:
            self._recent.clear()
            self._named.clear()
            self._window = now


class Watch:
    """A thread that looks every `LOOK_SECONDS`, and does further chores with it."""

    def __init__(self, chores: Collection[Callable[[], object]]) -> None:
        self._chores = tuple(chores)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="door", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; returns when the thread has."""
        self._stopped.set()
        self._thread.join()

    def _keep(self) -> None:
        while not self._stopped.wait(LOOK_SECONDS):
            for chore in self._chores:
                try:
                    chore()
                except Exception:  # a look that fails must not end the looking
                    log.exception("a look at the connections failed")


def parse_peer(peer: str) -> Peer | None:
    """Return the address and port in gRPC's name of a peer; None for another kind of socket.

    gRPC writes `ipv4:127.0.0.1:4321` and `ipv6:%5B::1%5D:4321`.
    """
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return None
    address, _, port = unquote(rest).rpartition(":")
    if not port.isdigit():
        return None
    return plain_address(address.strip("[]")), int(port)


def connections(port: int, now: float) -> Iterator[Connection]:
    """Yield this process's connected TCP sockets whose own port is this one."""
    for descriptor in _descriptors():
        found = _opened(descriptor)
        if found is None:
            continue
        with found:
            peer = _peer_at(found, port)
        if peer is not None:
            yield Connection(peer, descriptor, now)


def shut_down(connection: Connection) -> None:
    """End a connection from under gRPC, which closes the descriptor when it reads the end.

    The descriptor may have been closed and used again since it was seen: the copy is looked at
    once more, and it is the copy that is shut down.
    """
    found = _opened(connection.descriptor)
    if found is None:
        return
    with found, contextlib.suppress(OSError):
        address, port = found.getpeername()[:2]
        if (plain_address(address), port) == connection.peer:
            found.shutdown(socket.SHUT_RDWR)


def _descriptors() -> list[int]:
    for folder in _DESCRIPTORS:
        with contextlib.suppress(OSError):
            return [int(name) for name in os.listdir(folder) if name.isdigit()]
    return []


def _opened(descriptor: int) -> socket.socket | None:
    """Return a copy of a descriptor as a socket; None where it is none."""
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return None
        copy = os.dup(descriptor)
    except OSError:
        return None
    try:
        return socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        return None


def _peer_at(found: socket.socket, port: int) -> Peer | None:
    """Return the other side of a connected TCP socket of that port; None for any other socket."""
    if found.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    if found.type != socket.SOCK_STREAM:
        return None
    try:
        if found.getsockname()[1] != port:
            return None
        address, number = found.getpeername()[:2]
    except OSError:
        # It listens, or has ended.
        return None
    return plain_address(address), int(number)
