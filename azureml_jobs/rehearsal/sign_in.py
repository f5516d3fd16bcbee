"""login.microsoftonline.com, for people and services: MSAL's discovery, and client secrets."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from azureml_jobs.rehearsal.tokens import LOGIN, NotSignedIn, Tokens

HOST: Final = LOGIN
_DISCOVERY: Final = "/v2.0/.well-known/openid-configuration"


class SignIn:
    """Answers azure-identity for every tenant; each identity signs in to its own alone."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    async def answer(self, request: Request) -> Response | None:
        """Return the answer of login.microsoftonline.com; None for an unknown request."""
        path = request.url.path
        tenant = path.strip("/").partition("/")[0]
        authority = f"https://{HOST}/{tenant}"
        if request.method == "GET" and path.endswith(_DISCOVERY):
            return JSONResponse(
                {
                    "token_endpoint": f"{authority}/oauth2/v2.0/token",
                    "authorization_endpoint": f"{authority}/oauth2/v2.0/authorize",
                    "device_authorization_endpoint": f"{authority}/oauth2/v2.0/devicecode",
                    "issuer": f"{authority}/v2.0",
                }
            )
        if request.method == "GET" and path == "/common/discovery/instance":
            endpoint = request.query_params.get("authorization_endpoint", authority)
            asked = endpoint.removesuffix("/oauth2/v2.0/authorize")
            return JSONResponse(
                {
                    "tenant_discovery_endpoint": f"{asked}{_DISCOVERY}",
                    "api-version": "1.1",
                    "metadata": [
                        {"preferred_network": HOST, "preferred_cache": HOST, "aliases": [HOST]}
                    ],
                }
            )
        if request.method == "POST" and path.endswith("/oauth2/v2.0/token"):
            return self._client_secret(tenant, parse_qs((await request.body()).decode()))
        return None

    def _client_secret(self, tenant: str, form: dict[str, list[str]]) -> Response:
        try:
            client_id = form["client_id"][0]
            identity = self._tokens.sign_in(tenant, client_id, form["client_secret"][0])
            audience = form["scope"][0].split()[0].removesuffix("/.default")
        except (NotSignedIn, KeyError) as reason:
            return JSONResponse({"error": "invalid_client", "error_description": str(reason)}, 401)
        token = self._tokens.issue(identity, audience)
        return JSONResponse(
            {"token_type": "Bearer", "expires_in": int(self._tokens.life), "access_token": token}
        )
