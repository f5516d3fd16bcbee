"""The declared table of who may touch what: built-in roles of Azure, held to by the stand-in itself.

It says whether Meadow's jobs ask only for what is theirs. It says nothing about Azure's own role assignments.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from azureml_jobs.rehearsal.request_log import RequestLog, Touch

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
    """One role of one identity at one resource, as `kind:name`."""

    identity: str
    role: str
    resource: str


@dataclass
class Access:
    """The table, and the log in which every question is noted."""

    request_log: RequestLog
    grants: list[Grant] = field(default_factory=list)

    def grant(self, identity: str, role: str, resource: str) -> None:
        """Declare a role; raises KeyError for an unknown one and ValueError where it is for another kind."""
        if resource.partition(":")[0] != ROLES[role][0]:
            raise ValueError(f"{role} is a role for {ROLES[role][0]}, not for {resource}")
        self.grants.append(Grant(identity, role, resource))

    def allows(self, identity: str, action: str, resource: str) -> Touch:
        """Return whether an identity may `read` or `write` a resource, and note the question."""
        held = [
            grant.role
            for grant in self.grants
            if (grant.identity, grant.resource) == (identity, resource)
        ]
        allowed = any(action in ROLES[role][1] for role in held)
        touch = Touch(identity, action, resource, allowed, role_for(action, resource))
        self.request_log.touched(touch)
        return touch


def role_for(action: str, resource: str) -> str:
    """Return the least role that allows an action at a resource."""
    kind = resource.partition(":")[0]
    return next(role for role, (of, actions) in ROLES.items() if of == kind and action in actions)
