"""Answers in the forms in which Azure's services give them."""

from __future__ import annotations

import uuid
from typing import Any
from xml.sax.saxutils import escape

from starlette.responses import JSONResponse, Response

from azureml_jobs.rehearsal.request_log import AccessCheck
from azureml_jobs.rehearsal.tokens import LOGIN, TENANT, Identity

Json = dict[str, Any]


def failure(status: int, code: str, message: str) -> JSONResponse:
    """Return an error as ARM, Azure ML and Key Vault word it."""
    return JSONResponse({"error": {"code": code, "message": message}}, status)


def not_found(what: str) -> JSONResponse:
    """Return that a resource does not exist."""
    return failure(404, "ResourceNotFound", f"The Resource '{what}' was not found.")


def not_signed_in(reason: str, tenant: str = TENANT) -> JSONResponse:
    """Return that the token is missing, expired or for another audience."""
    answer = failure(401, "InvalidAuthenticationToken", reason)
    authority = f"https://{LOGIN}/{tenant}"
    challenge = f'Bearer authorization_uri="{authority}", error="invalid_token"'
    answer.headers["WWW-Authenticate"] = challenge
    return answer


def forbidden(identity: Identity, access: AccessCheck, action: str, scope: str) -> JSONResponse:
    """Return that an identity lacks a role: identity, action and scope as ARM names them."""
    message = (
        f"The client '{identity.name}' with object id '{identity.object_id}' does not have"
        f" authorization to perform action '{action}' over scope '{scope}' or the scope is invalid."
        f" Missing role: '{access.role}'."
    )
    return failure(403, "AuthorizationFailed", message)


def storage_failure(status: int, code: str, message: str) -> Response:
    """Return an error as blob storage words it, in XML."""
    error = f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
    headers = {"x-ms-error-code": code, "x-ms-request-id": str(uuid.uuid4())}
    return Response(
        f'<?xml version="1.0" encoding="utf-8"?>{error}',
        status,
        headers,
        media_type="application/xml",
    )
