"""Who may connect to a relay, and how much each may take: the relay's rules, without a socket.

A `Door` counts a connection that has proven nothing, by its address; a `Federation` counts one that
has, by its key and its federation.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Final, Protocol

from cryptography import x509

from azureml_jobs.identity.signatures import authorities_in
from azureml_jobs.relay.allowance import Allowance, Allowances, Clock
from azureml_jobs.relay.connection_proofs import ACCEPT, NAME, Claim
from azureml_jobs.relay.settings import FederationLimits, RelaySettings

FAILED_PROOF: Final = 10.0
"""Connections that one with a wrong proof counts for: it costs the relay a look at signatures."""
CONTROLS: Final = 16
"""Servers of one federation that may listen at once."""
_PATH = re.compile(r"/v1/([^/]+)/([^/]+)/(control|silo|accept/([0-9a-f]{32}))")


class Refused(Exception):
    """Somebody is not let in: the HTTP status that says so, or the code of a close, and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status
        self.why = why


class Closable(Protocol):
    """A connection that the door may end."""

    def end(self) -> None:
        """End it, at once."""

    def has_ended(self) -> bool:
        """Whether it has ended by itself."""


@dataclass
class _Stranger:
    address: str
    connection: Closable


class Door:
    """The connections that have proven nothing yet."""

    def __init__(self, settings: RelaySettings, clock: Clock) -> None:
        self._most = settings.file.strangers
        self._ingress = [ip_network(one, strict=False) for one in settings.file.ingress]
        self._rate = Allowances(settings.file.connections_per_minute, clock)
        self._strangers: dict[object, _Stranger] = {}

    def arrives(self, name: object, address: str, connection: Closable) -> None:
        """Count a connection until `leaves`; where there are too many, one of them is ended.

        That is the oldest one of the address that has most, so that who floods ends himself; an
        ingress, behind which everybody may be, comes last.
        """
        for other, stranger in list(self._strangers.items()):
            if stranger.connection.has_ended():
                del self._strangers[other]
        self._strangers[name] = _Stranger(network_of(address), connection)
        if len(self._strangers) > self._most:
            self._end_one()

    def leaves(self, name: object) -> None:
        """Hear that a connection has proven who it is, or has ended."""
        self._strangers.pop(name, None)

    def __len__(self) -> int:
        return len(self._strangers)

    def _end_one(self) -> None:
        count = Counter(one.address for one in self._strangers.values())
        # Of equal ones the first, which is the oldest: a dict keeps the order of arrival.
        name, stranger = min(
            self._strangers.items(),
            key=lambda item: (self._is_ingress(item[1].address), -count[item[1].address]),
        )
        del self._strangers[name]
        stranger.connection.end()

    def address_of(self, peer: str, forwarded: str | None) -> str:
        """Return by which address somebody is counted: behind an ingress the one that it names."""
        if forwarded is not None and self._is_ingress(peer):
            # The last one is what the ingress itself has seen; those before it anybody may write.
            return network_of(forwarded.rpartition(",")[2].strip())
        return network_of(peer)

    def check_rate(self, address: str, count: float = 1.0) -> None:
        """Raise Refused 429 where an address connects too often."""
        if not self._rate.take(address, count):
            raise Refused(429, "too many connections from this address")

    def _is_ingress(self, address: str) -> bool:
        try:
            found = ip_address(address.partition("/")[0])
        except ValueError:
            return False
        return any(found in network for network in self._ingress)


class Federation:
    """One federation at the relay: its CAs, who is connected, and what is left of its rates."""

    def __init__(self, name: str, limits: FederationLimits, clock: Clock) -> None:
        self.name = name
        self._limits = limits
        self._authorities = CaFiles(limits.ca)
        self._rate = Allowance(
            limits.connections_per_minute / 60, max(1.0, limits.connections_per_minute), clock
        )
        self._rate_of_key = Allowances(limits.connections_per_minute_per_key, clock)
        self._streams: Counter[str] = Counter()
        rate = limits.megabytes_per_second
        self.bytes = None if rate is None else Allowance(rate * 1e6, rate * 1e6, clock)
        """What it may carry; None: anything."""

    @property
    def authorities(self) -> Sequence[x509.Certificate]:
        """Return its CAs, as their files are now."""
        return self._authorities.look()

    def check_begins(self, role: str, key: str) -> None:
        """Count a connection that has proven its key; raises Refused where there are too many."""
        # An orchestrator fetches one stream for each of a silo's connections, which are counted.
        if role == ACCEPT:
            return
        if not self._rate_of_key.take(key):
            raise Refused(4429, "too many connections of this key")
        if not self._rate.take():
            raise Refused(4429, "too many connections of this federation")

    def enter(self, key: str) -> None:
        """Count a silo's stream until `leave`; raises Refused where there are too many."""
        if self._streams[key] >= self._limits.streams_per_key:
            raise Refused(4429, "too many connections of this key at once")
        if self._streams.total() >= self._limits.streams:
            raise Refused(4429, "too many connections of this federation at once")
        self._streams[key] += 1

    def leave(self, key: str) -> None:
        """Hear that a silo's stream has ended."""
        self._streams[key] -= 1
        if self._streams[key] <= 0:
            del self._streams[key]

    @property
    def streams(self) -> int:
        """Return how many streams of its silos there are."""
        return self._streams.total()


class CaFiles:
    """The certificates in some files; a file that was replaced is read again, one that can't be
    read now counts as it was.
    """

    def __init__(self, files: Sequence[str]) -> None:
        self._files = [Path(one) for one in files]
        self._stamps: dict[Path, tuple[int, int]] = {}
        self._found: dict[Path, list[x509.Certificate]] = {}

    def look(self) -> Sequence[x509.Certificate]:
        """Return all certificates."""
        for path in self._files:
            try:
                status = path.stat()
                stamp = (status.st_mtime_ns, status.st_size)
                if self._stamps.get(path) == stamp:
                    continue
                found = authorities_in(path.read_bytes())
            except OSError:
                continue
            if found:
                self._stamps[path] = stamp
                self._found[path] = found
        return [one for path in self._files for one in self._found.get(path, [])]


def claim_of(path: str, federations: Mapping[str, object]) -> Claim:
    """Return as whom a request's path asks to connect; raises Refused 404."""
    match = _PATH.fullmatch(path.partition("?")[0])
    if match is None or match[1] not in federations or not NAME.fullmatch(match[2]):
        raise Refused(404, "there is no such federation at this relay")
    return Claim(match[1], match[2], match[3].partition("/")[0], match[4] or "")


def path_of(claim: Claim) -> str:
    """Return the path at which somebody connects."""
    last = f"{ACCEPT}/{claim.stream}" if claim.role == ACCEPT else claim.role
    return f"/v1/{claim.federation}/{claim.server}/{last}"


def network_of(address: str) -> str:
    """Return what of an address is counted: of IPv6 the network that one customer has."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ip_network((found, 64), strict=False).network_address)
    return str(found)
