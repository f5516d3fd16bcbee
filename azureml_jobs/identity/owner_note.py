"""A note of a silo's owner: how many examples one of its updates may count from now on.

The silo's own key signs it, so nobody else can write one, its orchestrator included. It names its
federation and carries a number: of several the highest counts, so that an older one which is handed in
again changes nothing. How far a note may raise what the CA's owner has signed is for that owner to say
(`BY_NOTE`); lowering is always the silo's owner's.

    MDW-725 a note that does not count
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from azureml_jobs.identity.admitted_key import AdmittedKey
from azureml_jobs.identity.node_key import NodeKey, load_public_key, public_line
from azureml_jobs.identity.signatures import is_signed, sign
from azureml_jobs.identity.signed_admission import read_admission
from conf.canonical import canonical
from conf.errors import IdentityError

PURPOSE: Final = "owner note"
EXAMPLES: Final = "examples_at_most"
"""The name of the ceiling in a signed admission, and in a note."""
BY_NOTE: Final = "examples_by_note"
"""The name of a limit in a signed admission: how far a note may raise the ceiling."""
MOST_BYTES: Final = 4096
MOST_EXAMPLES: Final = 2**40
AHEAD_SECONDS: Final = 86400.0
"""How far a note's number may be ahead: numbers are milliseconds, and a silo's clock may be off. One of
a far future would shut out all that follow.
"""
_VERSION: Final = 1


@dataclass(frozen=True)
class OwnerNote:
    """What the owner of a silo says: `examples_at_most`, in which federation, by which key (OpenSSH)."""

    federation: str
    silo: str
    key: str
    number: int
    examples_at_most: int
    signature: str = ""

    def statement(self) -> bytes:
        """Return what is signed."""
        said = asdict(self)
        del said["signature"]
        return canonical({"note": _VERSION, **said})

    def is_signed(self) -> bool:
        """Say whether the key that it names has signed it."""
        try:
            public = load_public_key(self.key, "the key of a note")
        except IdentityError:
            return False
        return is_signed(public, PURPOSE, self.statement(), self.signature)

    def to_text(self) -> str:
        """Return it as one line of JSON."""
        return json.dumps(asdict(self))


def written_note(
    key: NodeKey, federation: str, silo: str, number: int, examples_at_most: int
) -> OwnerNote:
    """Return a note, signed with the silo's key."""
    line = public_line(key.public_key())
    note = OwnerNote(federation, silo, line, number, examples_at_most)
    return replace(note, signature=sign(key, PURPOSE, note.statement()))


def read_note(text: bytes, where: str) -> OwnerNote:
    """Return what `to_text` wrote; nothing of it is to be believed yet.

    Raises IdentityError MDW-725.
    """
    if len(text) > MOST_BYTES:
        raise _not_counted(where, f"it has {len(text)} bytes")
    try:
        raw: Any = json.loads(text)
        numbers = {name: raw[name] for name in ("number", EXAMPLES)}
        words = {name: raw[name] for name in ("federation", "silo", "key", "signature")}
    except (ValueError, TypeError, LookupError, RecursionError):
        raise _not_counted(where, "it can't be read") from None
    if any(type(value) is not int or value.bit_length() > 63 for value in numbers.values()):
        raise _not_counted(where, "its numbers are not whole numbers")
    if any(not isinstance(value, str) for value in words.values()):
        raise _not_counted(where, "its words are not texts")
    return OwnerNote(**words, **numbers)


def check_note(note: OwnerNote, key: AdmittedKey, now: float, where: str) -> None:
    """Raise IdentityError MDW-725 unless a note is that of an admitted key's owner, for its
    federation and silo.

    `now` is in seconds since 1970.
    """
    if note.federation != read_admission(key.certificate, where).federation:
        raise _not_counted(where, "it is for another federation")
    if note.silo != key.silo or note.key != key.line:
        raise _not_counted(where, f"it is not of the key {key.fingerprint} of {key.silo}")
    if not 0 < note.examples_at_most <= MOST_EXAMPLES:
        raise _not_counted(where, f"its {EXAMPLES} is not between 1 and {MOST_EXAMPLES}")
    if not 0 < note.number <= (now + AHEAD_SECONDS) * 1000:
        raise _not_counted(where, "its number lies in the future: look at the clock that made it")
    if not note.is_signed():
        raise _not_counted(where, "its signature is not the silo's")


def ceiling_of(key: AdmittedKey, note: OwnerNote | None) -> int | None:
    """Return how many examples an update of a silo may count, None for no ceiling."""
    signed = _limit(key, EXAMPLES)
    if note is None:
        return None if signed is None else int(signed)
    most = max(signed or 0.0, _limit(key, BY_NOTE) or 0.0)
    return min(note.examples_at_most, int(most)) if signed is not None else note.examples_at_most


def _limit(key: AdmittedKey, name: str) -> float | None:
    value = key.limits.get(name)
    return value if value is not None and math.isfinite(value) else None


def _not_counted(where: str, why: str) -> IdentityError:
    hint = "Have the silo's owner write it anew: meadow keys note NAME examples_at_most=N."
    return IdentityError("MDW-725", f"{where} is not a note that counts: {why}.", hint)
