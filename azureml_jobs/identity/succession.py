"""One CA after another: the older one signs that the newer one follows it.

A silo trusts the CA that it was given. With the older CA's signature over the newer one's certificate
it trusts that one too, so a CA is replaced while the federation runs. Whoever has the older key could
sign a successor of their own; but with that key they are the CA anyway. So where a CA was stolen
there is no such signature: its successor is handed out as the first one was.

    MDW-721 there is no older CA to be replaced
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from azureml_jobs.identity.authority import (
    CA_BEFORE,
    CA_CERTIFICATE,
    CA_KEY,
    NO_CA,
    ca_before,
    load_ca,
    load_ca_key,
    put_ca,
)
from azureml_jobs.identity.secret_store import SecretStore
from azureml_jobs.identity.signatures import authorities_in, is_signed, sign
from conf.errors import IdentityError

PURPOSE: Final = "ca successor"
MOST_BYTES: Final = 8192
"""Of one succession as text; one has about 1,200."""
MOST: Final = 8
"""How many CAs may follow one another; a silo that missed more is given the last one's file."""


@dataclass(frozen=True)
class Succession:
    """A CA's certificate (PEM), and the signature of the CA before it."""

    certificate: str
    signature: str

    @property
    def name(self) -> str:
        """Return under which name it is kept and published."""
        return hashlib.sha256(self.certificate.encode()).hexdigest()[:32]

    def to_text(self) -> str:
        """Return it as one line of JSON."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_text(text: str | bytes) -> Succession | None:
        """Return what `to_text` wrote, None for anything else; nothing of it is to be believed yet."""
        try:
            if len(text) > MOST_BYTES:
                return None
            raw: Any = json.loads(text)
            return Succession(str(raw["certificate"]), str(raw["signature"]))
        except (ValueError, TypeError, LookupError, RecursionError):
            return None


def rotate_ca(
    secrets: SecretStore, name: str, now: datetime, *, lost: bool = False, stolen: bool = False
) -> Succession | None:
    """Put a new CA into the place of the one that is there; return the older one's word for it.

    The older key is overwritten, its certificate is kept and trusted until `finish_ca`. There is no word
    of a CA whose key is `lost`; one that was `stolen` is not trusted any more, from this moment on.
    Raises IdentityError MDW-721 where there is none, and those of the CA.
    """
    if CA_CERTIFICATE not in secrets.list():
        hint = "Make the first one: meadow keys init."
        raise IdentityError("MDW-721", f"There is no CA in {secrets.where(CA_KEY)}.", hint)
    before = secrets.get(CA_CERTIFICATE)
    older = None
    if not (lost or stolen):
        older = load_ca_key(secrets, load_ca(before, secrets.where(CA_CERTIFICATE), now))
    # First what is trusted besides: a crash in between leaves a CA that is its own predecessor, or
    # one whose key does not fit (MDW-706), which is replaced as a lost one.
    secrets.set(CA_BEFORE, NO_CA if stolen else before)
    put_ca(secrets, name, now)
    if older is None:
        return None
    certificate = secrets.get(CA_CERTIFICATE).decode()
    return Succession(certificate, sign(older, PURPOSE, certificate.encode()))


def finish_ca(secrets: SecretStore) -> bool:
    """Trust the older CA no more; return whether one was trusted."""
    if not ca_before(secrets):
        return False
    secrets.set(CA_BEFORE, NO_CA)
    return True


def followed(pinned: bytes, successions: Iterable[Succession]) -> bytes:
    """Return the CAs to trust, in PEM: the pinned ones, and who follows them by their own word."""
    trusted = authorities_in(pinned)
    pem = pinned
    left = list(successions)[: 4 * MOST]
    for _ in range(MOST):
        found = [one for one in left if any(_signed_by(one, ca) for ca in trusted)]
        left = [one for one in left if one not in found]
        if not found:
            break
        for one in found:
            added = _a_ca(one.certificate)
            if added is not None:
                trusted.append(added)
                pem = pem.rstrip() + b"\n" + one.certificate.encode()
    return pem


def _signed_by(one: Succession, ca: x509.Certificate) -> bool:
    key = ca.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    return is_signed(key, PURPOSE, one.certificate.encode(), one.signature)


def _a_ca(certificate: str) -> x509.Certificate | None:
    found = authorities_in(certificate.encode())
    if len(found) != 1:
        return None
    try:
        constraints = found[0].extensions.get_extension_for_class(x509.BasicConstraints).value
    except (ValueError, x509.ExtensionNotFound):
        return None
    return found[0] if constraints.ca else None
