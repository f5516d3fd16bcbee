"""Tokens as the clients expect them: JWTs with audience, tenant and identity, really signed, really expiring."""

from __future__ import annotations

import secrets
import time
import uuid
from dataclasses import dataclass, field
from typing import Final

import jwt

TENANT: Final = "11111111-1111-1111-1111-111111111111"
HOUR: Final = 3600.0


class NotSignedIn(Exception):
    """A request carries no token, or one that is not valid any more."""


@dataclass(frozen=True)
class Identity:
    """A user, service principal or managed identity, by a name that a person reads."""

    name: str

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
    """Signs in the identities that were made known, each with its own secret, and reads the tokens it signed."""

    life: float = HOUR  # seconds that a token is good for
    _secrets: dict[str, tuple[Identity, str]] = field(default_factory=dict)
    _key: bytes = field(default_factory=lambda: secrets.token_bytes(32))

    def known(self, name: str) -> tuple[Identity, str]:
        """Return an identity and the secret with which it signs in, made at the first call."""
        identity = Identity(name)
        return self._secrets.setdefault(identity.client_id, (identity, secrets.token_urlsafe(24)))

    def sign_in(self, client_id: str, secret: str) -> Identity:
        """Return who signs in; raises NotSignedIn for a wrong secret."""
        identity, right = self._secrets.get(client_id, (None, ""))
        if identity is None or not secrets.compare_digest(secret.encode(), right.encode()):
            raise NotSignedIn(
                f"AADSTS7000215: Invalid client secret provided for app '{client_id}'."
            )
        return identity

    def with_secret(self, secret: str) -> Identity:
        """Return whose secret that is, for a job's identity endpoint; raises NotSignedIn."""
        for identity, right in self._secrets.values():
            if secrets.compare_digest(secret.encode(), right.encode()):
                return identity
        raise NotSignedIn("No identity with that secret.")

    def issue(self, identity: Identity, audience: str, life: float | None = None) -> str:
        """Return a signed token for one audience."""
        now = int(time.time())
        claims = {
            "aud": audience.rstrip("/"), "iss": f"https://sts.windows.net/{TENANT}/", "tid": TENANT, "ver": "1.0",
            "oid": identity.object_id, "appid": identity.client_id, "name": identity.name,
            "iat": now, "nbf": now - 60, "exp": now + int(self.life if life is None else life),
        }  # fmt: skip
        return jwt.encode(claims, self._key, algorithm="HS256")

    def read(self, authorization: str | None, *audiences: str) -> Identity:
        """Return who signed a request's `Authorization` header; raises NotSignedIn with the reason."""
        kind, _, token = (authorization or "").partition(" ")
        if kind != "Bearer" or not token:
            raise NotSignedIn("The request has no bearer token.")
        try:
            claims = jwt.decode(
                token, self._key, algorithms=["HS256"], audience=[a.rstrip("/") for a in audiences]
            )
        except jwt.ExpiredSignatureError:
            raise NotSignedIn("The access token has expired.") from None
        except jwt.InvalidTokenError as error:
            raise NotSignedIn(f"The access token is not valid: {error}.") from None
        return Identity(str(claims["name"]))
