"""The CAs that a silo trusts: those in its own file, and who follows them by their own word."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from azureml_jobs.identity.authority import load_ca
from azureml_jobs.identity.signatures import authorities_in
from azureml_jobs.identity.succession import Succession, followed
from azureml_jobs.rendezvous import Rendezvous
from conf.errors import IdentityError, MeadowError

log = logging.getLogger(__name__)


class TrustedCas:
    """Looks anew whenever the silo looks for the server: its owner may have replaced the file."""

    def __init__(self, file: Path, place: Rendezvous) -> None:
        """Raises IdentityError MDW-705, 706 or 756 where the file can't be used."""
        self._file = file
        self._place = place
        self._lock = threading.Lock()
        self._pem = _read(file)
        self.first = load_ca(self._pem, str(file), datetime.now(UTC))
        self.certificates: list[x509.Certificate] = authorities_in(self._pem)
        """All of them; the list itself is kept up to date."""

    def pem(self) -> bytes:
        """Return all of them as they were at the last look."""
        return self._pem

    def look(self) -> Sequence[x509.Certificate]:
        """Look at the file and the rendezvous, and return all CAs."""
        try:
            pinned = _read(self._file)
            load_ca(pinned, str(self._file), datetime.now(UTC))
            found = [Succession.from_text(text) for text in self._place.successions()]
        except MeadowError as error:
            # A file that is being replaced, or a rendezvous that can't be read now.
            log.warning("%s", error)
            return self.certificates
        pem = followed(pinned, [one for one in found if one is not None])
        with self._lock:
            if pem != self._pem:
                log.info("the CAs that are trusted have changed: %d now", len(authorities_in(pem)))
                self._pem = pem
                self.certificates[:] = authorities_in(pem)
        return self.certificates


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        what = f"{file} can't be used: {error.strerror}."
        raise IdentityError("MDW-756", what, "Look at --ca.") from None
