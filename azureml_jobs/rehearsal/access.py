"""The access table: which identity has which of Azure's built-in roles on which resource.

The stand-in itself enforces it. It shows whether Meadow's jobs ask only for what is theirs, and
nothing about Azure's own role assignments.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from azureml_jobs.rehearsal.request_log import AccessCheck, RequestLog

ROLES: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "Storage Blob Data Reader": ("storage", ("read",)),
    "Storage Blob Data Contributor": ("storage", ("read", "write")),
    "Key Vault Secrets User": ("vault", ("read",)),
    "Key Vault Secrets Officer": ("vault", ("read", "write")),
    "Reader": ("workspace", ("read",)),
    "AzureML Data Scientist": ("workspace", ("read", "write")),
}
"""A role's kind of resource and the actions it allows."""


@dataclass(frozen=True)
class Grant:
    """One role of one identity at one resource, as `kind:name`.

    `storage:ACCOUNT/CONTAINER` is one container; a role at `storage:ACCOUNT` holds in each of them.
    """

    identity: str
    role: str
    resource: str
    since: float = field(default=0.0, compare=False)


@dataclass
class Access:
    """The table, and the log to which every question goes.

    `delay` says how many seconds after its assignment a role holds.
    """

    request_log: RequestLog
    delay: Callable[[], float] = lambda: 0.0
    grants: list[Grant] = field(default_factory=list)

    def grant(self, identity: str, role: str, resource: str) -> None:
        """Add a role to the table.

        Raises KeyError for an unknown role and ValueError where it is for another kind of resource.
        """
        kind, _ = ROLES[role]
        if resource.partition(":")[0] != kind:
            raise ValueError(f"{role} is a role for {kind}, not for {resource}")
        since = time.monotonic() + self.delay()
        self.grants.append(Grant(identity, role, resource, since))

    def allows(self, identity: str, action: str, resource: str) -> AccessCheck:
        """Return whether an identity may `read` or `write` a resource, and log the question."""
        allowed = False
        now = time.monotonic()
        for grant in self.grants:
            above = resource.partition("/")[0]
            held = grant.identity == identity and now >= grant.since
            if held and grant.resource in (resource, above):
                _, actions = ROLES[grant.role]
                allowed = allowed or action in actions
        access = AccessCheck(identity, action, resource, allowed, role_for(action, resource))
        self.request_log.add_access(access)
        return access


def role_for(action: str, resource: str) -> str:
    """Return the least role that allows an action on a resource."""
    wanted_kind = resource.partition(":")[0]
    # A kind's roles are listed with the least one first.
    for role, (kind, actions) in ROLES.items():
        if kind == wanted_kind and action in actions:
            return role
    raise KeyError(f"no role allows {action} on {resource}")
