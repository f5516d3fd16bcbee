"""A silo signs what it was told and what it sent, and vouches for no ledger that its orchestrator does not sign."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cryptography import x509
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from azureml_jobs.identity.signatures import RECEIPT, authorities_in, is_signed, public_key_of
from client.node.witness import LEDGER_RECORD, LedgerRecord, Witness
from strategies.wire import protocol
from strategies.wire.digests import update_digest
from strategies.wire.packing import pack_content
from strategies.wire.receipts import MODEL, Receipt, SignedAnchor, head_statement
from tests.security.signed_run import Authority

pytestmark = pytest.mark.usefixtures("task_identity")
ANCHOR = f"7:{'ab' * 32}"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca", ["silo-1"])


def witness(authority: Authority, folder: Path, pem: bytes | None = None) -> Witness:
    authorities: list[x509.Certificate] = authorities_in(authority.pem if pem is None else pem)
    return Witness("silo-1", authority.keys["silo-1"], authorities, LedgerRecord(folder))


def signed(authority: Authority, run: str = "run-1") -> SignedAnchor:
    signer = authority.signer()
    return SignedAnchor(ANCHOR, signer.sign(head_statement(run, ANCHOR)), signer.certificate)


def message(told: SignedAnchor, **more: str | int) -> Message:
    config = {
        protocol.RUN_ID: "run-1",
        protocol.ROUND: 3,
        protocol.RUN_DIGEST: "cd" * 32,
        **told.to_config(),
        **more,
    }
    return Message(RecordDict({protocol.CONFIG: ConfigRecord(config)}), 2, "train")


def update() -> RecordDict:
    arrays = ArrayRecord({"w": Array(np.arange(6, dtype=np.float32).reshape(2, 3))})
    metrics = MetricRecord({protocol.NUM_EXAMPLES: 10})
    return RecordDict({protocol.ARRAYS: arrays, protocol.METRICS: metrics})


def kept(folder: Path) -> list[dict[str, object]]:
    path = folder / LEDGER_RECORD
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize("packed", [False, True])
def test_a_receipt_is_of_the_anchor_the_configuration_and_the_update_as_the_server_sees_it(
    authority: Authority, tmp_path: Path, packed: bool
) -> None:
    asked = message(signed(authority))
    content = pack_content(update()) if packed else update()
    reply = witness(authority, tmp_path).answer(asked, Message(content, reply_to=asked))
    record = reply.content[protocol.RECEIPT]
    assert isinstance(record, ConfigRecord)
    receipt = Receipt.from_record(record)
    said = (receipt.silo, receipt.run, receipt.round, receipt.anchor, receipt.config)
    assert said == ("silo-1", "run-1", 3, ANCHOR, "cd" * 32)
    assert receipt.update == update_digest(update())
    public = public_key_of(receipt.key)
    assert public is not None
    assert is_signed(public, RECEIPT, receipt.statement, receipt.signature)


def test_what_it_was_told_and_what_it_signed_is_kept_for_its_owner_alone(
    authority: Authority, tmp_path: Path
) -> None:
    asked = message(signed(authority))
    own = witness(authority, tmp_path)
    own.hear(asked)
    own.answer(asked, Message(update(), reply_to=asked))
    own.hear(asked)
    names = [sorted(line) for line in kept(tmp_path)]
    told = ["anchor", "round", "run", "signature"]
    assert names == [["certificate", "run"], told, ["receipt", "round", "run"], told]
    assert kept(tmp_path)[1]["round"] == 2, "the anchor is that of the round before"
    assert (tmp_path / LEDGER_RECORD).stat().st_mode & 0o777 == 0o600


def test_an_anchor_of_another_ca_or_run_or_without_a_signature_gets_no_receipt(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = Authority(tmp_path / "other", [])
    own = witness(authority, tmp_path)
    stranger, another = signed(other), signed(authority, run="run-2")
    for told, code in ((stranger, "MDW-524"), (another, "MDW-525")):
        caplog.clear()
        asked = message(told)
        own.hear(asked)
        reply = own.answer(asked, Message(update(), reply_to=asked))
        assert protocol.RECEIPT not in reply.content
        assert protocol.ARRAYS in reply.content, "the update itself goes out"
        assert code in caplog.text
    assert kept(tmp_path) == []


def test_a_server_without_a_key_gets_updates_as_they_are(
    authority: Authority, tmp_path: Path
) -> None:
    own = witness(authority, tmp_path)
    asked = message(SignedAnchor(ANCHOR))
    own.hear(asked)
    reply = own.answer(asked, Message(update(), reply_to=asked))
    assert protocol.RECEIPT not in reply.content
    assert [line["anchor"] for line in kept(tmp_path)] == [ANCHOR]


def test_an_error_has_no_receipt(authority: Authority, tmp_path: Path) -> None:
    asked = message(signed(authority))
    failed = Message(Error(1, "no"), reply_to=asked)
    assert witness(authority, tmp_path).answer(asked, failed) is failed


def test_an_update_that_can_not_be_read_has_no_receipt(
    authority: Authority, tmp_path: Path
) -> None:
    broken = pack_content(update())
    broken[protocol.ARRAYS] = ArrayRecord()
    asked = message(signed(authority))
    reply = witness(authority, tmp_path).answer(asked, Message(broken, reply_to=asked))
    assert protocol.RECEIPT not in reply.content


def test_the_closing_message_is_kept_and_signed(authority: Authority, tmp_path: Path) -> None:
    asked = message(signed(authority), **{MODEL: "ef" * 32})
    reply = witness(authority, tmp_path).farewell(asked)
    record = reply.content[protocol.RECEIPT]
    assert isinstance(record, ConfigRecord)
    receipt = Receipt.from_record(record)
    assert receipt.closing and receipt.update == "ef" * 32
    assert [line["model"] for line in kept(tmp_path) if "model" in line] == ["ef" * 32]


def test_a_closing_message_of_a_stranger_is_answered_with_nothing(
    authority: Authority, tmp_path: Path
) -> None:
    stranger = signed(Authority(tmp_path / "other", []))
    reply = witness(authority, tmp_path).farewell(message(stranger, **{MODEL: "ef" * 32}))
    assert protocol.RECEIPT not in reply.content and kept(tmp_path) == []


def test_texts_of_any_length_and_type_cost_nothing(authority: Authority, tmp_path: Path) -> None:
    own = witness(authority, tmp_path)
    wrong: list[dict[str, str | int]] = [
        {protocol.LEDGER: "x" * 1_000_000},
        {protocol.LEDGER_CERTIFICATE: "x" * 1_000_000},
        {protocol.LEDGER_SIGNATURE: 7},
        {protocol.RUN_ID: 7},
        {protocol.ROUND: "three"},
    ]
    for change in wrong:
        asked = message(signed(authority), **change)
        own.hear(asked)
        reply = own.answer(asked, Message(update(), reply_to=asked))
        assert protocol.RECEIPT not in reply.content or change.keys() == {protocol.ROUND}


def test_a_record_that_can_not_be_written_costs_no_training(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = message(signed(authority))
    own = witness(authority, tmp_path / "absent")
    own.hear(asked)
    assert protocol.RECEIPT in own.answer(asked, Message(update(), reply_to=asked)).content
    assert "could not be noted" in caplog.text
