"""The resources that Azure Resource Manager would hold: plain JSON by id, whatever its upper and lower case."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

Json = dict[str, Any]
ML: Final = "Microsoft.MachineLearningServices"


@dataclass(frozen=True)
class Address:
    """A resource's id in its parts: `/subscriptions/S/resourceGroups/G/providers/P/type/name/type/name[/trailing]`."""

    id: str

    @property
    def key(self) -> str:
        """Return the id for comparisons."""
        return self.id.lower()

    @property
    def _tail(self) -> list[str]:
        parts = self.id.strip("/").split("/")
        return parts[6:] if len(parts) > 6 and parts[4].lower() == "providers" else []

    @property
    def kind(self) -> str:
        """Return the types in order, such as `workspaces/jobs`; a trailing collection or action is left out."""
        return "/".join(self._tail[0 : 2 * (len(self._tail) // 2) : 2]).lower()

    @property
    def name(self) -> str:
        """Return the last name, or the last part where the id has none."""
        return self.id.rstrip("/").rpartition("/")[2]

    @property
    def trailing(self) -> str:
        """Return the part after the last name: a collection (GET) or an action (POST); empty where there is none."""
        return self._tail[-1].lower() if len(self._tail) % 2 else ""

    @property
    def owner(self) -> Address:
        """Return the resource that a collection or action belongs to; the resource itself where none trails."""
        return Address(self.id.rstrip("/").rpartition("/")[0]) if self.trailing else self

    @property
    def workspace(self) -> Address:
        """Return the workspace in which the resource lies."""
        return Address("/" + "/".join(self.id.strip("/").split("/")[:8]))


@dataclass
class Resources:
    """All resources of one rehearsal; hold `lock` while a resource is changed."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    _kept: dict[str, Json] = field(default_factory=dict)

    def get(self, id: str) -> Json | None:
        """Return a resource, or None."""
        with self.lock:
            return self._kept.get(id.rstrip("/").lower())

    def put(self, id: str, body: Json) -> Json:
        """Keep a resource under its id with what ARM adds to every one, and return it."""
        address = Address(id.rstrip("/"))
        with self.lock:
            old = self._kept.get(address.key)
            made = {"createdAt": stamp(), "createdBy": "rehearsal", "createdByType": "User"}
            kept = {
                **body,
                "id": address.id,
                "name": address.name,
                "type": f"{ML}/{address.kind}",
                "systemData": old["systemData"] if old else made,
                "properties": {**(body.get("properties") or {})},
            }
            kept["properties"].setdefault("provisioningState", "Succeeded")
            self._kept[address.key] = kept
            return kept

    def below(self, id: str, *, deep: bool = False) -> list[Json]:
        """Return the resources directly below an id (`deep`: at any depth)."""
        start = id.rstrip("/").lower() + "/"
        with self.lock:
            return [
                kept
                for key, kept in self._kept.items()
                if key.startswith(start) and (deep or "/" not in key.removeprefix(start))
            ]


def stamp(seconds: float | None = None) -> str:
    """Return a time as ARM writes it; now by default."""
    when = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def workspace_id(subscription: str, group: str, name: str) -> str:
    """Return the id of a workspace."""
    return f"/subscriptions/{subscription}/resourceGroups/{group}/providers/{ML}/workspaces/{name}"
