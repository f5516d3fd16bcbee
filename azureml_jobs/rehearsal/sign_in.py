"""Issues tokens: login.microsoftonline.com for people and services, an endpoint for jobs."""

from __future__ import annotations

import time
from typing import Final
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from azureml_jobs.rehearsal.answers import failure
from azureml_jobs.rehearsal.tokens import TENANT, Identity, NotSignedIn, Tokens

HOST: Final = "login.microsoftonline.com"
_SIGN_IN: Final = f"https://{HOST}/{TENANT}"


class SignIn:
    """Answers azure-identity: MSAL's discovery, client secrets, and managed identities in jobs."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    async def answer(self, request: Request) -> Response | None:
        """Return the answer of login.microsoftonline.com; None for an unknown request."""
        path = request.url.path
        if request.method == "GET" and path.endswith("/v2.0/.well-known/openid-configuration"):
            return JSONResponse(
                {
                    "token_endpoint": f"{_SIGN_IN}/oauth2/v2.0/token",
                    "authorization_endpoint": f"{_SIGN_IN}/oauth2/v2.0/authorize",
                    "device_authorization_endpoint": f"{_SIGN_IN}/oauth2/v2.0/devicecode",
                    "issuer": f"{_SIGN_IN}/v2.0",
                }
            )
        if request.method == "GET" and path == "/common/discovery/instance":
            return JSONResponse(
                {
                    "tenant_discovery_endpoint": f"{_SIGN_IN}/v2.0/.well-known/openid-configuration",
                    "api-version": "1.1",
                    "metadata": [
                        {"preferred_network": HOST, "preferred_cache": HOST, "aliases": [HOST]}
                    ],
                }
            )
        if request.method == "POST" and path.endswith("/oauth2/v2.0/token"):
            return self._client_secret(parse_qs((await request.body()).decode()))
        return None

    def _client_secret(self, form: dict[str, list[str]]) -> Response:
        try:
            identity = self._tokens.sign_in(form["client_id"][0], form["client_secret"][0])
            audience = form["scope"][0].split()[0].removesuffix("/.default")
        except (NotSignedIn, KeyError) as reason:
            return JSONResponse({"error": "invalid_client", "error_description": str(reason)}, 401)
        token = self._tokens.issue(identity, audience)
        return JSONResponse(
            {"token_type": "Bearer", "expires_in": int(self._tokens.life), "access_token": token}
        )

    async def managed(self, request: Request) -> Response:
        """Return a token for a job's identity, by the secret that only its environment holds."""
        query = request.query_params
        secret = request.headers.get("secret") or request.headers.get("x-identity-header") or ""
        try:
            identity = self._tokens.with_secret(secret)
        except NotSignedIn as reason:
            return failure(401, "Unauthorized", str(reason))
        if query.get("clientid") not in (None, identity.client_id):
            message = "No User Assigned identity with that client id is attached."
            return failure(400, "IdentityNotFound", message)
        return self._issued(identity, query.get("resource", ""))

    def _issued(self, identity: Identity, resource: str) -> Response:
        expires = int(time.time() + self._tokens.life)
        return JSONResponse(
            {
                "access_token": self._tokens.issue(identity, resource),
                "expires_on": str(expires),
                "resource": resource,
                "token_type": "Bearer",
                "client_id": identity.client_id,
            }
        )
