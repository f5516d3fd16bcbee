"""Key Vault secrets; the access table says who may use each vault."""

from __future__ import annotations

import threading
import time
import uuid
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from azureml_jobs.rehearsal.access import Access
from azureml_jobs.rehearsal.answers import failure
from azureml_jobs.rehearsal.firewalls import Firewalls, vault_closed
from azureml_jobs.rehearsal.tenants import Tenants, wrong_vault_issuer
from azureml_jobs.rehearsal.tokens import LOGIN, Identity, NotSignedIn, Tokens

SUFFIX: Final = "vault.azure.net"
AUDIENCE: Final = "https://vault.azure.net"
Version = dict[str, Any]


class Vaults:
    """Answers `https://<vault>.vault.azure.net/secrets...`."""

    def __init__(
        self,
        names: set[str],
        tokens: Tokens,
        access: Access,
        tenants: Tenants,
        firewalls: Firewalls,
    ) -> None:
        self.names = names
        self._tokens = tokens
        self._access = access
        self._tenants = tenants
        self._firewalls = firewalls
        self._secrets: dict[tuple[str, str], list[Version]] = {}
        self._lock = threading.Lock()

    async def answer(self, request: Request) -> Response | None:
        """Return the answer of a vault, or None for a request that it does not know."""
        vault = request.headers["host"].partition(".")[0]
        if vault not in self.names:
            return failure(404, "VaultNotFound", f"There is no vault {vault}.")
        tenant = self._tenants.of(f"vault:{vault}")
        try:
            identity = self._tokens.read(request.headers.get("authorization"), AUDIENCE)
        except NotSignedIn as reason:
            return _challenge(tenant, str(reason))
        if identity.tenant != tenant:
            return _challenge(tenant, wrong_vault_issuer(identity, tenant))
        if self._firewalls.stops(identity.name, f"vault:{vault}"):
            return _closed(identity, vault)
        action = "read" if request.method == "GET" else "write"
        access = self._access.allows(identity.name, action, f"vault:{vault}")
        if not access.allowed:
            return _forbidden(identity, vault, access.role)
        parts = request.url.path.strip("/").split("/")
        body = await request.json() if request.method in ("PUT", "PATCH") else {}
        with self._lock:
            return self._act(request.method, vault, parts, body)

    def _act(self, method: str, vault: str, parts: list[str], body: Version) -> Response | None:
        if parts[0] != "secrets" or len(parts) > 3:
            return None
        name = parts[1].lower() if len(parts) > 1 else ""
        if method == "GET" and not name:
            return self._list(vault)
        if method == "PUT":
            return self._set(vault, name, body)
        if (vault, name) not in self._secrets:
            message = f"A secret with (name/id) {name} was not found in this key vault."
            return failure(404, "SecretNotFound", message)
        if method == "DELETE":
            answer = self._metadata(vault, name)
            answer["recoveryId"] = f"https://{vault}.{SUFFIX}/deletedsecrets/{name}"
            del self._secrets[vault, name]
            return JSONResponse(answer)
        if method == "GET":
            return JSONResponse(self._with_value(vault, name))
        return None

    def _list(self, vault: str) -> Response:
        answers = [self._metadata(owner, name) for owner, name in self._secrets if owner == vault]
        return JSONResponse({"value": answers, "nextLink": None})

    def _set(self, vault: str, name: str, body: Version) -> Response:
        version = {
            "version": uuid.uuid4().hex,
            "value": body["value"],
            "created": int(time.time()),
            "type": body.get("contentType"),
        }
        self._secrets.setdefault((vault, name), []).append(version)
        return JSONResponse(self._with_value(vault, name))

    def _metadata(self, vault: str, name: str) -> Version:
        latest = self._secrets[vault, name][-1]
        created = latest["created"]
        return {
            "id": f"https://{vault}.{SUFFIX}/secrets/{name}",
            "contentType": latest["type"],
            "attributes": {"enabled": True, "created": created, "updated": created},
        }

    def _with_value(self, vault: str, name: str) -> Version:
        latest = self._secrets[vault, name][-1]
        answer = self._metadata(vault, name)
        answer["id"] = f"{answer['id']}/{latest['version']}"
        answer["value"] = latest["value"]
        return answer


def _challenge(tenant: str, reason: str) -> Response:
    answer = failure(401, "Unauthorized", reason)
    where = f'authorization="https://{LOGIN}/{tenant}", resource="{AUDIENCE}"'
    answer.headers["WWW-Authenticate"] = f"Bearer {where}"
    return answer


def _closed(identity: Identity, vault: str) -> Response:
    message, inner = vault_closed(identity, vault)
    error = {"code": "Forbidden", "message": message, "innererror": {"code": inner}}
    return JSONResponse({"error": error}, 403)


def _forbidden(identity: Identity, vault: str, role: str) -> Response:
    caller = f"name={identity.name};appid={identity.client_id};oid={identity.object_id}"
    message = (
        "Caller is not authorized to perform action on resource. If role assignments were changed"
        f" recently, please observe propagation time. Caller: {caller} Vault: {vault}"
        f" Missing role: '{role}'"
    )
    error = {"code": "Forbidden", "message": message, "innererror": {"code": "ForbiddenByRbac"}}
    return JSONResponse({"error": error}, 403)
