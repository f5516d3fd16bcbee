"""Which tenant each subscription, vault and storage account belongs to, and how a stranger is told.

A token is of one tenant. A resource of another one refuses it before it looks at any role, each
service in its own words: they are those of published error reports, not of documentation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from starlette.responses import JSONResponse, Response

from azureml_jobs.rehearsal.answers import failure, storage_failure
from azureml_jobs.rehearsal.tokens import LOGIN, TENANT, Identity

_STORAGE: Final = "https://storage.azure.com"


@dataclass
class Tenants:
    """Tenants by resource: `subscription:ID`, `vault:NAME`, `storage:ACCOUNT`.

    What nobody declared belongs to `TENANT`.
    """

    _by_resource: dict[str, str] = field(default_factory=dict)

    def put(self, resource: str, tenant: str) -> None:
        """Declare a resource's tenant."""
        self._by_resource[resource.lower()] = tenant

    def of(self, resource: str) -> str:
        """Return a resource's tenant."""
        return self._by_resource.get(resource.lower(), TENANT)

    def of_path(self, path: str) -> str:
        """Return the tenant of the subscription in an ARM path, `TENANT` where it has none."""
        parts = path.lower().split("/")
        at = parts.index("subscriptions") + 1 if "subscriptions" in parts else len(parts)
        return self.of(f"subscription:{parts[at]}") if at < len(parts) else TENANT


def wrong_issuer(identity: Identity, tenant: str) -> JSONResponse:
    """Return ARM's refusal of another tenant's token, with the authority to ask instead."""
    message = (
        f"The access token is from the wrong issuer '{issuer(identity.tenant)}'. It must match the"
        f" tenant '{issuer(tenant)}' associated with this subscription. Please use the authority"
        f" (URL) 'https://login.windows.net/{tenant}' to get the token. Note, if the subscription"
        " is transferred to another tenant there is no impact to the services, but information"
        " about new tenant could take time to propagate (up to an hour). If you just transferred"
        " your subscription and see this error message, please try back later."
    )
    answer = failure(401, "InvalidAuthenticationTokenTenant", message)
    challenge = f'Bearer authorization_uri="https://login.windows.net/{tenant}"'
    answer.headers["WWW-Authenticate"] = (
        f'{challenge}, error="invalid_token", error_description="{message}"'
    )
    return answer


def wrong_vault_issuer(identity: Identity, tenant: str) -> str:
    """Return a vault's reason for refusing another tenant's token."""
    return (
        f"AKV10032: Invalid issuer. Expected one of {issuer(tenant)}, found"
        f" {issuer(identity.tenant)}."
    )


def wrong_storage_issuer(tenant: str) -> Response:
    """Return blob storage's refusal of another tenant's token."""
    answer = storage_failure(
        401, "InvalidAuthenticationInfo", "Issuer validation failed. Issuer did not match."
    )
    authority = f"https://{LOGIN}/{tenant}/oauth2/authorize"
    answer.headers["WWW-Authenticate"] = (
        f"Bearer authorization_uri={authority} resource_id={_STORAGE}"
    )
    return answer


def issuer(tenant: str) -> str:
    """Return who issues the tokens of a tenant."""
    return f"https://sts.windows.net/{tenant}/"
