"""The signatures in a ledger: whose key signed its heads, and which silos signed what.

A head counts where a CA that was given from outside vouches for the key; without one, everybody who
rewrites a ledger can sign it with a key and a CA of his own. A silo's receipt counts where its key
is one that was given from outside, or that the certificate of such a CA names as the silo's.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from azureml_jobs.identity.node_key import load_public_key
from azureml_jobs.identity.owner_note import OwnerNote, read_note
from azureml_jobs.identity.signatures import HEAD, RECEIPT, head_key, is_signed, public_key_of
from azureml_jobs.identity.signed_admission import check_admission
from conf.errors import CheckpointError, IdentityError
from server.run.verdict import Anchor, Facts, facts_of
from strategies.wire.receipts import Receipt, head_statement

SIGNING = (
    b'"event":"run started"',
    b'"event":"run resumed"',
    b'"event":"head signed"',
    b'"event":"silo key"',
    b'"event":"receipt',
    b'"event":"update admitted"',
    b'"event":"update refused"',
    b'"event":"run finished"',
    b'"event":"run closed"',
    b'"event":"owner note"',
)
"""The lines that are read here; the cheap look spares the others."""


@dataclass
class Proofs:
    """What the signatures in a ledger prove; `anchors` are those that hold, each by its signer."""

    run: str
    authorities: Sequence[x509.Certificate]
    trusted: Mapping[str, Collection[str]]
    """The silos' public keys in PEM, by name, as far as they are known from outside."""
    anchors: list[Anchor] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    receipts: dict[str, int] = field(default_factory=dict)
    """By silo, how many hold."""
    missing: dict[str, int] = field(default_factory=dict)
    unvouched: set[str] = field(default_factory=set)
    """Silos with receipts by a key that only the ledger names."""
    claimed: list[Anchor] = field(default_factory=list)
    """The anchors of these: a fault where the ledger has another, and no proof where it has not."""
    notes: list[str] = field(default_factory=list)
    signed_heads: int = 0
    held: dict[str, Any] | None = None
    """What each silo held at the end, of the last line that says it."""
    _signer: ec.EllipticCurvePublicKey | None = None
    _vouched: bool = False
    _config: str = ""
    _federation: str = ""
    _keys: dict[str, str] = field(default_factory=dict)
    _admitted: dict[str, set[str]] = field(default_factory=dict)
    updates: dict[tuple[int, str], set[str]] = field(default_factory=dict)
    """The digests of the updates that are noted of a round and silo."""
    configs: set[str] = field(default_factory=set)
    """The digests of the configurations that the run had."""
    signed: set[tuple[int, str]] = field(default_factory=set)
    """The rounds and silos of whose updates the silo's receipt is there."""
    _model: str = ""

    def read(self, lines: Sequence[bytes]) -> None:
        """Take in all lines of a ledger."""
        for number, line in enumerate(lines, 1):
            if not any(event in line for event in SIGNING):
                continue
            facts = facts_of(line)
            if facts is None:
                # The chain says what was done to it.
                continue
            try:
                self._take(number, facts)
            except (LookupError, TypeError, ValueError, AttributeError):
                self.faults.append(f"line {number} does not have what its event should have")

    def _take(self, number: int, facts: Facts) -> None:
        event = facts["event"]
        if event in ("run started", "run resumed"):
            self._config = facts["config"]
            self.configs.add(self._config)
            self._federation = facts["federation"]
            self._take_signer(number, facts["signer"])
        elif event == "head signed":
            self._take_head(number, facts)
        elif event == "silo key":
            self._take_key(number, facts)
        elif event in ("update admitted", "update refused"):
            self.updates.setdefault((facts["round"], facts["silo"]), set()).add(facts["update"])
        elif event == "run finished":
            self._model = facts["model"]
        elif event == "receipt":
            self._take_receipt(number, facts)
        elif event == "receipt missing":
            self.missing[facts["silo"]] = self.missing.get(facts["silo"], 0) + 1
        elif event == "run closed":
            self.held = dict(facts["held"])
        elif event == "owner note":
            self._take_note(number, facts)

    def _take_key(self, number: int, facts: Facts) -> None:
        """Note a silo's key, and trust it where a CA that was given has admitted it as this silo's."""
        silo = facts["silo"]
        self._keys[silo] = facts["key"]
        if not self.authorities or not facts["admission"]:
            return
        where = f"line {number}: the admission of {silo}"
        try:
            admission = check_admission(facts["admission"], _pem(self.authorities), where)
        except IdentityError as error:
            self.faults.append(error.message.rstrip("."))
            return
        # A certificate of another silo, federation or key of the same CA says nothing of this one.
        is_this = (admission.silo, admission.federation) == (silo, self._federation)
        if is_this and _pem_of(admission.line) == facts["key"]:
            self._admitted.setdefault(silo, set()).add(facts["key"])
        else:
            self.faults.append(f"{where} is of another silo, federation or key")

    def _take_note(self, number: int, facts: Facts) -> None:
        """Look at what is said to be a note of a silo's owner: only that silo's key can sign one."""
        silo = facts["silo"]
        where = f"line {number}: the note of the owner of {silo}"
        try:
            note = read_note(json.dumps(facts["note"]).encode(), where)
        except IdentityError as error:
            self.faults.append(error.message.rstrip("."))
            return
        if (note.silo, note.federation) != (silo, self._federation):
            self.faults.append(f"{where} is of another silo or federation")
        elif not note.is_signed():
            self.faults.append(f"{where} has a wrong signature")
        elif _pem_of(note.key) not in self.trusted.get(silo, self._admitted_by_then(silo, note)):
            self.notes.append(f"{where} is signed by a key that nothing vouches for")

    def _admitted_by_then(self, silo: str, note: OwnerNote) -> Collection[str]:
        """Return the keys that the CA admits as a silo's; where none has answered yet, the note's."""
        return self._admitted.get(silo) or {_pem_of(note.key)}

    def _take_signer(self, number: int, signer: Mapping[str, str] | None) -> None:
        self._signer = None
        self._vouched = False
        if signer is None:
            return
        where = f"line {number}: the certificate of the key that signs"
        # Whoever wrote the ledger wrote its CA too: it says that the file agrees with itself.
        named = x509.load_pem_x509_certificates(signer["ca"].encode())
        try:
            self._signer = head_key(signer["certificate"], named, where)
            if self.authorities:
                self._signer = head_key(signer["certificate"], self.authorities, where)
                self._vouched = True
        except CheckpointError as error:
            self.faults.append(error.message.rstrip("."))

    def _take_head(self, number: int, facts: Facts) -> None:
        anchor = facts["anchor"]
        if self._signer is None:
            self.faults.append(f"line {number}: nobody is named whose signature it could be")
            return
        statement = head_statement(self.run, anchor)
        if not is_signed(self._signer, HEAD, statement, facts["signature"]):
            self.faults.append(f"line {number}: the signature of the head is wrong")
            return
        self.signed_heads += 1
        if self._vouched:
            self.anchors.append(Anchor.parse("the orchestrator's key", anchor))

    def _take_receipt(self, number: int, facts: Facts) -> None:
        silo = facts["silo"]
        named = self._keys.get(silo, "")
        receipt = Receipt.from_record({**facts, "key": named})
        public = public_key_of(named)
        if public is None or not is_signed(public, RECEIPT, receipt.statement, receipt.signature):
            self.faults.append(f"line {number}: the receipt of {silo} has a wrong signature")
            return
        if fault := self._disagreement(receipt):
            self.faults.append(f"line {number}: the receipt of {silo} is of {fault}")
            return
        self.receipts[silo] = self.receipts.get(silo, 0) + 1
        if not receipt.closing:
            self.signed.add((receipt.round, silo))
        anchor = Anchor.parse(silo, receipt.anchor)
        # A key that came from the silo itself is worth more than the CA's word, whose owner could
        # admit a key of his own as that silo's.
        if named in self.trusted.get(silo, self._admitted.get(silo, ())):
            self.anchors.append(anchor)
        else:
            self.unvouched.add(silo)
            self.claimed.append(anchor)

    def _disagreement(self, receipt: Receipt) -> str:
        """Return in what a receipt with a right signature is not of this ledger."""
        if receipt.run != self.run:
            return "another run"
        if receipt.config != self._config:
            return "another configuration"
        if receipt.closing:
            return "" if receipt.update == self._model else "another model"
        known = self.updates.get((receipt.round, receipt.silo), set())
        return "" if receipt.update in known else "another update"


def _pem(authorities: Sequence[x509.Certificate]) -> bytes:
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in authorities)


def _pem_of(line: str) -> str:
    """Return a public key in PEM from OpenSSH's line."""
    key = load_public_key(line, "the key in an admission")
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(serialization.Encoding.PEM, form).decode()
