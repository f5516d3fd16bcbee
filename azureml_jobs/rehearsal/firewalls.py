"""Vaults and storage accounts that are closed to the public network.

Every request comes from this machine, so who asks stands for where it is asked from: `inside` are
the identities whose requests come through a private endpoint, usually the silo's own compute.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from starlette.responses import Response

from azureml_jobs.rehearsal.answers import storage_failure
from azureml_jobs.rehearsal.tokens import Identity


@dataclass
class Firewalls:
    """The closed resources, `vault:NAME` or `storage:ACCOUNT`, and who is inside."""

    _inside: dict[str, frozenset[str]] = field(default_factory=dict)

    def close(self, resource: str, inside: Iterable[str] = ()) -> None:
        """Close a resource to everybody who is not inside."""
        self._inside[resource] = frozenset(inside)

    def open(self, resource: str) -> None:
        """Open a resource to the public network again."""
        self._inside.pop(resource, None)

    def stops(self, identity: str, resource: str) -> bool:
        """Return whether a request of the identity of that name does not reach the resource."""
        inside = self._inside.get(resource)
        return inside is not None and identity not in inside


def vault_closed(identity: Identity, vault: str) -> tuple[str, str]:
    """Return a closed vault's message and its inner code."""
    caller = f"appid={identity.client_id};oid={identity.object_id}"
    message = (
        "Public network access is disabled and request is not from a trusted service nor via an"
        f" approved private link.\r\nCaller: {caller}\r\nVault: {vault};location=loopback"
    )
    return message, "ForbiddenByConnection"


def storage_closed() -> Response:
    """Return the answer of an account behind a firewall."""
    message = "This request is not authorized to perform this operation."
    return storage_failure(403, "AuthorizationFailure", message)
