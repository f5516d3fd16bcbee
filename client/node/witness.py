"""A silo as a witness of the server's ledger: it checks what it is told of it, keeps that, and signs
what it was told and what it sent.

The node does this and not the app, because only the node holds the silo's key. What is kept is
`ledger-record.jsonl` in the node's state folder, JSON lines of this silo's owner alone:

    {"run", "certificate"}                     of the orchestrator's key; first, and where it is new
    {"run", "round", "anchor", "signature"}    the ledger after that round, as it was told
    {"run", "round", "receipt"}                what this silo signed, `strategies.wire.receipts.Receipt`
    {"run", "round", "anchor", "signature", "model"}    the end of the run
    {"run", "event", "what"}                   something was deleted (`meadow forget`)

`meadow verify` compares a ledger with it.

    MDW-525 an anchor whose signature is not of this federation's orchestrator
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from flwr.app import ConfigRecord, Message, RecordDict

from azureml_jobs.identity.node_key import NodeKey
from azureml_jobs.identity.signatures import HEAD, RECEIPT, head_key, is_signed, sign
from conf.errors import CheckpointError
from conf.files.whole import append_line
from strategies.wire import protocol
from strategies.wire.digests import update_digest
from strategies.wire.receipts import LONGEST, MODEL, Receipt, SignedAnchor

log = logging.getLogger(__name__)

LEDGER_RECORD: Final = "ledger-record.jsonl"
"""What a silo's node keeps of the server's ledger, in its state folder."""


class LedgerRecord:
    """The file; what can't be written is told in the log and costs no training."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LEDGER_RECORD
        self._certificate: tuple[str, str] | None = None
        """The run and the certificate that were written last by this process."""

    def anchor(self, run: str, round: int, signed: SignedAnchor, **more: Any) -> None:
        """Keep an anchor, and before it the certificate of its key where that is new."""
        if signed.certificate and self._certificate != (run, signed.certificate):
            self._append({"run": run, "certificate": signed.certificate})
            self._certificate = (run, signed.certificate)
        told = {"anchor": signed.anchor[:200], "signature": signed.signature}
        self._append({"run": run, "round": round, **told, **more})

    def receipt(self, receipt: Receipt) -> None:
        """Keep a receipt as this silo gave it."""
        facts = dataclasses.asdict(receipt)
        self._append({"run": receipt.run, "round": receipt.round, "receipt": facts})

    def event(self, run: str, event: str, what: Sequence[str]) -> None:
        """Keep that something was done with what this silo has of a run."""
        self._append({"run": run, "event": event, "what": list(what)})

    def _append(self, facts: dict[str, Any]) -> None:
        try:
            append_line(self._path, json.dumps(facts), mode=0o600)
        except OSError as error:
            log.warning("the server's ledger could not be noted in %s: %s", self._path, error)


class Witness:
    """One silo's signatures and record; `authorities` are the CAs that it trusts."""

    def __init__(
        self,
        silo: str,
        key: NodeKey,
        authorities: Sequence[x509.Certificate],
        record: LedgerRecord | None = None,
    ) -> None:
        self._silo = silo
        self._key = key
        # Not a copy: the silo may come to trust another CA while it runs.
        self._authorities = authorities
        self._record = record
        self._last_checked: tuple[str, SignedAnchor] | None = None
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self._public = public.decode()

    def hear(self, message: Message) -> None:
        """Check and keep the anchor that came with a round: that of the ledger after the round
        before.
        """
        config = _config(message)
        run, round = _run_and_round(config)
        signed = self._checked(SignedAnchor.from_config(config), run)
        if signed is not None and signed.anchor and self._record is not None:
            self._record.anchor(run, round - 1, signed)

    def answer(self, message: Message, reply: Message) -> Message:
        """Put the receipt of a message into its reply; as it is where the server has no key, or
        there is nothing to sign.
        """
        config = _config(message)
        run, round = _run_and_round(config)
        signed = self._checked(SignedAnchor.from_config(config), run)
        if signed is None or not signed.signature or not reply.has_content():
            return reply
        update = update_digest(reply.content)
        if update:
            receipt = self._receipt(config, run, round, signed.anchor, update)
            reply.content[protocol.RECEIPT] = receipt.to_record()
        return reply

    def farewell(self, message: Message) -> Message:
        """Answer the closing message: keep the last anchor and the model's digest, and sign both."""
        config = _config(message)
        run, round = _run_and_round(config)
        signed = self._checked(SignedAnchor.from_config(config), run)
        content = RecordDict()
        model = config.get(MODEL)
        if signed is not None and signed.signature and isinstance(model, str):
            if self._record is not None:
                self._record.anchor(run, round, signed, model=model[:LONGEST])
            receipt = self._receipt(config, run, round, signed.anchor, model, closing=True)
            content[protocol.RECEIPT] = receipt.to_record()
            log.info("the run %s has ended, its model is %s", run, model[:16])
        return Message(content, reply_to=message)

    def _receipt(
        self,
        config: ConfigRecord,
        run: str,
        round: int,
        anchor: str,
        update: str,
        *,
        closing: bool = False,
    ) -> Receipt:
        given = str(config.get(protocol.RUN_DIGEST, ""))
        said = Receipt(self._silo, run, round, anchor, given, update, closing, self._public)
        receipt = dataclasses.replace(said, signature=sign(self._key, RECEIPT, said.statement))
        if self._record is not None:
            self._record.receipt(receipt)
        return receipt

    def _checked(self, signed: SignedAnchor, run: str) -> SignedAnchor | None:
        """Return an anchor whose signature is right, or one that nobody signed; None for a wrong
        one.

        A wrong one ends nothing: the server has shown its certificate in the handshake. But this
        silo vouches for no ledger that its orchestrator does not sign.
        """
        if not signed.signature or self._last_checked == (run, signed):
            return signed
        try:
            public = head_key(signed.certificate, self._authorities, "the ledger's certificate")
        except CheckpointError as error:
            log.error("%s", error)
            return None
        if not is_signed(public, HEAD, signed.statement(run), signed.signature):
            log.error("MDW-525: the ledger's anchor of %s has a wrong signature", run)
            return None
        self._last_checked = (run, signed)
        return signed


def _config(message: Message) -> ConfigRecord:
    return protocol.records(message.content, ConfigRecord).get(protocol.CONFIG, ConfigRecord())


def _run_and_round(config: ConfigRecord) -> tuple[str, int]:
    run = config.get(protocol.RUN_ID)
    round = config.get(protocol.ROUND)
    return (
        run if isinstance(run, str) else "",
        round if isinstance(round, int) else 0,
    )
