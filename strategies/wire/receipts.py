"""What the two sides sign of the ledger: the server an anchor, a silo its receipt.

A server says with each round what its ledger was after the round before (`SignedAnchor`, in the
message's config record), and after the last round what it was at the end, with the model's digest.
A silo answers with a `Receipt`, a config record beside its update: its signature over that anchor
and the digest of what it sent. So the server can't later show another ledger to anybody who asks
the silo, and the silo can't deny what it sent. Who signs, and how, is said in
`azureml_jobs.identity.signatures`; here are only the statements, which both sides make themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from flwr.app import ConfigRecord

from conf.canonical import canonical
from strategies.wire import protocol

VERSION: Final = 1
"""Of both statements: another form needs another number, so that it can't be taken for this one."""
LONGEST: Final = 8192
"""Characters of any text in these records."""
MODEL: Final = "model"
"""In a closing message: the digest of the run's model."""


@dataclass(frozen=True)
class SignedAnchor:
    """An anchor of the server's ledger with the signature of its statement and the certificate of
    the key; both empty where the server has no key (a simulation, a stock server).
    """

    anchor: str
    signature: str = ""
    certificate: str = ""

    def statement(self, run: str) -> bytes:
        """Return what is signed: which run's ledger had this anchor."""
        return head_statement(run, self.anchor)

    def to_config(self) -> dict[str, str]:
        """Return the entries of a message's config record."""
        if not self.signature:
            return {protocol.LEDGER: self.anchor}
        return {
            protocol.LEDGER: self.anchor,
            protocol.LEDGER_SIGNATURE: self.signature,
            protocol.LEDGER_CERTIFICATE: self.certificate,
        }

    @staticmethod
    def from_config(config: Mapping[str, object]) -> SignedAnchor:
        """Return what a message's config record says; what is no text of a bounded length is
        nothing.
        """
        return SignedAnchor(
            _text(config.get(protocol.LEDGER)),
            _text(config.get(protocol.LEDGER_SIGNATURE)),
            _text(config.get(protocol.LEDGER_CERTIFICATE)),
        )


def head_statement(run: str, anchor: str) -> bytes:
    """Return what the server signs of an anchor; the ledger's own first line names the federation."""
    return canonical({"head": VERSION, "run": run, "anchor": anchor})


@dataclass(frozen=True)
class Receipt:
    """A silo's answer to an anchor: what it was told and what it sent, signed with its node key.

    `update` is the digest of the update that it answers with (`strategies.wire.digests`), or, in
    the receipt of a closing message, that of the model which it was told; `config` is the digest of
    the run's configuration that it was given. `key` is the public half in PEM.
    """

    silo: str
    run: str
    round: int
    anchor: str
    config: str
    update: str
    closing: bool = False
    key: str = ""
    signature: str = ""

    @property
    def statement(self) -> bytes:
        """Return what is signed: everything but the key and the signature."""
        return canonical(
            {
                "receipt": VERSION,
                "silo": self.silo,
                "run": self.run,
                "round": self.round,
                "anchor": self.anchor,
                "config": self.config,
                "update": self.update,
                "closing": self.closing,
            }
        )

    def to_record(self) -> ConfigRecord:
        """Return it as it travels."""
        return ConfigRecord(
            {
                "silo": self.silo,
                "run": self.run,
                "round": self.round,
                "anchor": self.anchor,
                "config": self.config,
                "update": self.update,
                "closing": self.closing,
                "key": self.key,
                "signature": self.signature,
            }
        )

    @staticmethod
    def from_record(record: Mapping[str, object]) -> Receipt:
        """Return what travelled, or stands in a ledger; raises ValueError for anything else."""
        round = record.get("round")
        closing = record.get("closing")
        if type(round) is not int or type(closing) is not bool:
            raise ValueError("its round or its closing is not of the right type")
        names = ("silo", "run", "anchor", "config", "update", "key", "signature")
        texts = {}
        for name in names:
            value = record.get(name)
            if not isinstance(value, str) or len(value) > LONGEST:
                raise ValueError(f"its {name} is not a text, or too long")
            texts[name] = value
        return Receipt(round=round, closing=closing, **texts)


def _text(value: object) -> str:
    return value if isinstance(value, str) and len(value) <= LONGEST else ""
