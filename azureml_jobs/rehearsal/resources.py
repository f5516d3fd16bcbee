"""The resources that Azure Resource Manager would hold: plain JSON by id, in any letter case."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

Json = dict[str, Any]
ML: Final = "Microsoft.MachineLearningServices"


@dataclass(frozen=True)
class Address:
    """A resource's id and its parts.

    Its form is `/subscriptions/S/resourceGroups/G/providers/P/type/name/type/name[/trailing]`.
    """

    id: str

    @property
    def key(self) -> str:
        """Return the id for comparisons."""
        return self.id.lower()

    @property
    def _tail(self) -> list[str]:
        """Return the types and names in turn, and what trails."""
        parts = self.id.strip("/").split("/")
        if len(parts) > 6 and parts[4].lower() == "providers":
            return parts[6:]
        return []

    @property
    def kind(self) -> str:
        """Return the types in order, such as `workspaces/jobs`, without what trails."""
        pairs = len(self._tail) // 2
        return "/".join(self._tail[0 : 2 * pairs : 2]).lower()

    @property
    def name(self) -> str:
        """Return the last name, or the last part where the id has none."""
        return self.id.rstrip("/").rpartition("/")[2]

    @property
    def trailing(self) -> str:
        """Return the part after the last name: a collection (GET), an action (POST) or nothing."""
        return self._tail[-1].lower() if len(self._tail) % 2 else ""

    @property
    def owner(self) -> Address:
        """Return the resource that has the trailing collection or action; itself without one."""
        if not self.trailing:
            return self
        return Address(self.id.rstrip("/").rpartition("/")[0])

    @property
    def workspace(self) -> Address:
        """Return the workspace of the resource."""
        return Address("/" + "/".join(self.id.strip("/").split("/")[:8]))


@dataclass
class Resources:
    """All resources of one rehearsal; hold `lock` while a resource is changed."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    _by_key: dict[str, Json] = field(default_factory=dict)

    def get(self, id: str) -> Json | None:
        """Return a resource, or None."""
        with self.lock:
            return self._by_key.get(id.rstrip("/").lower())

    def put(self, id: str, body: Json) -> Json:
        """Store a resource under its id, with the fields that ARM adds to each, and return it."""
        address = Address(id.rstrip("/"))
        with self.lock:
            system = {"createdAt": stamp(), "createdBy": "rehearsal", "createdByType": "User"}
            old = self._by_key.get(address.key)
            if old is not None:
                system = old["systemData"]
            resource = {
                **body,
                "id": address.id,
                "name": address.name,
                "type": f"{ML}/{address.kind}",
                "systemData": system,
                "properties": {**(body.get("properties") or {})},
            }
            resource["properties"].setdefault("provisioningState", "Succeeded")
            self._by_key[address.key] = resource
            return resource

    def below(self, id: str, *, deep: bool = False) -> list[Json]:
        """Return the resources directly below an id (`deep`: at any depth)."""
        prefix = id.rstrip("/").lower() + "/"
        resources = []
        with self.lock:
            for key, resource in self._by_key.items():
                direct = "/" not in key.removeprefix(prefix)
                if key.startswith(prefix) and (deep or direct):
                    resources.append(resource)
        return resources


def stamp(seconds: float | None = None) -> str:
    """Return a time as ARM writes it; now by default."""
    when = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def workspace_id(subscription: str, group: str, name: str) -> str:
    """Return the id of a workspace."""
    return f"/subscriptions/{subscription}/resourceGroups/{group}/providers/{ML}/workspaces/{name}"
