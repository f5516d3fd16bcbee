"""One key that a silo may connect with, as the orchestrator's list of them has it
(`server.store.admitted_keys`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from azureml_jobs.identity.expiry import Span, expiry_warning
from azureml_jobs.identity.node_key import fingerprint, load_public_key
from azureml_jobs.identity.signed_admission import read_admission

NODE_KEY_DAYS: Final = 365


@dataclass(frozen=True)
class AdmittedKey:
    """A key that a silo may connect with.

    Times are in seconds since 1970; `revoked` is None as long as the key is not revoked.
    `certificate` is the admission that the CA has signed (`identity.signed_admission`), in PEM; the other
    values are those that stand in it.
    """

    silo: str
    line: str
    since: float
    expires: float
    revoked: float | None = None
    certificate: str = ""
    limits: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, certificate: str, where: str) -> AdmittedKey:
        """Return the key that a certificate admits, whoever has signed it.

        Raises IdentityError MDW-716.
        """
        said = read_admission(certificate, where)
        return cls(
            said.silo,
            said.line,
            said.since,
            said.expires,
            certificate=certificate,
            limits=said.limits,
        )

    @property
    def public(self) -> ec.EllipticCurvePublicKey:
        """Return the key itself."""
        return load_public_key(self.line, f"the admitted key of {self.silo}")

    @cached_property
    def pem(self) -> bytes:
        """Return the key as it stands in the header of Flower's node authentication."""
        return self.public.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    @cached_property
    def fingerprint(self) -> str:
        """Return what `ssh-keygen -l` prints."""
        return fingerprint(self.public)

    @property
    def span(self) -> Span:
        """Return how long the key may connect, if it is not revoked before."""
        begins = datetime.fromtimestamp(self.since, UTC)
        ends = datetime.fromtimestamp(self.expires, UTC)
        hint = f"Ask the silo for a new one, then: meadow keys rotate {self.silo} FILE.pub"
        return Span(f"The key {self.fingerprint} of {self.silo}", begins, ends, hint)

    def warning(self, now: float) -> str | None:
        """Return a line where the key expires soon, as `expiry_warning`; None for a revoked key."""
        if self.revoked is not None:
            return None
        span = self.span
        return expiry_warning(span.what, span.begins, span.ends, datetime.fromtimestamp(now, UTC))
