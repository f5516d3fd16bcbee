"""The renewals that an orchestrator has signed, in its own part of the store.

The list of admitted keys is its owner's to write; the orchestrator, which may only read it, keeps
what it adds beside it, one file a key.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Final

from azureml_jobs.identity.admitted_key import AdmittedKey
from azureml_jobs.identity.renewal import (
    Renewal,
    read_renewal,
    reissued_admission,
    renewed_until,
)
from azureml_jobs.storage.base import Store, StoreMissing
from conf.errors import MeadowError

log = logging.getLogger(__name__)

FOLDER: Final = "renewals/"


class Renewals:
    """Keys as they were renewed; each file is read once, for its one writer is the
    orchestrator that reads it.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._found: dict[tuple[str, str], AdmittedKey] = {}

    def put(self, digest: str, renewal: Renewal) -> None:
        """Keep a renewal of the key with that digest, in the place of the one before."""
        self._store.replace(_name(digest), renewal.to_text().encode())
        self._found.clear()

    def put_admission(self, digest: str, admission: str) -> None:
        """Keep a new certificate (PEM) of a renewed key beside its renewal."""
        name = _name(digest)
        renewal = read_renewal(self._store.read(name), name)
        self.put(digest, replace(renewal, admission=admission))

    def of(self, digest: str, key: AdmittedKey, ca: bytes) -> AdmittedKey:
        """Return a key as it was renewed: it ends later, and may have a new certificate.

        The key as it is where it has no renewal, or one that does not count, which is logged. `ca` is
        the PEM of the CAs of now.
        """
        known = digest, key.certificate
        if known not in self._found:
            self._found[known] = self._read(_name(digest), key, ca)
        return self._found[known]

    def forget(self) -> None:
        """Look at every renewal anew, because other CAs are trusted now."""
        self._found.clear()

    def _read(self, name: str, key: AdmittedKey, ca: bytes) -> AdmittedKey:
        try:
            renewal = read_renewal(self._store.read(name), name)
            until = renewed_until(renewal, key, ca, name)
        except StoreMissing:
            return key
        except MeadowError as error:
            # A renewal that can't be used costs the key its renewal, and nobody anything else.
            log.warning("%s", error)
            return key
        if until <= key.expires:
            return key
        return replace(key, expires=until, certificate=_certificate(renewal, key, until, ca, name))


def _certificate(renewal: Renewal, key: AdmittedKey, until: float, ca: bytes, name: str) -> str:
    """Return the certificate of a renewed key: the new one, or the one it has."""
    if not renewal.admission:
        return key.certificate
    try:
        return reissued_admission(renewal, key, until, ca, name)
    except MeadowError as error:
        # The word of the orchestrator counts without it.
        log.warning("%s", error)
        return key.certificate


def _name(digest: str) -> str:
    return f"{FOLDER}{digest}.json"
