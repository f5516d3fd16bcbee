"""The silos' receipts: taken out of their replies, checked, and noted in the ledger.

A receipt that is missing or does not fit costs its silo nothing: what an update is worth is for
admission to say. It becomes a line, and who verifies the ledger is told.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from flwr.app import ConfigRecord, Message, RecordDict

from azureml_jobs.identity.signatures import RECEIPT, is_signed, public_key_of
from server.orchestrator.nodes import node_id_of
from server.round.exchange import Closing, exchange
from server.round.silo_grid import SiloGrid
from server.run.ledger import AdmissionOf, Ledger
from strategies.wire import protocol
from strategies.wire.receipts import MODEL, Receipt, SignedAnchor

log = logging.getLogger(__name__)

CLOSING_SECONDS: Final = 10.0
"""For the silos to answer the closing message: one that is away then holds what it held before."""


@dataclass(frozen=True)
class Expected:
    """What a receipt must say: it is compared word by word."""

    silo: str
    run: str
    round: int
    anchor: str
    config: str
    update: str
    closing: bool = False


def fault_of(receipt: Receipt, expected: Expected, node: int) -> str:
    """Return why a receipt does not fit; empty where it does.

    The key is the node's own, of which its id is derived, so nobody signs for another silo.
    """
    for name, value in vars(expected).items():
        if getattr(receipt, name) != value:
            return f"its {name} is another"
    public = public_key_of(receipt.key)
    if public is None or node_id_of(receipt.key.encode()) != node:
        return "its key is not the silo's"
    if not is_signed(public, RECEIPT, receipt.statement, receipt.signature):
        return "its signature is wrong"
    return ""


@dataclass(frozen=True)
class Receipts:
    """The receipts of one run; `config` is the digest of the configuration that silos are given."""

    ledger: Ledger
    run: str
    config: str
    admission_of: AdmissionOf = lambda key: ""

    def take(self, node: int, reply: Message, expected: Expected) -> None:
        """Take the receipt out of a reply, so that no strategy meets it, and note it."""
        if not reply.has_content():
            return
        record = reply.content.pop(protocol.RECEIPT, None)
        if not self.ledger.signs:
            return
        reason = "none was sent"
        if isinstance(record, ConfigRecord):
            try:
                receipt = Receipt.from_record(record)
                reason = fault_of(receipt, expected, node)
            except ValueError as error:
                reason = str(error)
            if not reason:
                self.ledger.receipt(receipt, self.admission_of)
                return
            log.warning("the receipt of %s, round %d: %s", expected.silo, expected.round, reason)
        self.ledger.receipt_missing(expected.round, expected.silo, reason, closing=expected.closing)

    def expected(
        self, silo: str, round: int, anchor: str, update: str, *, closing: bool = False
    ) -> Expected:
        """Return what the receipt of one reply must say."""
        return Expected(silo, self.run, round, anchor, self.config, update, closing)


@dataclass(frozen=True)
class Farewell:
    """The closing message: after the last round it tells the silos that are there the last anchor
    and the model's digest, and takes their receipts.
    """

    grid: SiloGrid
    receipts: Receipts
    seconds: float = CLOSING_SECONDS

    def __call__(self, round: int, anchor: SignedAnchor, model: str) -> None:
        """Tell the silos, and note what they answer."""
        names = self.grid.names()
        there = [node for node in self.grid.get_node_ids() if self.grid.is_own(node)]
        answered = set()
        for node, reply in self._answers(there, round, anchor, model):
            answered.add(node)
            expected = self.receipts.expected(
                names[node], round, anchor.anchor, model, closing=True
            )
            if reply.has_content():
                self.receipts.take(node, reply, expected)
            else:
                self._missing(round, names[node], "it did not answer")
        for node, silo in sorted(names.items(), key=lambda item: item[1]):
            if node not in answered:
                self._missing(round, silo, "it was away, or is not a node of Meadow's own")

    def _answers(
        self, nodes: list[int], round: int, anchor: SignedAnchor, model: str
    ) -> Iterator[tuple[int, Message]]:
        config = ConfigRecord(
            {
                protocol.PROTOCOL_KEY: protocol.PROTOCOL,
                protocol.RUN_ID: self.receipts.run,
                protocol.ROUND: round,
                protocol.RUN_DIGEST: self.receipts.config,
                MODEL: model,
                **anchor.to_config(),
            }
        )
        content = RecordDict({protocol.CONFIG: config})
        messages = [Message(content, node, protocol.CLOSING) for node in nodes]
        for node, reply, _ in exchange(self.grid, messages, Closing(self.seconds)):
            yield node, reply

    def _missing(self, round: int, silo: str, reason: str) -> None:
        self.receipts.ledger.receipt_missing(round, silo, reason, closing=True)
