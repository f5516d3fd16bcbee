"""Answers of Azure's services to calls that fail, in the form of Microsoft's own documentation.

Sources: Key Vault REST API error codes; Blob service error codes; Resource Manager: common
deployment errors, throttling; Azure ML: troubleshooting of computes and of image builds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

TENANT = "72f988bf-86f1-41af-91ab-2d7cd011db47"
OTHER = "33e01921-4d64-4f8c-a055-5bdaffd5e33d"


@dataclass(frozen=True)
class Body:
    """One answer: what came, which code of ours it means, and words that a person must be told."""

    name: str
    status: int
    body: Any
    means: str
    told: tuple[str, ...] = ()
    headers: dict[str, str] = field(default_factory=dict)


def _error(code: str, message: str, inner: str = "") -> dict[str, Any]:
    error: dict[str, Any] = {"code": code, "message": message}
    if inner:
        error["innererror"] = {"code": inner}
    return {"error": error}


def _storage(name: str, status: int, code: str, message: str, means: str, *told: str) -> Body:
    xml = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return Body(name, status, xml, means, told, {"x-ms-error-code": code})


BODIES = [
    Body(
        "arm, a token of another tenant",
        401,
        _error(
            "InvalidAuthenticationTokenTenant",
            "The access token is from the wrong issuer "
            f"'https://sts.windows.net/{OTHER}/'. It must match the tenant "
            f"'https://sts.windows.net/{TENANT}/' associated with this subscription. Please use "
            f"the authority (URL) 'https://login.windows.net/{TENANT}' to get the token.",
        ),
        "MDW-804",
        ("az login", f"az login --tenant {TENANT}"),
    ),
    Body(
        "a vault, a token of another tenant",
        401,
        _error(
            "Unauthorized",
            "AKV10032: Invalid issuer. Expected one of "
            f"https://sts.windows.net/{TENANT}/, found https://sts.windows.net/{OTHER}/.",
        ),
        "MDW-804",
        ("az login", f"az login --tenant {TENANT}"),
        {
            "WWW-Authenticate": f'Bearer authorization="https://login.windows.net/{TENANT}", '
            'resource="https://vault.azure.net"'
        },
    ),
    Body(
        "arm, an expired token",
        401,
        _error("ExpiredAuthenticationToken", "The access token expiry UTC time is earlier."),
        "MDW-803",
        ("az login",),
    ),
    Body(
        "arm, no token",
        401,
        _error(
            "AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing."
        ),
        "MDW-803",
        ("az login",),
    ),
    Body(
        "arm, no role",
        403,
        _error(
            "AuthorizationFailed",
            "The client 'live.com#a@example.org' with object id 'aaaa' does not have authorization "
            "to perform action 'Microsoft.MachineLearningServices/workspaces/jobs/write' over "
            "scope '/subscriptions/s/resourceGroups/fl/providers/Microsoft."
            "MachineLearningServices/workspaces/north' or the scope is invalid. If access was "
            "recently granted, please refresh your credentials.",
        ),
        "MDW-801",
        ("Grant that identity", "workspaces/north, and wait some minutes"),
    ),
    Body(
        "arm, may not join a subnet",
        403,
        _error(
            "LinkedAuthorizationFailed",
            "The client has permission to perform action 'Microsoft.MachineLearningServices/"
            "workspaces/computes/write' on scope '/x'; however, it does not have permission to "
            "perform action 'Microsoft.Network/virtualNetworks/subnets/join/action' on the linked "
            "scope(s) '/subscriptions/s/resourceGroups/net/providers/Microsoft.Network/"
            "virtualNetworks/fl/subnets/server' or the linked scope(s) are invalid.",
        ),
        "MDW-801",
        ("Grant that identity", "Network Contributor", "subnets/server, and wait"),
    ),
    Body(
        "a vault, no role",
        403,
        _error(
            "Forbidden",
            "Caller is not authorized to perform action on resource. If role assignments, deny "
            "assignments or role definitions were changed recently, please observe propagation "
            "time.\r\nCaller: appid=a;oid=b\r\nAction: 'Microsoft.KeyVault/vaults/secrets/"
            "getSecret/action'",
            "ForbiddenByRbac",
        ),
        "MDW-801",
        ("Grant that identity", "Key Vault Secrets User"),
    ),
    Body(
        "a vault's firewall",
        403,
        _error(
            "Forbidden",
            "Client address is not authorized and caller is not a trusted service.\r\n"
            "Client address: 203.0.113.7",
            "ForbiddenByFirewall",
        ),
        "MDW-806",
        ("firewall", "203.0.113.7", "No role helps"),
    ),
    Body(
        "a vault without a public way in",
        403,
        _error(
            "Forbidden",
            "Public network access is disabled and request is not from a trusted service nor via "
            "an approved private link.",
            "ForbiddenByConnection",
        ),
        "MDW-806",
        ("firewall", "No role helps"),
    ),
    _storage(
        "storage, no role",
        403,
        "AuthorizationPermissionMismatch",
        "This request is not authorized to perform this operation using this permission.",
        "MDW-801",
        "Grant that identity",
    ),
    _storage(
        "storage's firewall",
        403,
        "AuthorizationFailure",
        "This request is not authorized to perform this operation.",
        "MDW-806",
        "No role helps",
    ),
    _storage(
        "storage without shared keys",
        403,
        "KeyBasedAuthenticationNotPermitted",
        "Key based authentication is not permitted on this storage account.",
        "MDW-822",
        "Storage Blob Data Contributor",
    ),
    _storage(
        "storage, too busy",
        503,
        "ServerBusy",
        "The server is busy.",
        "MDW-805",
    ),
    _storage(
        "storage, a token of another tenant",
        401,
        "InvalidAuthenticationInfo",
        "Server failed to authenticate the request. Issuer validation failed. Issuer did not match.",
        "MDW-804",
        "az login",
    ),
    Body(
        "arm, throttled",
        429,
        _error(
            "SubscriptionRequestsThrottled",
            "Number of requests for subscription 's' and operation 'GET/' exceeded the backend "
            "storage limit. Please try again after '17' seconds.",
        ),
        "MDW-805",
        ("17 s, as it says",),
        {"Retry-After": "17"},
    ),
    Body(
        "a vault, throttled",
        429,
        _error("Throttled", "Request was not processed because too many requests were received."),
        "MDW-805",
    ),
    Body(
        "azure ml, no quota for the size",
        400,
        _error(
            "ClusterCoreQuotaReached",
            "Operation results in exceeding quota limits of Standard NCASv3_T4 Family Cluster "
            "Dedicated vCPUs. Maximum allowed: 0, Current in use: 0, Additional requested: 4.",
        ),
        "MDW-807",
        ("Maximum allowed: 0", "Quotas"),
    ),
    Body(
        "arm, quota",
        409,
        _error(
            "OperationNotAllowed",
            "Operation could not be completed as it results in exceeding approved standardNCSv3"
            "Family Cores quota.",
        ),
        "MDW-807",
    ),
    Body(
        "azure ml, a compute that is not ready",
        400,
        _error(
            "UserError", "The specified compute target 'gpu-north' is in an invalid state: Failed."
        ),
        "MDW-808",
        ("gpu-north", "az ml compute show"),
    ),
    Body(
        "arm, a provider that is not registered",
        409,
        _error(
            "MissingSubscriptionRegistration",
            "The subscription is not registered to use namespace 'Microsoft.KeyVault'. See "
            "https://aka.ms/rps-not-found for how to register subscriptions.",
        ),
        "MDW-818",
        ("az provider register --namespace Microsoft.KeyVault",),
    ),
    Body(
        "arm, a policy",
        403,
        _error(
            "RequestDisallowedByPolicy",
            "Resource 'kv-north' was disallowed by policy. Policy identifiers: '[{...}]'.",
        ),
        "MDW-819",
    ),
    Body(
        "arm, a subscription that this sign-in does not see",
        404,
        _error("SubscriptionNotFound", "The subscription 's' could not be found."),
        "MDW-820",
        ("az login", "--tenant"),
    ),
    Body(
        "arm, no such workspace",
        404,
        _error("ResourceNotFound", "The Resource '.../workspaces/nroth' was not found."),
        "MDW-802",
        ("nroth",),
    ),
    Body(
        "arm, being changed",
        409,
        _error("Conflict", "Another operation is in progress on the selected item."),
        "MDW-817",
    ),
    Body(
        "azure ml, wrong field",
        400,
        _error("UserError", "The command binds inputs.data, which the job does not have."),
        "MDW-816",
        ("inputs.data",),
    ),
    Body("a service that fails", 502, "<html>Bad Gateway</html>", "MDW-809"),
]


class Response:
    """What azure-core's errors read of an HTTP answer."""

    def __init__(self, body: Body) -> None:
        self.status_code = body.status
        self.reason = "said"
        self.headers = body.headers
        self.request = None
        self._text = body.body if isinstance(body.body, str) else json.dumps(body.body)
        self.content_type = "application/json"

    def text(self, encoding: str | None = None) -> str:
        return self._text

    def body(self) -> bytes:
        return self._text.encode()


def raised(body: Body) -> Exception:
    """Return the error that Azure's client for Python makes of an answer."""
    from azure.core.exceptions import (
        ClientAuthenticationError,
        HttpResponseError,
        ODataV4Format,
        ResourceNotFoundError,
    )

    kinds = {401: ClientAuthenticationError, 404: ResourceNotFoundError}
    response: Any = Response(body)
    error = kinds.get(body.status, HttpResponseError)(
        None if not isinstance(body.body, str) else body.body, response=response
    )
    if not isinstance(body.body, str):
        error.error = ODataV4Format(body.body["error"])
    return error
