"""Who takes part in a rehearsal: what is theirs, and what the federation's file says of it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Final

from azureml_jobs.rehearsal.tokens import TENANT

INSTANCE_TYPE: Final = "gpu-small"
GROUP: Final = "meadow"


@dataclass(frozen=True)
class Owner:
    """The owner of a silo, with a subscription of their own; perhaps in a tenant of their own.

    `kubernetes`: the silo's compute is an attached Kubernetes. `by_user`: its job acts as whoever
    submitted it (`identity: user`). `low_priority`: its nodes may be taken away. `proxied`: what
    leaves its network goes through a proxy that asks for a password.
    """

    silo: str
    tenant: str = TENANT
    kubernetes: bool = False
    by_user: bool = False
    low_priority: bool = False
    proxied: bool = False

    @property
    def name(self) -> str:
        """Return the identity of the owner."""
        return f"owner of {self.silo}"

    @property
    def subscription(self) -> str:
        """Return the id of the owner's subscription."""
        return subscription_of(self.silo)

    @property
    def compute(self) -> str:
        """Return the name of the silo's compute."""
        return f"gpu-{self.silo}"

    @property
    def admission(self) -> str:
        """Return the file of the silo's admission, which reaches another tenant by hand."""
        return f"admission-{self.silo}.pem"

    @property
    def entry(self) -> list[str]:
        """Return the silo's lines of the federation's file."""
        lines = [
            f"  {self.silo}:",
            f"    workspace: {workspace_entry(self.silo)}",
            f"    compute: {self.compute}",
            f"    key_vault: kv-{self.silo}",
        ]
        if self.kubernetes:
            lines.append(f"    instance_type: {INSTANCE_TYPE}")
        if self.tenant != TENANT:
            lines.append(f"    admission: {self.admission}")
        if self.by_user:
            lines.append("    identity: user")
        return lines


def subscription_of(workspace: str) -> str:
    """Return the id of the subscription in which a workspace is: each has one of its own."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"subscription:{workspace}"))


def workspace_entry(workspace: str) -> str:
    """Return a workspace as the federation's file names it."""
    where = f"subscription_id: {subscription_of(workspace)}, resource_group: {GROUP}"
    return f"{{{where}, name: {workspace}}}"
