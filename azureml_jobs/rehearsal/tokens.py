"""Tokens as the clients expect them: signed JWTs with audience, tenant, identity and expiry."""

from __future__ import annotations

import secrets
import time
import uuid
from dataclasses import dataclass, field
from typing import Final

import jwt

LOGIN: Final = "login.microsoftonline.com"
TENANT: Final = "11111111-1111-1111-1111-111111111111"
"""The tenant of whatever nobody says another one of."""
HOUR: Final = 3600.0


class NotSignedIn(Exception):
    """A request carries no token, or one that is not valid any more."""


@dataclass(frozen=True)
class Identity:
    """A user, service principal or managed identity, by a name that a person reads."""

    name: str
    tenant: str = TENANT

    @property
    def object_id(self) -> str:
        """Return the id by which role assignments name it."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"object:{self.name}"))

    @property
    def client_id(self) -> str:
        """Return the id with which it signs in."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"client:{self.name}"))


@dataclass
class Tokens:
    """Signs in the registered identities, each with its own secret, and reads its own tokens.

    `life` is how long a token is valid, in seconds.
    """

    life: float = HOUR
    _secrets: dict[str, tuple[Identity, str]] = field(default_factory=dict)
    _key: bytes = field(default_factory=lambda: secrets.token_bytes(32))

    def register(self, name: str, tenant: str = TENANT) -> tuple[Identity, str]:
        """Return an identity and the secret with which it signs in, made at the first call.

        It stays in the tenant of that first call.
        """
        identity = Identity(name, tenant)
        return self._secrets.setdefault(identity.client_id, (identity, secrets.token_urlsafe(24)))

    def sign_in(self, tenant: str, client_id: str, secret: str) -> Identity:
        """Return the identity that signs in; raises NotSignedIn for a wrong secret or tenant."""
        identity, expected = self._secrets.get(client_id, (None, ""))
        if identity is None or identity.tenant != tenant:
            message = (
                f"AADSTS700016: Application with identifier '{client_id}' was not found in the"
                f" directory '{tenant}'. This can happen if the application has not been installed"
                " by the administrator of the tenant or consented to by any user in the tenant."
                " You may have sent your authentication request to the wrong tenant."
            )
            raise NotSignedIn(message)
        if not secrets.compare_digest(secret.encode(), expected.encode()):
            message = f"AADSTS7000215: Invalid client secret provided for app '{client_id}'."
            raise NotSignedIn(message)
        return identity

    def issue(self, identity: Identity, audience: str, life: float | None = None) -> str:
        """Return a signed token for one audience."""
        if life is None:
            life = self.life
        now = int(time.time())
        claims = {
            "aud": audience.rstrip("/"),
            "iss": f"https://sts.windows.net/{identity.tenant}/",
            "tid": identity.tenant,
            "ver": "1.0",
            "oid": identity.object_id,
            "appid": identity.client_id,
            "name": identity.name,
            "iat": now,
            "nbf": now - 60,
            "exp": now + int(life),
        }
        return jwt.encode(claims, self._key, algorithm="HS256")

    def read(self, authorization: str | None, *audiences: str) -> Identity:
        """Return the identity of a request's `Authorization` header.

        Raises NotSignedIn with the reason.
        """
        scheme, _, token = (authorization or "").partition(" ")
        if scheme != "Bearer" or not token:
            raise NotSignedIn("The request has no bearer token.")
        accepted = [audience.rstrip("/") for audience in audiences]
        try:
            claims = jwt.decode(token, self._key, algorithms=["HS256"], audience=accepted)
        except jwt.ExpiredSignatureError:
            raise NotSignedIn("The access token has expired.") from None
        except jwt.InvalidTokenError as error:
            raise NotSignedIn(f"The access token is not valid: {error}.") from None
        return Identity(str(claims["name"]), str(claims["tid"]))
