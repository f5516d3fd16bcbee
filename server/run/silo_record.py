"""What a silo kept of a run's ledger (`client.node.witness`), read by who verifies the run.

The file is another party's: each anchor in it counts by the orchestrator's signature, which a silo
can't make, and each receipt by the silo's.

    MDW-523 not a file that a silo's node wrote
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from azureml_jobs.identity.signatures import HEAD, RECEIPT, head_key, is_signed, public_key_of
from conf.errors import CheckpointError
from server.run.verdict import Anchor
from strategies.wire.receipts import Receipt, head_statement

MOST_BYTES: Final = 256 * 2**20
"""Of a record: a million rounds have as much."""


@dataclass(frozen=True)
class Told:
    """One anchor as a silo was told it; `model` is the digest that a closing message named."""

    line: int
    round: int
    anchor: str
    signature: str
    certificate: str
    model: str = ""


@dataclass
class SiloRecord:
    """What one file holds of one run."""

    path: Path
    run: str
    told: list[Told] = field(default_factory=list)
    receipts: list[Receipt] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)

    @property
    def silo(self) -> str:
        """The silo's name, as its receipts say; that of the file where it gave none."""
        return self.receipts[-1].silo if self.receipts else str(self.path)

    @property
    def closing(self) -> Told | None:
        """The closing message; None where the silo was away at the end."""
        return next((told for told in reversed(self.told) if told.model), None)

    @property
    def keys(self) -> dict[str, str]:
        """The silo's public key by its name, of receipts that this key has signed."""
        return {one.silo: one.key for one in self.receipts if _is_genuine(one)}

    def signed(self, authorities: Sequence[x509.Certificate]) -> list[tuple[Told, Anchor]]:
        """Return the anchors that an orchestrator of one of these CAs has signed."""
        found = []
        for told in self.told:
            try:
                key = head_key(told.certificate, authorities, "its certificate")
            except CheckpointError:
                continue
            if is_signed(key, HEAD, head_statement(self.run, told.anchor), told.signature):
                found.append((told, Anchor.parse(self.silo, told.anchor)))
        return found


def _is_genuine(receipt: Receipt) -> bool:
    key = public_key_of(receipt.key)
    return key is not None and is_signed(key, RECEIPT, receipt.statement, receipt.signature)


def read_silo_record(path: Path, run: str = "") -> SiloRecord:
    """Return what a silo's file holds of a run; without `run`, of the last run in it.

    Raises CheckpointError MDW-523 where it can't be read.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it is larger than {MOST_BYTES} bytes")
        lines = [json.loads(line) for line in path.read_bytes().splitlines()]
        run = run or (str(lines[-1]["run"]) if lines else "")
        record = SiloRecord(path, run)
        certificate = ""
        for number, line in enumerate(lines, 1):
            if line["run"] != run:
                continue
            certificate = str(line.get("certificate", certificate))
            _take(record, number, line, certificate)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        hint = "Name a file that a silo's node wrote: ledger-record.jsonl in its state folder."
        raise CheckpointError(
            "MDW-523", f"{path} is not a silo's record: {error}.", hint
        ) from error
    return record


def _take(record: SiloRecord, number: int, line: dict[str, Any], certificate: str) -> None:
    if "receipt" in line:
        record.receipts.append(Receipt.from_record(line["receipt"]))
    elif "anchor" in line:
        record.told.append(
            Told(
                number,
                int(line["round"]),
                str(line["anchor"]),
                str(line["signature"]),
                certificate,
                str(line.get("model", "")),
            )
        )
    elif "event" in line:
        record.forgotten.append(f"{line['event']}: {', '.join(map(str, line['what']))}")
