"""Key Vault secrets, each vault open to whom the table names."""

from __future__ import annotations

import threading
import time
import uuid
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from azureml_jobs.rehearsal.access import Access
from azureml_jobs.rehearsal.answers import failure
from azureml_jobs.rehearsal.tokens import TENANT, Identity, NotSignedIn, Tokens

SUFFIX: Final = "vault.azure.net"
AUDIENCE: Final = "https://vault.azure.net"
Version = dict[str, Any]


class Vaults:
    """Answers `https://<vault>.vault.azure.net/secrets...`."""

    def __init__(self, names: set[str], tokens: Tokens, access: Access) -> None:
        self.names, self._tokens, self._access = names, tokens, access
        self._secrets: dict[tuple[str, str], list[Version]] = {}
        self._lock = threading.Lock()

    async def answer(self, request: Request) -> Response | None:
        """Return the answer of a vault, or None for a request that it does not know."""
        vault = request.headers["host"].partition(".")[0]
        if vault not in self.names:
            return failure(404, "VaultNotFound", f"There is no vault {vault}.")
        try:
            identity = self._tokens.read(request.headers.get("authorization"), AUDIENCE)
        except NotSignedIn as reason:
            return _challenge(str(reason))
        action = "read" if request.method == "GET" else "write"
        touch = self._access.allows(identity.name, action, f"vault:{vault}")
        if not touch.allowed:
            return _forbidden(identity, vault, touch.role)
        parts = request.url.path.strip("/").split("/")
        body = await request.json() if request.method in ("PUT", "PATCH") else {}
        with self._lock:
            return self._act(request.method, vault, parts, body)

    def _act(self, method: str, vault: str, parts: list[str], body: Version) -> Response | None:
        if parts[0] != "secrets" or len(parts) > 3:
            return None
        name = parts[1].lower() if len(parts) > 1 else ""
        if method == "GET" and not name:
            mine = [n for v, n in self._secrets if v == vault]
            return JSONResponse(
                {"value": [self._shown(vault, n, value=False) for n in mine], "nextLink": None}
            )
        if method == "PUT":
            now = int(time.time())
            kept = {
                "version": uuid.uuid4().hex,
                "value": body["value"],
                "made": now,
                "type": body.get("contentType"),
            }
            self._secrets.setdefault((vault, name), []).append(kept)
            return JSONResponse(self._shown(vault, name))
        if (vault, name) not in self._secrets:
            return failure(
                404,
                "SecretNotFound",
                f"A secret with (name/id) {name} was not found in this key vault.",
            )
        if method == "DELETE":
            shown = self._shown(vault, name, value=False)
            del self._secrets[vault, name]
            return JSONResponse(
                {**shown, "recoveryId": f"https://{vault}.{SUFFIX}/deletedsecrets/{name}"}
            )
        return JSONResponse(self._shown(vault, name)) if method == "GET" else None

    def _shown(self, vault: str, name: str, *, value: bool = True) -> Version:
        last = self._secrets[vault, name][-1]
        place = f"https://{vault}.{SUFFIX}/secrets/{name}"
        return {
            "id": f"{place}/{last['version']}" if value else place,
            "contentType": last["type"],
            "attributes": {"enabled": True, "created": last["made"], "updated": last["made"]},
            **({"value": last["value"]} if value else {}),
        }


def _challenge(reason: str) -> Response:
    answer = failure(401, "Unauthorized", reason)
    where = f'authorization="https://login.microsoftonline.com/{TENANT}", resource="{AUDIENCE}"'
    answer.headers["WWW-Authenticate"] = f"Bearer {where}"
    return answer


def _forbidden(identity: Identity, vault: str, role: str) -> Response:
    message = (
        "Caller is not authorized to perform action on resource. If role assignments were changed recently, please"
        f" observe propagation time. Caller: name={identity.name};appid={identity.client_id};oid={identity.object_id}"
        f" Vault: {vault} Missing role: '{role}'"
    )
    return failure(403, "Forbidden", message)
