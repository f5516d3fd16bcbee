"""How a job gets a token on its node: as its compute's identity, or on its submitter's behalf.

As on Azure, what a job has to say differs by where it runs:

    a cluster               the client id of the identity, which DEFAULT_IDENTITY_CLIENT_ID holds.
                            Without it the endpoint has no token to give (Azure/azure-sdk-for-python
                            issues 30427, 31071 and 36047).
    Kubernetes              nothing: the pod has one identity.
    identity: user          another endpoint, for the submitter's own token, on clusters alone
                            (azure.ai.ml.identity.AzureMLOnBehalfOfCredential); the compute's
                            identity is not there for such a job.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from azureml_jobs.rehearsal.answers import failure
from azureml_jobs.rehearsal.demands import Demands
from azureml_jobs.rehearsal.tokens import Identity, Tokens


@dataclass(frozen=True)
class _Attached:
    """An identity as one job's node offers it."""

    identity: Identity
    client_id_needed: bool
    on_behalf: bool


@dataclass
class NodeIdentities:
    """The endpoints of all nodes, on one port; `address` is `http://127.0.0.1:PORT`.

    Each job has a secret of its own, which is worth nothing once the job has ended.
    """

    tokens: Tokens
    demands: Demands
    address: str = ""
    _attached: dict[str, _Attached] = field(default_factory=dict)

    def of_compute(self, identity: Identity, *, kubernetes: bool) -> dict[str, str]:
        """Return the variables by which a job acts as its compute's identity."""
        needed = self.demands.client_id and not kubernetes
        secret = self._attach(_Attached(identity, needed, on_behalf=False))
        variables = {"MSI_ENDPOINT": f"{self.address}/identity", "MSI_SECRET": secret}
        if not kubernetes:
            variables["DEFAULT_IDENTITY_CLIENT_ID"] = identity.client_id
        return variables

    def of_submitter(self, identity: Identity, *, kubernetes: bool) -> dict[str, str]:
        """Return the variables by which a job acts on its submitter's behalf."""
        if kubernetes:
            return {}
        secret = self._attach(_Attached(identity, client_id_needed=False, on_behalf=True))
        return {
            "OBO_ENDPOINT": f"{self.address}/obo/{secret}",
            "AZUREML_OBO_ENABLED": "True",
        }

    def detach(self, variables: dict[str, str]) -> None:
        """Forget what a job's variables opened."""
        secret = variables.get("MSI_SECRET") or variables.get("OBO_ENDPOINT", "").rpartition("/")[2]
        self._attached.pop(secret, None)

    async def managed(self, request: Request) -> Response:
        """Return a token for the identity of a job's compute."""
        secret = request.headers.get("secret") or request.headers.get("x-identity-header") or ""
        found = self._attached.get(secret)
        if found is None or found.on_behalf:
            return failure(401, "Unauthorized", "There is no identity with that secret.")
        client_id = request.query_params.get("clientid")
        if client_id is None and found.client_id_needed:
            # The endpoint says nothing more: azure-identity makes of it "No token received".
            return JSONResponse({}, 400)
        if client_id not in (None, found.identity.client_id):
            message = "No User Assigned identity with that client id is attached."
            return failure(400, "IdentityNotFound", message)
        return self._issued(found.identity, request.query_params.get("resource", ""))

    async def on_behalf(self, request: Request) -> Response:
        """Return a token of whoever submitted the job."""
        found = self._attached.get(request.path_params["secret"])
        if found is None or not found.on_behalf:
            return failure(401, "Unauthorized", "Nobody's job is here.")
        return self._issued(found.identity, request.query_params.get("resource", ""))

    def _attach(self, attached: _Attached) -> str:
        secret = secrets.token_urlsafe(24)
        self._attached[secret] = attached
        return secret

    def _issued(self, identity: Identity, resource: str) -> Response:
        expires = int(time.time() + self.tokens.life)
        return JSONResponse(
            {
                "access_token": self.tokens.issue(identity, resource),
                "expires_on": str(expires),
                "resource": resource,
                "token_type": "Bearer",
                "client_id": identity.client_id,
            }
        )
