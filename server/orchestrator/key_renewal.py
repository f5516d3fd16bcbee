"""Keys in use connect for longer, as far as the CA's owner has signed: first by the orchestrator's
word, then by a new client certificate.

The word needs no other key than the orchestrator's own, so a CA that can't be read costs a silo no
round. The certificate follows as soon as the CA signs it; a silo takes it with its next connection.
The CA signs on a thread of its own: its key may be in a vault, and whoever waits for a vault that does
not answer renews no lease.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from azureml_jobs.identity.admitted_key import AdmittedKey
from azureml_jobs.identity.renewal import reissued
from azureml_jobs.identity.signatures import HeadSigner
from azureml_jobs.identity.signed_admission import AdmissionAuthority
from conf.errors import MeadowError
from server.orchestrator.service import Orchestrator
from server.store.admitted_keys import AdmittedKeys

log = logging.getLogger(__name__)

AGAIN_SECONDS: Final = 3600.0
"""Between two looks at certificates that say less than their keys' renewals."""


@dataclass
class KeyRenewal:
    """Renews the keys of a list whose silos are connected; without an `authority` by word alone."""

    orchestrator: Orchestrator
    keys: AdmittedKeys
    authority: AdmissionAuthority | None = None
    _next_look: float = 0.0
    _signing: Signing | None = None

    def look(self, signer: HeadSigner) -> None:
        """Renew what is due now, keep what the CA has signed meanwhile, and have it sign the rest."""
        for key in self.keys.due():
            if self.orchestrator.is_connected(key.pem):
                self._renew(signer, key)
        if self._signing is not None and self._signing.is_over():
            signing, self._signing = self._signing, None
            self._keep(signing)
        if self.authority is None or self._signing is not None:
            return
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + AGAIN_SECONDS
            lacking = self.keys.to_reissue()
            here = [key for key in lacking if self.orchestrator.is_connected(key.pem)]
            if here:
                self._signing = Signing(self.authority, here)

    def _renew(self, signer: HeadSigner, key: AdmittedKey) -> None:
        renewal = self.keys.renew_by(signer, key)
        self.orchestrator.forget_end(key.pem)
        until = f"{datetime.fromtimestamp(renewal.expires, UTC):%Y-%m-%d %H:%M} UTC"
        log.info("the admission of %s was renewed until %s", key.silo, until)
        self._next_look = 0.0

    def _keep(self, signing: Signing) -> None:
        for key, certificate in signing.signed:
            try:
                self.keys.reissue(key, certificate)
            except MeadowError as error:
                # Its renewal may have been deleted meanwhile; the others are kept all the same.
                log.warning("%s; %s has no new certificate", error, key.silo)
                continue
            log.info("the CA has signed a new certificate of %s", key.silo)
        if signing.failed is not None:
            what = "%s; %d renewed silo(s) have no new certificate yet, and need none"
            log.warning(what, signing.failed, len(signing.keys) - len(signing.signed))


class Signing:
    """Has the CA sign the new certificates of `keys`, on a thread that nobody waits for."""

    def __init__(self, authority: AdmissionAuthority, keys: Sequence[AdmittedKey]) -> None:
        self.keys = keys
        self.signed: list[tuple[AdmittedKey, str]] = []
        self.failed: MeadowError | None = None
        self._authority = authority
        self._thread = threading.Thread(target=self._sign, name="new certificates", daemon=True)
        self._thread.start()

    def is_over(self) -> bool:
        """Say whether the CA has signed all, or can't."""
        return not self._thread.is_alive()

    def join(self, seconds: float) -> None:
        """Wait for that, for so many seconds."""
        self._thread.join(seconds)

    def _sign(self) -> None:
        for key in self.keys:
            try:
                self.signed.append((key, reissued(key, self._authority)))
            except MeadowError as error:
                # Whatever keeps the CA from signing keeps it from signing the others too.
                self.failed = error
                return
