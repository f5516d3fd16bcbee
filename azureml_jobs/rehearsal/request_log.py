"""What a rehearsal notes beside its answers: who touched what, what was refused, and what nobody knew."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Touch:
    """One identity at one resource (`vault:kv-north`, `storage:north`, `workspace:north`); `role` would allow it."""

    identity: str
    action: str  # read | write
    resource: str
    allowed: bool
    role: str


@dataclass
class RequestLog:
    """Everything that a test or the table at the end of a rehearsal asks about; safe to use from several threads."""

    touches: set[Touch] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)  # method, host, path, status
    unrouted: list[str] = field(
        default_factory=list
    )  # requests that the stand-in has no answer for
    outbound: list[str] = field(
        default_factory=list
    )  # hosts outside the list, refused by the proxy
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def touched(self, touch: Touch) -> None:
        """Note that an identity asked for a resource."""
        with self._lock:
            self.touches.add(touch)

    def forget(self) -> None:
        """Begin anew."""
        with self._lock:
            for kept in (self.touches, self.requests, self.unrouted, self.outbound):
                kept.clear()

    def refused(self) -> list[Touch]:
        """Return what was refused, sorted by identity and resource."""
        with self._lock:
            found = [touch for touch in self.touches if not touch.allowed]
        return sorted(found, key=lambda touch: (touch.identity, touch.resource, touch.action))

    def resources_of(self, identity: str) -> set[str]:
        """Return every resource that an identity asked for, allowed or not."""
        with self._lock:
            return {touch.resource for touch in self.touches if touch.identity == identity}
