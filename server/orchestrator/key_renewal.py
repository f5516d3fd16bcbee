"""Keys in use connect for longer, as far as the CA's owner has signed: first by the orchestrator's
word, then by a new client certificate.

The word needs no other key than the orchestrator's own, so a CA that can't be read costs a silo no
round. The certificate follows as soon as the CA signs it; a silo takes it with its next connection.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from azureml_jobs.identity.admitted_key import AdmittedKey
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

    def look(self, signer: HeadSigner) -> None:
        """Renew what is due now, and have the CA sign what was renewed."""
        for key in self.keys.due():
            if self.orchestrator.is_connected(key.pem):
                self._renew(signer, key)
        if self.authority is not None and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + AGAIN_SECONDS
            self._reissue(self.authority)

    def _renew(self, signer: HeadSigner, key: AdmittedKey) -> None:
        renewal = self.keys.renew_by(signer, key)
        self.orchestrator.forget_end(key.pem)
        until = f"{datetime.fromtimestamp(renewal.expires, UTC):%Y-%m-%d %H:%M} UTC"
        log.info("the admission of %s was renewed until %s", key.silo, until)
        self._next_look = 0.0

    def _reissue(self, authority: AdmissionAuthority) -> None:
        for key in self.keys.to_reissue():
            if not self.orchestrator.is_connected(key.pem):
                continue
            try:
                self.keys.reissue(authority, key)
            except MeadowError as error:
                # Whatever keeps the CA from signing keeps it from signing the others too.
                log.warning("%s; %s has no new certificate yet, and needs none", error, key.silo)
                return
            log.info("the CA has signed a new certificate of %s", key.silo)
