"""A receipt that is missing or does not fit is a line, and costs its silo nothing."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.supercore.run import Run

from azureml_jobs.identity.signatures import RECEIPT, sign
from server.orchestrator.nodes import node_id_of
from server.round.receipt_check import Expected, Farewell, Receipts
from server.round.silo_grid import SiloGrid
from server.run.ledger import Ledger
from strategies.wire import protocol
from strategies.wire.receipts import MODEL, Receipt, SignedAnchor
from tests.security.signed_run import Authority

pytestmark = pytest.mark.usefixtures("task_identity")
ANCHOR = f"7:{'ab' * 32}"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca", ["silo-1", "silo-2", "silo-3"])


@pytest.fixture
def ledger(authority: Authority, tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.jsonl", "run-1", signer=authority.signer()) as opened:
        yield opened


def node_of(authority: Authority, silo: str) -> int:
    return node_id_of(authority.public(silo).encode())


def expected(**changed: object) -> Expected:
    right = Expected("silo-1", "run-1", 2, ANCHOR, "cd" * 32, "ef" * 32)
    return dataclasses.replace(right, **changed)  # type: ignore[arg-type]  # a test's own


def receipt(authority: Authority, by: str = "silo-1", **changed: object) -> Receipt:
    said = Receipt("silo-1", "run-1", 2, ANCHOR, "cd" * 32, "ef" * 32, key=authority.public(by))
    said = dataclasses.replace(said, **changed)  # type: ignore[arg-type]  # a test's own
    return dataclasses.replace(said, signature=sign(authority.keys[by], RECEIPT, said.statement))


def reply(record: ConfigRecord | None) -> Message:
    asked = Message(RecordDict(), 2, "train")
    content = RecordDict({protocol.CONFIG: ConfigRecord({"x": 1})})
    if record is not None:
        content[protocol.RECEIPT] = record
    return Message(content, reply_to=asked)


def noted(ledger: Ledger, tmp_path: Path) -> list[dict[str, object]]:
    ledger.seal()
    return [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_bytes().splitlines()]


def test_a_right_one_becomes_a_line_with_the_silo_s_key_before_the_first(
    authority: Authority, ledger: Ledger, tmp_path: Path
) -> None:
    receipts = Receipts(ledger, "run-1", "cd" * 32)
    for _ in range(2):
        answer = reply(receipt(authority).to_record())
        receipts.take(node_of(authority, "silo-1"), answer, expected())
        assert protocol.RECEIPT not in answer.content
    assert [line["event"] for line in noted(ledger, tmp_path)] == ["silo key", "receipt", "receipt"]


WRONG: dict[str, Callable[[Authority], ConfigRecord | None]] = {
    "none was sent": lambda authority: None,
    "its silo is another": lambda authority: receipt(authority, silo="silo-2").to_record(),
    "its run is another": lambda authority: receipt(authority, run="run-2").to_record(),
    "its round is another": lambda authority: receipt(authority, round=1).to_record(),
    "its anchor is another": lambda authority: receipt(authority, anchor="6:ab").to_record(),
    "its config is another": lambda authority: receipt(authority, config="").to_record(),
    "its update is another": lambda authority: receipt(authority, update="00").to_record(),
    "its closing is another": lambda authority: receipt(authority, closing=True).to_record(),
    "its key is not the silo's": lambda authority: receipt(authority, by="silo-2").to_record(),
    "its signature is wrong": lambda authority: dataclasses.replace(
        receipt(authority), signature="AAAA"
    ).to_record(),
    "its signature is not a text, or too long": lambda authority: dataclasses.replace(
        receipt(authority), signature="A" * 1_000_000
    ).to_record(),
    "its round or its closing is not of the right type": lambda authority: ConfigRecord(
        {"round": "2"}
    ),
    "its silo is not a text, or too long": lambda authority: ConfigRecord(
        {"round": 2, "closing": False, "silo": 7}
    ),
}


@pytest.mark.parametrize("reason", WRONG)
def test_one_that_does_not_fit_is_a_line_with_the_reason(
    authority: Authority, ledger: Ledger, tmp_path: Path, reason: str
) -> None:
    answer = reply(WRONG[reason](authority))
    Receipts(ledger, "run-1", "cd" * 32).take(node_of(authority, "silo-1"), answer, expected())
    (line,) = noted(ledger, tmp_path)
    assert (line["event"], line["silo"], line["round"]) == ("receipt missing", "silo-1", 2)
    assert line["reason"] == reason
    assert protocol.RECEIPT not in answer.content


def test_where_nobody_signs_a_receipt_is_taken_out_and_not_noted(
    authority: Authority, tmp_path: Path
) -> None:
    with Ledger(tmp_path / "ledger.jsonl", "run-1") as ledger:
        answer = reply(receipt(authority).to_record())
        Receipts(ledger, "run-1", "cd" * 32).take(node_of(authority, "silo-1"), answer, expected())
        assert protocol.RECEIPT not in answer.content
        assert noted(ledger, tmp_path) == []


def test_an_error_needs_no_receipt(authority: Authority, ledger: Ledger, tmp_path: Path) -> None:
    failed = Message(Error(1, "no"), reply_to=Message(RecordDict(), 2, "train"))
    Receipts(ledger, "run-1", "cd" * 32).take(node_of(authority, "silo-1"), failed, expected())
    assert noted(ledger, tmp_path) == []


class Grid(SiloGrid):
    """Silos of which some are away, and one is a stock node; each answers by its function."""

    def __init__(
        self,
        silos: dict[int, str],
        there: list[int],
        own: list[int],
        answer: Callable[[Message], Message],
    ) -> None:
        self.silos, self.there, self.own, self.answer = silos, there, own, answer
        self.sent: dict[str, Message] = {}

    @property
    def run(self) -> Run:
        raise NotImplementedError

    def names(self) -> dict[int, str]:
        return self.silos

    def get_node_ids(self) -> list[int]:
        return self.there

    def is_own(self, node: int) -> bool:
        return node in self.own

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        for message in messages:
            id = str(message.metadata.dst_node_id)
            message.metadata.__dict__["_message_id"] = id
            self.sent[id] = message
            ids.append(id)
        return ids

    def replies(self, message_ids: Iterable[str], timeout: float | None) -> Iterator[Message]:
        for id in list(message_ids):
            yield self.answer(self.sent[id])

    def forget(self, message_ids: Iterable[str]) -> None:
        pass

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return []


def test_at_the_end_those_that_are_there_sign_and_each_other_one_is_named(
    authority: Authority, ledger: Ledger, tmp_path: Path
) -> None:
    silos = {node_of(authority, silo): silo for silo in authority.keys}
    first, second, third = silos

    def answer(message: Message) -> Message:
        config = message.content[protocol.CONFIG]
        assert isinstance(config, ConfigRecord)
        assert (config[MODEL], config[protocol.LEDGER]) == ("ef" * 32, ANCHOR)
        silo = silos[message.metadata.dst_node_id]
        said = receipt(authority, silo, silo=silo, closing=True)
        content = RecordDict({protocol.RECEIPT: said.to_record()})
        return Message(content, reply_to=message)

    grid = Grid(silos, [first, second], [first, third], answer)
    Farewell(grid, Receipts(ledger, "run-1", "cd" * 32))(2, SignedAnchor(ANCHOR), "ef" * 32)
    said = [(line["event"], line["silo"]) for line in noted(ledger, tmp_path)]
    names = sorted([silos[second], silos[third]])
    assert said == [
        ("silo key", silos[first]),
        ("receipt", silos[first]),
        *(("receipt missing", name) for name in names),
    ]
    ledger.run_closed(list(authority.keys))
    closed = next(line for line in noted(ledger, tmp_path) if line["event"] == "run closed")
    assert closed["held"] == {
        silos[first]: {"anchor": ANCHOR, "closing": True, "round": 2},
        silos[second]: None,
        silos[third]: None,
    }
