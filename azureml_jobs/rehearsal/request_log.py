"""What a rehearsal records: who used which resource, what was refused, and unknown requests."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass(frozen=True)
class AccessCheck:
    """Whether an identity may do something with a resource; `role` is the least that allows it.

    A resource is written `vault:kv-north`, `storage:north` or `workspace:north`.
    """

    identity: str
    action: str  # read | write
    resource: str
    allowed: bool
    role: str


@dataclass
class RequestLog:
    """What tests and the end of a rehearsal report on; safe to use from several threads.

    `requests` holds method, host, path and status of each; `unrouted` the requests that the
    stand-in has no answer for; `outbound` the hosts outside the list, which the proxy refused.
    """

    accesses: set[AccessCheck] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    unrouted: list[str] = field(default_factory=list)
    outbound: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add_access(self, access: AccessCheck) -> None:
        """Record that an identity asked for a resource."""
        with self._lock:
            self.accesses.add(access)

    def forget(self) -> None:
        """Delete every record."""
        with self._lock:
            self.accesses.clear()
            self.requests.clear()
            self.unrouted.clear()
            self.outbound.clear()

    def refused(self) -> list[AccessCheck]:
        """Return what was refused, sorted by identity and resource."""
        with self._lock:
            refused = [access for access in self.accesses if not access.allowed]
        return sorted(refused, key=lambda access: (access.identity, access.resource, access.action))

    def resources_of(self, identity: str) -> set[str]:
        """Return every resource that an identity asked for, allowed or not."""
        with self._lock:
            return {access.resource for access in self.accesses if access.identity == identity}
