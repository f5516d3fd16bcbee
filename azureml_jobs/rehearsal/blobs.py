"""Blob storage: Azurite, behind the access table.

A request that is signed with an account's key or a shared access signature goes to Azurite as it
is. One with a bearer token is first checked against the table and then signed for Azurite, which
by itself would accept any token.
"""

from __future__ import annotations

import base64
import secrets
import sys
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from typing import Any, Final

import httpx
from azure.core.exceptions import ResourceExistsError
from azure.storage.blob import (
    AccountSasPermissions,
    BlobServiceClient,
    ContainerClient,
    ContainerSasPermissions,
    ResourceTypes,
    generate_account_sas,
    generate_container_sas,
)
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from azureml_jobs.rehearsal.access import Access
from azureml_jobs.rehearsal.answers import storage_failure
from azureml_jobs.rehearsal.firewalls import Firewalls, storage_closed
from azureml_jobs.rehearsal.tenants import Tenants, wrong_storage_issuer
from azureml_jobs.rehearsal.tokens import NotSignedIn, Tokens

SUFFIX: Final = "blob.core.windows.net"
AUDIENCE: Final = "https://storage.azure.com"
LIFE: Final = timedelta(hours=12)
SIGNED_SECONDS: Final = 3600.0
_HOP: Final = {"connection", "transfer-encoding", "keep-alive", "date", "server"}


@dataclass
class Accounts:
    """The storage accounts of a rehearsal, each with a key of its own; `port` is Azurite's."""

    names: Iterable[str]
    port: int = 0
    keys: dict[str, str] = field(default_factory=dict)
    _signatures: dict[str, tuple[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.names:
            self.keys[name] = base64.b64encode(secrets.token_bytes(64)).decode()

    def container(self, account: str, name: str) -> ContainerClient:
        """Return a container, made where it was missing, without proxy and access table.

        It is for the stand-in's own use.
        """
        url = f"http://127.0.0.1:{self.port}/{account}"
        credential = {"account_name": account, "account_key": self.keys[account]}
        service = BlobServiceClient(url, credential=credential)
        container = service.get_container_client(name)
        with suppress(ResourceExistsError):
            container.create_container()
        return container

    def signed_url(self, account: str, container: str) -> str:
        """Return a container's address with a signature to read, list and write, for clients."""
        allowed = ContainerSasPermissions(read=True, list=True, write=True, create=True, add=True)
        signature = generate_container_sas(
            account, container, self.keys[account], permission=allowed, **_validity()
        )
        return f"https://{account}.{SUFFIX}/{container}?{signature}"

    def account_signature(self, account: str) -> str:
        """Return a signature for everything in an account, which never leaves the stand-in.

        One lasts for all requests of an hour: a job's code alone is five hundred.
        """
        made = self._signatures.get(account)
        if made is None or time.monotonic() - made[1] > SIGNED_SECONDS:
            made = self._signatures[account] = (self._signed(account), time.monotonic())
        return made[0]

    def _signed(self, account: str) -> str:
        allowed = AccountSasPermissions(
            read=True,
            write=True,
            delete=True,
            list=True,
            add=True,
            create=True,
            update=True,
            process=True,
            tag=True,
        )
        types = ResourceTypes(service=True, container=True, object=True)
        return generate_account_sas(account, self.keys[account], types, allowed, **_validity())


class BlobGate:
    """Passes requests for `<account>.blob.core.windows.net` on to Azurite."""

    def __init__(
        self,
        accounts: Accounts,
        tokens: Tokens,
        access: Access,
        tenants: Tenants,
        firewalls: Firewalls,
    ) -> None:
        self._accounts = accounts
        self._tokens = tokens
        self._access = access
        self._tenants = tenants
        self._firewalls = firewalls
        self._client: httpx.AsyncClient

    @asynccontextmanager
    async def open(self, app: object) -> AsyncIterator[None]:
        """Keep connections to Azurite while the server runs."""
        if find_spec("sniffio") is None:
            # httpx looks for it several times in each request, which took a fifth of this process.
            sys.modules["sniffio"] = None  # type: ignore[assignment]  # so an import fails at once
        async with httpx.AsyncClient(trust_env=False, timeout=300) as self._client:
            yield

    async def answer(self, request: Request) -> Response:
        """Return Azurite's answer, or a refusal."""
        account = request.headers["host"].partition(".")[0]
        if account not in self._accounts.keys:
            message = f"There is no storage account {account}."
            return storage_failure(404, "ResourceNotFound", message)
        query: bytes = request.scope["query_string"]
        headers = dict(request.headers)
        if headers.get("authorization", "").startswith("Bearer"):
            refusal = self._refusal(request, account)
            if refusal is not None:
                return refusal
            del headers["authorization"]
            signature = self._accounts.account_signature(account).encode()
            query = query + b"&" + signature if query else signature
        return await self._forward(request, headers, query)

    def _refusal(self, request: Request, account: str) -> Response | None:
        try:
            identity = self._tokens.read(
                request.headers["authorization"], AUDIENCE, f"https://{account}.{SUFFIX}"
            )
        except NotSignedIn as reason:
            return storage_failure(401, "InvalidAuthenticationInfo", str(reason))
        tenant = self._tenants.of(f"storage:{account}")
        if identity.tenant != tenant:
            return wrong_storage_issuer(tenant)
        if self._firewalls.stops(identity.name, f"storage:{account}"):
            return storage_closed()
        action = "read" if request.method in ("GET", "HEAD") else "write"
        container = request.url.path.strip("/").partition("/")[0]
        resource = f"{account}/{container}" if container else account
        access = self._access.allows(identity.name, action, f"storage:{resource}")
        if access.allowed:
            return None
        message = (
            f"This request is not authorized: {identity.name} may not {action} the storage"
            f" {resource}; it lacks the role '{access.role}'."
        )
        return storage_failure(403, "AuthorizationPermissionMismatch", message)

    async def _forward(self, request: Request, headers: dict[str, str], query: bytes) -> Response:
        # The raw path: its percent-encoding is part of what a client signed.
        path = request.scope["raw_path"].partition(b"?")[0]
        if query:
            path += b"?" + query
        url = httpx.URL(scheme="http", host="127.0.0.1", port=self._accounts.port, raw_path=path)
        forwarded = self._client.build_request(
            request.method, url, headers=headers, content=await request.body()
        )
        answer = await self._client.send(forwarded, stream=True)
        kept_headers = {name: value for name, value in answer.headers.items() if name not in _HOP}
        return StreamingResponse(
            _raw(answer), answer.status_code, kept_headers, background=BackgroundTask(answer.aclose)
        )


async def _raw(answer: httpx.Response) -> AsyncIterator[bytes]:
    async for part in answer.aiter_raw():
        yield part


def _validity() -> dict[str, Any]:
    now = datetime.now(UTC)
    return {"start": now - timedelta(minutes=5), "expiry": now + LIFE}
