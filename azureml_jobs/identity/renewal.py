"""A renewal: the orchestrator's word that a key in use may connect for longer than its admission says.

The CA's owner allows it, when the key is admitted: the signed admission then says by how much one
renewal reaches (`RENEWED_DAYS`) and until when there may be any (`RENEWABLE_UNTIL`). So what
counts for longer is the orchestrator's word, signed with the key of its own certificate; it reaches no
further than the admission allows, for that key of that silo alone.

Where the CA's key can be read, as when the orchestrator's own certificate is signed, the silo also gets
a new client certificate that says the same (`reissued`). It is checked against the admission and
against the word, so that it changes nothing else: where there is no key, the word is enough.

    MDW-723 a renewal that does not count
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from azureml_jobs.identity.admitted_key import AdmittedKey
from azureml_jobs.identity.signatures import (
    HeadSigner,
    authorities_in,
    head_key,
    is_signed,
    sign,
)
from azureml_jobs.identity.signed_admission import (
    RENEWABLE_UNTIL,
    Admission,
    AdmissionAuthority,
    check_admission,
    read_admission,
)
from conf.canonical import canonical
from conf.errors import CheckpointError, IdentityError

PURPOSE: Final = "renewal"
RENEWED_DAYS: Final = "renewed_days"
"""The name of a limit in a signed admission: for how many days from its signing a renewal counts."""
DAY: Final = 86400.0
MOST_BYTES: Final = 20480
"""Of one renewal as text; one has about 1,800, and 1,700 more with a new certificate of the silo."""


@dataclass(frozen=True)
class Renewal:
    """Which key of which federation may connect until when; `at`, when it was signed (both seconds
    since 1970).

    `certificate` is that of the orchestrator (PEM), whose key has signed. `admission` is a new one of
    the silo (PEM), which the CA has signed; empty where there is none.
    """

    federation: str
    key: str
    at: float
    expires: float
    certificate: str = ""
    signature: str = ""
    admission: str = ""

    def statement(self) -> bytes:
        """Return what is signed."""
        said = asdict(self)
        # The CA's signature over the admission is its own.
        del said["signature"], said["certificate"], said["admission"]
        return canonical(said)

    def to_text(self) -> str:
        """Return it as one line of JSON."""
        return json.dumps(asdict(self))


def terms_of_renewal(days: float, until: float) -> dict[str, float]:
    """Return what the CA's owner signs with an admission that may be renewed."""
    return {RENEWED_DAYS: days, RENEWABLE_UNTIL: until}


def may_be_renewed(key: AdmittedKey) -> bool:
    """Say whether the CA's owner has allowed it."""
    return key.limits.get(RENEWED_DAYS, 0.0) > 0


def due(key: AdmittedKey, now: float) -> bool:
    """Say whether a key may be renewed, and a third of what a renewal gives is left, or less."""
    if not may_be_renewed(key):
        return False
    near = key.limits[RENEWED_DAYS] * DAY / 3
    return now < key.expires <= now + near and key.expires < _last(key)


def renewed(key: AdmittedKey, signer: HeadSigner, now: float) -> Renewal:
    """Return the renewal of a key, which reaches as far as its admission allows."""
    expires = min(now + key.limits[RENEWED_DAYS] * DAY, _last(key))
    federation = read_admission(key.certificate, f"the admission of {key.silo}").federation
    said = Renewal(federation, key.fingerprint, now, expires, signer.certificate)
    return replace(said, signature=sign(signer.key, PURPOSE, said.statement()))


def read_renewal(text: bytes, where: str) -> Renewal:
    """Return what `to_text` wrote; nothing of it is to be believed yet.

    Raises IdentityError MDW-723.
    """
    try:
        if len(text) > MOST_BYTES:
            raise ValueError
        raw: Any = json.loads(text)
        names = ("federation", "key", "certificate", "signature")
        words: Mapping[str, str] = {name: str(raw[name]) for name in names}
        # Orchestrators of before knew no new certificate.
        admission = str(raw.get("admission", ""))
        at, expires = float(raw["at"]), float(raw["expires"])
        return Renewal(at=at, expires=expires, admission=admission, **words)
    except (ValueError, TypeError, LookupError, RecursionError, OverflowError, AttributeError):
        raise _not_counted(where, "it can't be read") from None


def renewed_until(renewal: Renewal, key: AdmittedKey, ca: bytes, where: str) -> float:
    """Return until when a key may connect by a renewal, never beyond what its admission allows.

    Raises IdentityError MDW-723 where it is not of this key, or no orchestrator of this CA (PEM, one
    or both) has signed it.
    """
    if not may_be_renewed(key):
        raise _not_counted(where, "the CA's owner has not allowed it")
    if renewal.key != key.fingerprint:
        raise _not_counted(where, "it is another key's")
    if renewal.federation != read_admission(key.certificate, where).federation:
        raise _not_counted(where, "it is another federation's")
    try:
        public = head_key(renewal.certificate, authorities_in(ca), where)
    except CheckpointError as error:
        raise _not_counted(where, error.message) from None
    if not is_signed(public, PURPOSE, renewal.statement(), renewal.signature):
        raise _not_counted(where, "its signature is not the orchestrator's")
    return min(renewal.expires, renewal.at + key.limits[RENEWED_DAYS] * DAY, _last(key))


def says_less(key: AdmittedKey) -> bool:
    """Say whether a key's certificate ends before the key does, by its own terms."""
    return read_admission(key.certificate, f"the admission of {key.silo}").expires < key.expires


def reissued(key: AdmittedKey, authority: AdmissionAuthority) -> str:
    """Return a new client certificate (PEM) for a key that was renewed: the admission as it is, but
    that it ends with the renewal.

    It begins when the admission began, so that no clock that is set back makes it one of the future.
    Raises IdentityError for a CA that is missing, unreadable or expired.
    """
    federation = read_admission(key.certificate, f"the admission of {key.silo}").federation
    return authority.sign(
        Admission(federation, key.silo, key.line, key.since, key.expires, key.limits)
    )


def reissued_admission(
    renewal: Renewal, key: AdmittedKey, until: float, ca: bytes, where: str
) -> str:
    """Return the new certificate (PEM) of a renewal that counts `until` then.

    Raises IdentityError MDW-723 where no CA of these (PEM) has signed it, or where it says anything
    else than the admission that is renewed: another key, silo, federation or limit, or longer.
    """
    try:
        said = check_admission(renewal.admission, ca, where)
    except IdentityError as error:
        raise _not_counted(where, error.message) from None
    known = read_admission(key.certificate, where)
    same = (said.federation, said.silo, said.line, dict(said.limits)) == (
        known.federation,
        known.silo,
        known.line,
        dict(known.limits),
    )
    if not same:
        raise _not_counted(where, "its new certificate says something else than the admission")
    if said.expires > until:
        raise _not_counted(where, "its new certificate lasts longer than it does")
    return renewal.admission


def _last(key: AdmittedKey) -> float:
    return key.limits.get(RENEWABLE_UNTIL, 0.0)


def _not_counted(where: str, why: str) -> IdentityError:
    hint = "The key may connect as its admission says; delete that file."
    return IdentityError("MDW-723", f"{where} renews nothing: {why}.", hint)
