"""Where a silo finds its own admission: a file that it was given, and the rendezvous.

MDW-715 there is none for this silo's key    MDW-716 not an admission
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from azureml_jobs.identity.node_key import NodeKey, fingerprint, public_line
from azureml_jobs.identity.signed_admission import MOST_BYTES, Admission, check_admission
from azureml_jobs.rendezvous import Rendezvous, StaticRendezvous, admission_name
from conf.errors import IdentityError, MeadowError

log = logging.getLogger(__name__)

PATIENCE: Final = 30.0
"""Seconds from the first sight of a server until a silo without an admission ends: an orchestrator
publishes admissions within seconds of its start.
"""


class SiloAdmission:
    """Finds the certificate over a silo's key: of all that the CA has signed, the one that ends
    last.
    """

    def __init__(
        self,
        silo: str,
        key: NodeKey,
        authority: bytes | Callable[[], bytes],
        place: Rendezvous,
        file: Path | None = None,
    ) -> None:
        """`authority` is the PEM of the CAs that the silo trusts, or says which they are now; `file`
        is the one that the silo's owner was given.

        Raises IdentityError MDW-716 or 756 where that can't be used.
        """
        self._silo = silo
        self._line = public_line(key.public_key())
        self._fingerprint = fingerprint(key.public_key())
        self._authority = authority if callable(authority) else lambda: authority
        self._place = place
        self._given: tuple[Admission, bytes] | None = None
        if file is not None:
            content = _read(file)
            self._given = self._checked(content, str(file)), content

    def find(self) -> bytes | None:
        """Return the certificate in PEM, None where there is none yet."""
        found = [self._given] if self._given is not None else []
        try:
            published = self._place.admission(admission_name(self._line))
            if published is not None:
                found.append((self._checked(published, "the published admission"), published))
        except MeadowError as error:
            log.warning("%s", error)
        best = max(found, key=lambda one: one[0].expires, default=None)
        return best[1] if best is not None else None

    @property
    def patience(self) -> float:
        """Return for how many seconds an admission may still come, once a server is there."""
        return 0.0 if isinstance(self._place, StaticRendezvous) else PATIENCE

    def missing(self) -> IdentityError:
        """Return the error for a silo that found none."""
        what = f"There is no admission for the key {self._fingerprint} of {self._silo}."
        hint = (
            "Have the orchestrator's owner compare that and admit the key: meadow keys admit"
            f" {self._silo} FILE.pub. With a fixed address, name the file that it writes:"
            " --admission."
        )
        return IdentityError("MDW-715", what, hint)

    def _checked(self, certificate: bytes, where: str) -> Admission:
        admission = check_admission(certificate, self._authority(), where)
        if admission.line != self._line:
            what = f"{where} admits the key {admission.fingerprint}, not {self._fingerprint}."
            hint = "Take the one that belongs to this silo's key."
            raise IdentityError("MDW-716", what, hint)
        if admission.silo != self._silo:
            what = f"{where} admits this key as {admission.silo}, not as {self._silo}."
            hint = "Start the silo under the name that it was admitted for."
            raise IdentityError("MDW-716", what, hint)
        return admission


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(MOST_BYTES + 1)
    except OSError as error:
        what = f"{file} can't be used: {error.strerror}."
        raise IdentityError("MDW-756", what, "Look at --admission.") from None
